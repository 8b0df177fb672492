"""Which tiles paths touch: pieces, strips with their lists, and what every cell is."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.model import NONZERO
from guidance.canvas.raster.triton_kernels.tiles import (
    EDGE,
    HALO,
    INSIDE,
    LANES,
    OUTSIDE,
    STROKED,
    TILE,
    TINY,
    frame,
    line,
    span,
    within,
)

_NONZERO = tl.constexpr(NONZERO)

#: Cells that are classified at a time.
_CELLS = tl.constexpr(32)

#: From the centre of a tile to the centre of its corner pixel.
_CORNER = tl.constexpr(15 * 0.5**0.5)

#: Pieces this near to a tile touch it: more than the rounding of coordinates on any canvas.
_SLACK = tl.constexpr(0.01)


@triton.jit
@no_type_check
def _direction(vertices, v, mask):
    """From vertex v to the next."""
    row = vertices + v * 3
    ax, ay = tl.load(row, mask, 0.0), tl.load(row + 1, mask, 0.0)
    return tl.load(row + 3, mask, 0.0) - ax, tl.load(row + 4, mask, 0.0) - ay


@triton.jit
@no_type_check
def _moving(vertices, v, step, begin, last, mask):
    """The first piece that has a length, in steps from piece v on; `begin` - 1 or `last` if there is none."""
    looking = mask
    while tl.max(looking.to(tl.int32), 0) > 0:
        looking = looking & (v >= begin) & (v < last)
        x, y = _direction(vertices, v, looking)
        looking = looking & (span(x, y) == 0)
        v = tl.where(looking, v + step, v)
    return v


@triton.jit(do_not_specialize=["m"])
@no_type_check
def survey(
    vertices, contours, ends, closed, owners, kinds, rows, m, pieces, tips, firsts, counts, tops, bottoms,
):  # fmt: skip
    """Tabulates pieces, how many `rows` of tiles they touch, and the first and last row of every path.

    `contours` are those of the m vertices, `owners` the paths of the contours. A row of `pieces` is ax, ay,
    bx, by, the direction, the radius and how much it grows. `tips` says whether an open contour begins (1)
    or ends (2) in the piece. A piece of no length has the direction of the one before, or else after it.
    """
    v = tl.program_id(0) * LANES + tl.arange(0, LANES)
    valid = v < m
    contour = tl.load(contours + v, valid, 0)
    path = tl.load(owners + contour, valid, 0)
    begin = tl.load(ends + contour, valid, 0).to(tl.int32)
    last = tl.load(ends + contour + 1, valid, 0).to(tl.int32) - 1
    stroked = tl.load(kinds + path, valid, 0) == STROKED
    there = valid & ((v < last) | ~stroked)
    w = tl.where(v < last, v + 1, begin)
    ax, ay = tl.load(vertices + v * 3, there, 0.0), tl.load(vertices + v * 3 + 1, there, 0.0)
    bx, by = tl.load(vertices + w * 3, there, 0.0), tl.load(vertices + w * 3 + 1, there, 0.0)
    radius = tl.load(vertices + v * 3 + 2, there, 0.0)
    more = tl.load(vertices + w * 3 + 2, there, 0.0) - radius

    strokes = there & stroked
    i = _moving(vertices, v - 1, -1, begin, last, strokes)
    j = _moving(vertices, v + 1, 1, begin, last, strokes)
    before, after = i >= begin, j < last
    x, y = bx - ax, by - ay
    own = span(x, y) > 0
    other = strokes & ~own & (before | after)
    ox, oy = _direction(vertices, tl.where(before, i, j), other)
    x, y = tl.where(own, x, tl.where(other, ox, 1.0)), tl.where(own, y, tl.where(other, oy, 0.0))
    length = tl.maximum(span(x, y), TINY)
    opened = tl.load(closed + contour, valid, 0) == 0
    tl.store(tips + v, tl.where(opened, tl.where(before, 0, 1) + tl.where(after, 0, 2), 0), valid)

    row = pieces + v * 8
    tl.store(row, ax, valid)
    tl.store(row + 1, ay, valid)
    tl.store(row + 2, bx, valid)
    tl.store(row + 3, by, valid)
    tl.store(row + 4, x / length, valid)
    tl.store(row + 5, y / length, valid)
    tl.store(row + 6, radius, valid)
    tl.store(row + 7, more, valid)

    reach = tl.where(stroked, tl.maximum(radius, radius + more) + HALO, 0.0)
    low = tl.floor((tl.minimum(ay, by) - reach) / TILE)
    high = tl.floor((tl.maximum(ay, by) + reach) / TILE)
    first = tl.minimum(tl.maximum(low, 0.0), rows * 1.0).to(tl.int32)
    final = tl.minimum(tl.maximum(high, -1.0), rows - 1.0).to(tl.int32)
    count = tl.where(there, tl.maximum(final - first + 1, 0), 0)
    tl.store(firsts + v, first, valid)
    tl.store(counts + v, count, valid)
    tl.atomic_min(tops + path, first, mask=count > 0, sem="relaxed")
    tl.atomic_max(bottoms + path, final, mask=count > 0, sem="relaxed")


@triton.jit(do_not_specialize=["m"])
@no_type_check
def list_entries(
    pieces, contours, owners, kinds, firsts, tops, strip_base, entry_base, columns, m,
    strips, entries, lefts, rights, strip_paths, strip_rows,
):  # fmt: skip
    """Lists for every piece its entries, one a row of tiles; and for every strip its path, row and columns.

    `strips` are those of the entries. An entry of a fill may lie in column -1, left of the canvas, or in
    `columns`, right of it. The columns of a strip are `lefts` to `rights`.
    """
    v = tl.program_id(0) * LANES + tl.arange(0, LANES)
    valid = v < m
    base = tl.load(entry_base + v, valid, 0)
    count = tl.load(entry_base + v + 1, valid, 0) - base
    path = tl.load(owners + tl.load(contours + v, valid, 0), valid, 0)
    stroked = tl.load(kinds + path, valid, 0) == STROKED
    first = tl.load(firsts + v, valid, 0)
    strip_of_first = tl.load(strip_base + path, valid, 0) + first - tl.load(tops + path, valid, 0)
    ax, ay, bx, by = line(pieces, v, valid)
    _, _, radius, more = frame(pieces, v, valid)
    reach = tl.where(stroked, tl.maximum(radius, radius + more) + HALO, 0.0)
    for r in range(0, tl.max(count, 0)):
        here = r < count
        top = ((first + r) * TILE).to(tl.float32)
        xa, xb = within(ax, ay, bx, by, top - reach, top + TILE + reach)
        low = tl.floor((tl.minimum(xa, xb) - reach - _SLACK) / TILE)
        high = tl.floor((tl.maximum(xa, xb) + reach + _SLACK) / TILE)
        low = tl.minimum(tl.maximum(low, -1.0), columns * 1.0).to(tl.int32)
        high = tl.minimum(tl.maximum(high, -1.0), columns * 1.0).to(tl.int32)
        # What of a stroke is not on the canvas does not matter.
        gone = stroked & ((high < 0) | (low >= columns))
        low, high = tl.where(gone, columns, low), tl.where(gone, -1, high)
        strip = strip_of_first + r
        tl.store(strips + base + r, strip, here)
        row = entries + (base + r) * 3
        tl.store(row, v, here)
        tl.store(row + 1, low, here)
        tl.store(row + 2, high, here)
        tl.store(strip_paths + strip, path, here)
        tl.store(strip_rows + strip, first + r, here)
        tl.atomic_min(lefts + strip, tl.maximum(low, 0), mask=here, sem="relaxed")
        tl.atomic_max(rights + strip, tl.minimum(high, columns - 1), mask=here, sem="relaxed")


@triton.jit
@no_type_check
def classify(
    pieces, kinds, listed, list_base, strip_paths, strip_rows, lefts, cell_base, per_member, rows, columns,
    nowhere, tiles, states, cell_strips,
):  # fmt: skip
    """For the cells of one strip: tile, state and strip. Those outside get the tile `nowhere`.

    `listed` are the entries of the strips, one after another. An image has `per_member` paths.
    """
    strip = tl.program_id(0)
    path, row = tl.load(strip_paths + strip), tl.load(strip_rows + strip)
    kind = tl.load(kinds + path)
    begin, end = tl.load(list_base + strip), tl.load(list_base + strip + 1)
    left, first, last = tl.load(lefts + strip), tl.load(cell_base + strip), tl.load(cell_base + strip + 1)
    top = (row * TILE).to(tl.float32)
    first_tile = (path // per_member * rows + row) * columns
    for start in range(first, last, _CELLS):
        cell = start + tl.arange(0, _CELLS)
        column = left + cell - first
        centre = (column * TILE).to(tl.float32) + 0.5 * TILE
        touched = tl.zeros([_CELLS], tl.int1)
        inside = tl.zeros([_CELLS], tl.int1)
        winding = tl.zeros([_CELLS], tl.float32)
        for k in range(begin, end):
            v = tl.load(listed + k * 3)
            low, high = tl.load(listed + k * 3 + 1), tl.load(listed + k * 3 + 2)
            touched = touched | ((column >= low) & (column <= high))
            ax, ay, bx, by = line(pieces, v, True)
            if kind == STROKED:
                ex, ey, radius, more = frame(pieces, v, True)
                x, y = centre - ax, top + 0.5 * TILE - ay
                u = tl.minimum(tl.maximum(x * ex + y * ey, 0.0), span(bx - ax, by - ay))
                x, y = x - u * ex, y - u * ey
                depth = tl.maximum(tl.minimum(radius, radius + more) - HALO - _CORNER, 0.0)
                inside = inside | (x * x + y * y < depth * depth)
            else:
                y0 = tl.minimum(tl.maximum(ay, top), top + TILE)
                y1 = tl.minimum(tl.maximum(by, top), top + TILE)
                winding += tl.where(high < column, (y1 - y0) / TILE, 0.0)
        if kind != STROKED:
            # No piece runs through a cell that none touches: it is inside or outside as a whole.
            turns = tl.floor(tl.abs(winding) + 0.5).to(tl.int32)
            inside = ~touched & tl.where(kind == _NONZERO, turns > 0, turns % 2 == 1)
        state = tl.where(inside, INSIDE, tl.where(touched, EDGE, OUTSIDE))
        valid = cell < last
        tl.store(tiles + cell, tl.where(state == OUTSIDE, nowhere, first_tile + column), valid)
        tl.store(states + cell, state, valid)
        tl.store(cell_strips + cell, strip, valid)
