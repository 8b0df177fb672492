"""Strokes: the nearest piece to a pixel, and the share of the pixel that it covers."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.model import CAP
from guidance.canvas.raster.triton_kernels.tiles import HALO, PIXELS, TINY, frame, line, span

_CAP = tl.constexpr(CAP)

#: From a pixel that is nearer to the axis of a stroke the axis has no direction.
_ON_AXIS = tl.constexpr(1e-4)

#: Smaller shares are none.
_LEAST = tl.constexpr(1e-6)


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
def shade(x, y, ex, ey, length, radius, more, tips):
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
    squared = radius * radius - _CAP * sine
    blurred = tip & (squared > radius * radius * 0.25)
    shrunk = tl.where(blurred, tl.sqrt(tl.maximum(squared, 1e-12)), tl.where(tip, radius * 0.5, radius))
    far, far_slope = _area(shrunk + distance, wide, narrow)
    close, close_slope = _area(shrunk - distance, wide, narrow)
    by_distance, by_radius = far_slope - close_slope, far_slope + close_slope
    thick = tl.maximum(shrunk, 1e-6)
    bend = tl.where(blurred, -0.5 * _CAP * by_radius / (thick * blunt), 0.0)
    sign = tl.where(along > 0, 1.0, -1.0)
    gx = -by_distance * nx - bend * (sign * ex - sine * nx)
    gy = -by_distance * ny - bend * (sign * ey - sine * ny)
    # The radius of the disc by that of the stroke.
    growth = tl.where(blurred, radius / thick, tl.where(tip, 0.5, 1.0))
    return far + close, where, gx, gy, by_radius * growth


@triton.jit
@no_type_check
def cover_stroke(pieces, tips, listed, begin, end, column, x, y):
    """The shares of pixels with the centres x, y in a column of tiles, and the nearest pieces of those that
    feel one, or -1. The strip's entries are `begin` to `end` of those listed.
    """
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
    tip = tl.load(tips + piece, some, 0)
    share, _, _, _, _ = shade(x - ax, y - ay, ex, ey, span(bx - ax, by - ay), radius, more, tip)
    some = some & (share > _LEAST)
    return tl.where(inside, 1.0, tl.where(some, share, 0.0)), tl.where(some, piece, -1)
