"""By how much paths cover the pixels of a cell, and how that changes as their pieces move."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.model import CAP
from guidance.canvas.raster.polylines import NONZERO
from guidance.canvas.raster.triton_kernels.tiles import (
    HALO,
    INSIDE,
    LANES,
    PIXELS,
    STROKED,
    TILE,
    TINY,
    frame,
    line,
    span,
)

_CAP = tl.constexpr(CAP)
_NONZERO = tl.constexpr(NONZERO)

#: From a pixel that is nearer to the axis of a stroke the axis has no direction.
_ON_AXIS = tl.constexpr(1e-4)

#: Smaller shares are none.
_LEAST_STROKED, _LEAST_FILLED = tl.constexpr(1e-6), tl.constexpr(1e-5)


@triton.jit
@no_type_check
def _foot(x, y, ex, ey, length, more):
    """How far along a piece the centre of that disc is which is nearest to pixels at x, y from its beginning.

    Also how far along the foot of the perpendicular is: if the radius grows, that is another point.
    """
    slope = tl.minimum(tl.maximum(more / tl.maximum(length, TINY), -0.999), 0.999)
    shift = slope / tl.sqrt(1 - slope * slope)
    along, cross = x * ex + y * ey, tl.abs(y * ex - x * ey)
    return tl.minimum(tl.maximum(along + cross * shift, 0.0), length), along


@triton.jit
@no_type_check
def _area(z, wide, narrow):
    """A pixel seen along a direction is a trapezoid: its area within z, less half, and the derivative."""
    half, flat = (wide + narrow) * 0.5, (wide - narrow) * 0.5
    z = tl.minimum(tl.maximum(z, -half), half)
    corner = tl.maximum(tl.abs(z) - flat, 0.0) / narrow
    bent = corner * corner * narrow * 0.5
    return tl.where(z > 0, z - bent, z + bent) / wide, (1 - corner) / wide


@triton.jit
@no_type_check
def _shade(x, y, ex, ey, length, radius, more, tips):
    """What a stroke covers of pixels at x, y from the beginning of the nearest piece.

    Also where on the piece the nearest point is, from 0 to 1, and the derivatives by that point's x and y and
    by the radius there.
    """
    u, foot = _foot(x, y, ex, ey, length, more)
    where = tl.where(length > 0, u / tl.maximum(length, TINY), tl.where(more > 0, 1.0, 0.0))
    radius = radius + where * more
    x, y = x - u * ex, y - u * ey
    cross = y * ex - x * ey
    between = (u > 0) & (u < length) & (u == foot)
    distance = tl.where(between, tl.abs(cross), tl.sqrt(x * x + y * y))
    side = tl.where(between & (cross <= 0), -1.0, 1.0)
    away = ~between & (distance > _ON_AXIS)
    divisor = tl.where(away, distance, 1.0)
    nx, ny = tl.where(away, x / divisor, -ey * side), tl.where(away, y / divisor, ex * side)
    wide = tl.maximum(tl.abs(nx), tl.abs(ny))
    narrow = tl.maximum(tl.minimum(tl.abs(nx), tl.abs(ny)), 1e-4)

    tip = ((u <= 0) & (tips % 2 == 1)) | ((u >= length) & (tips >= 2))
    along, blunt = x * ex + y * ey, distance + 0.1
    sine = tl.abs(along) / blunt
    squared = tl.maximum(radius * radius - _CAP * sine, radius * radius * 0.25)
    shrunk = tl.where(tip, tl.sqrt(squared), radius)
    far, far_slope = _area(shrunk + distance, wide, narrow)
    close, close_slope = _area(shrunk - distance, wide, narrow)
    by_distance, by_radius = far_slope - close_slope, far_slope + close_slope
    thick = tl.maximum(shrunk, 1e-6)
    bend = tl.where(tip, -0.5 * _CAP * by_radius / (thick * blunt), 0.0)
    sign = tl.where(along > 0, 1.0, -1.0)
    gx = -by_distance * nx - bend * (sign * ex - sine * nx)
    gy = -by_distance * ny - bend * (sign * ey - sine * ny)
    return far + close, where, gx, gy, tl.where(tip, by_radius * radius / thick, by_radius)


@triton.jit
@no_type_check
def _right_of(ax, ay, bx, by, column, row):
    """The signed area of pixels that lies right of a line: positive where it goes down."""
    y0, y1 = tl.minimum(tl.maximum(ay, row), row + 1), tl.minimum(tl.maximum(by, row), row + 1)
    dy = by - ay
    slope = (bx - ax) / tl.where(dy == 0, 1.0, dy)
    xa, xb = ax + (y0 - ay) * slope, ax + (y1 - ay) * slope
    left, right = tl.minimum(xa, xb), tl.maximum(xa, xb)
    # The part of the line left of the pixel, and that in it.
    begin = tl.minimum(tl.maximum(left, column), column + 1)
    end = tl.minimum(tl.maximum(right, column), column + 1)
    sloped = right > left
    width = tl.where(sloped, right - left, 1.0)
    beside = tl.where(sloped, (tl.minimum(right, tl.maximum(column, left)) - left) / width, 0.0)
    middle = (begin + end) * 0.5 - column
    return (y1 - y0) * (beside + tl.where(sloped, (end - begin) / width, 1.0) * (1 - middle))


@triton.jit
@no_type_check
def cover(
    pieces, tips, kinds, listed, list_base, strip_paths, states, cell_strips, order, tiles, rows, columns,
    shares, marks, items, item_paths,
):  # fmt: skip
    """The shares of the pixels of one item, and what they must remember for the way back, their marks.

    The mark of a pixel is the nearest piece of a stroke, or -1 if it does not feel any; or the derivative of
    a fill's share by the area. `order` and `tiles` are the cells and tiles of the items, `items` becomes the
    inverse of `order`, and `item_paths` the paths.
    """
    i = tl.program_id(0)
    cell = tl.load(order + i)
    strip = tl.load(cell_strips + cell)
    path = tl.load(strip_paths + strip)
    tl.store(items + cell, i)
    tl.store(item_paths + i, path)
    p = tl.arange(0, PIXELS)
    target = i.to(tl.int64) * PIXELS + p
    if tl.load(states + cell) == INSIDE:
        tl.store(shares + target, tl.full([PIXELS], 1.0, tl.float32))
        tl.store(marks + target, tl.full([PIXELS], -1, tl.int32))
    else:
        tile = tl.load(tiles + i)
        column = tile % columns
        left, top = (column * TILE).to(tl.float32), (tile // columns % rows * TILE).to(tl.float32)
        x, y = left + (p % TILE).to(tl.float32), top + (p // TILE).to(tl.float32)
        kind = tl.load(kinds + path)
        begin, end = tl.load(list_base + strip), tl.load(list_base + strip + 1)
        if kind == STROKED:
            x, y = x + 0.5, y + 0.5
            nearest = tl.full([PIXELS], float("inf"), tl.float32)
            piece = tl.full([PIXELS], -1, tl.int32)
            inside = tl.zeros([PIXELS], tl.int1)
            for k in range(begin, end):
                low, high = tl.load(listed + k * 3 + 1), tl.load(listed + k * 3 + 2)
                if (low <= column) & (column <= high):
                    v = tl.load(listed + k * 3)
                    ax, ay, bx, by = line(pieces, v, True)
                    ex, ey, radius, more = frame(pieces, v, True)
                    length = span(bx - ax, by - ay)
                    u, _ = _foot(x - ax, y - ay, ex, ey, length, more)
                    dx, dy = x - ax - u * ex, y - ay - u * ey
                    d = tl.sqrt(dx * dx + dy * dy)
                    inside = inside | (d <= tl.minimum(radius, radius + more) - HALO)
                    # Discs do not grow evenly along a piece of no length.
                    grown = tl.where(length > 0, more * u / tl.maximum(length, TINY), tl.maximum(more, 0.0))
                    d = d - radius - grown
                    closer = d < nearest
                    nearest, piece = tl.where(closer, d, nearest), tl.where(closer, v, piece)
            some = (piece >= 0) & ~inside
            ax, ay, bx, by = line(pieces, piece, some)
            ex, ey, radius, more = frame(pieces, piece, some)
            length = span(bx - ax, by - ay)
            tip = tl.load(tips + piece, some, 0)
            covered, _, _, _, _ = _shade(x - ax, y - ay, ex, ey, length, radius, more, tip)
            some = some & (covered > _LEAST_STROKED)
            tl.store(shares + target, tl.where(inside, 1.0, tl.where(some, covered, 0.0)))
            tl.store(marks + target, tl.where(some, piece, -1))
        else:
            total = tl.zeros([PIXELS], tl.float32)
            for k in range(begin, end):
                if tl.load(listed + k * 3 + 1) <= column:
                    ax, ay, bx, by = line(pieces, tl.load(listed + k * 3), True)
                    total += _right_of(ax, ay, bx, by, x, y)
            covered, slope = tl.abs(total), tl.where(total > 0, 1, -1)
            if kind == _NONZERO:
                slope = tl.where(covered > 1, 0, slope)
                covered = tl.minimum(covered, 1.0)
            else:
                covered = covered - 2 * tl.floor(covered * 0.5)
                slope = tl.where(covered > 1, -slope, slope)
                covered = tl.where(covered > 1, 2 - covered, covered)
            some = covered > _LEAST_FILLED
            tl.store(shares + target, tl.where(some, covered, 0.0))
            tl.store(marks + target, tl.where(some, slope, 0))


@triton.jit
@no_type_check
def uncover(
    pieces, tips, kinds, strips, entries, strip_paths, strip_rows, lefts, rights, cell_base, items,
    marks, to_shares, to_entries,
):  # fmt: skip
    """The backward of `cover` for one entry: the gradients of its piece's beginning and end, x, y and radius.

    The cells of its columns are visited one after another, so that the sum has one order.
    """
    entry = tl.program_id(0)
    strip = tl.load(strips + entry)
    v, low, high = (
        tl.load(entries + entry * 3),
        tl.load(entries + entry * 3 + 1),
        tl.load(entries + entry * 3 + 2),
    )
    left = tl.load(lefts + strip)
    low, high = tl.maximum(low, left), tl.minimum(high, tl.load(rights + strip))
    stroked = tl.load(kinds + tl.load(strip_paths + strip)) == STROKED
    cells = tl.load(cell_base + strip) - left
    ax, ay, bx, by = line(pieces, v, True)
    ex, ey, radius, more = frame(pieces, v, True)
    length = span(bx - ax, by - ay)
    tip = tl.load(tips + v)
    p = tl.arange(0, PIXELS)
    x0, y0 = (p % TILE).to(tl.float32), (tl.load(strip_rows + strip) * TILE + p // TILE).to(tl.float32)
    # For both ends x, y and radius; of a fill, which feels what the line sweeps, only the first.
    a0 = tl.zeros([PIXELS], tl.float32)
    a1, a2, b0, b1, b2 = a0, a0, a0, a0, a0
    for column in range(low, high + 1):
        source = tl.load(items + cells + column).to(tl.int64) * PIXELS + p
        mark, g = tl.load(marks + source), tl.load(to_shares + source)
        x = x0 + column * TILE
        if stroked:
            _, u, gx, gy, gr = _shade(x + 0.5 - ax, y0 + 0.5 - ay, ex, ey, length, radius, more, tip)
            g = tl.where(mark == v, g, 0.0)
            a0, a1, a2 = a0 + g * (1 - u) * gx, a1 + g * (1 - u) * gy, a2 + g * (1 - u) * gr
            b0, b1, b2 = b0 + g * u * gx, b1 + g * u * gy, b2 + g * u * gr
        else:
            s, e = _inside(ax, ay, bx, by, x, y0)
            g *= mark.to(tl.float32) * tl.maximum(e - s, 0.0)
            u = (s + e) * 0.5
            a0, b0 = a0 + (1 - u) * g, b0 + u * g
    row = to_entries + entry * 6
    if stroked:
        tl.store(row, tl.sum(a0, 0))
        tl.store(row + 1, tl.sum(a1, 0))
        tl.store(row + 2, tl.sum(a2, 0))
        tl.store(row + 3, tl.sum(b0, 0))
        tl.store(row + 4, tl.sum(b1, 0))
        tl.store(row + 5, tl.sum(b2, 0))
    else:
        # When a line moves, the pixels that it runs through lose or gain what it sweeps.
        a, b = tl.sum(a0, 0), tl.sum(b0, 0)
        tl.store(row, -a * (by - ay))
        tl.store(row + 1, a * (bx - ax))
        tl.store(row + 2, 0.0)
        tl.store(row + 3, -b * (by - ay))
        tl.store(row + 4, b * (bx - ax))
        tl.store(row + 5, 0.0)


@triton.jit
@no_type_check
def _crossing(a, d, low):
    """From where to where along it, as parameters, a + t·d lies between low and low + 1."""
    divisor = tl.where(d == 0, 1.0, d)
    s, e = (low - a) / divisor, (low + 1 - a) / divisor
    s, e = tl.minimum(s, e), tl.maximum(s, e)
    always = (low <= a) & (a < low + 1)
    return (
        tl.where(d == 0, tl.where(always, 0.0, 1.0), tl.maximum(s, 0.0)),
        tl.where(d == 0, tl.where(always, 1.0, 0.0), tl.minimum(e, 1.0)),
    )


@triton.jit
@no_type_check
def _inside(ax, ay, bx, by, column, row):
    """From where to where along it, as parameters, a line lies in pixels: nowhere if the end is first."""
    s, e = _crossing(ax, bx - ax, column)
    t, f = _crossing(ay, by - ay, row)
    return tl.maximum(s, t), tl.minimum(e, f)


@triton.jit(do_not_specialize=["m"])
@no_type_check
def gather(entry_base, contours, ends, to_entries, m, to_vertices):
    """The gradient of every vertex: the sum over the entries of the pieces that begin and that end in it."""
    v = tl.program_id(0) * LANES + tl.arange(0, LANES)
    valid = v < m
    contour = tl.load(contours + v, valid, 0)
    begin, end = tl.load(ends + contour, valid, 0), tl.load(ends + contour + 1, valid, 0)
    before = tl.where(v > begin, v - 1, end - 1)
    x = tl.zeros([LANES], tl.float32)
    y, r = x, x
    for side in tl.static_range(2):
        piece = v if side == 0 else before
        first = tl.load(entry_base + piece, valid, 0)
        count = tl.load(entry_base + piece + 1, valid, 0) - first
        for k in range(0, tl.max(count, 0)):
            row = to_entries + (first + k) * 6 + side * 3
            x += tl.load(row, k < count, 0.0)
            y += tl.load(row + 1, k < count, 0.0)
            r += tl.load(row + 2, k < count, 0.0)
    tl.store(to_vertices + v * 3, x, valid)
    tl.store(to_vertices + v * 3 + 1, y, valid)
    tl.store(to_vertices + v * 3 + 2, r, valid)
