"""Fills: the exact areas of pixels within polygons, and how they change as the polygons do."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.model import NONZERO
from guidance.canvas.raster.triton_kernels.tiles import LEVEL, PIXELS, line

_NONZERO = tl.constexpr(NONZERO)

#: Smaller shares are none.
_LEAST = tl.constexpr(1e-5)


@triton.jit
@no_type_check
def _right_of(ax, ay, bx, by, column, row):
    """The signed area of pixels that lies right of a line: positive where it goes down."""
    y0, y1 = tl.minimum(tl.maximum(ay, row), row + 1), tl.minimum(tl.maximum(by, row), row + 1)
    dx, dy = bx - ax, by - ay
    divisor = tl.where(tl.abs(dy) > LEVEL, dy, 1.0)
    xa, xb = ax + (y0 - ay) / divisor * dx, ax + (y1 - ay) / divisor * dx
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
def cover_fill(pieces, kind, listed, begin, end, column, x, y):
    """The shares of pixels with the upper left corners x, y in a column of tiles, and their derivatives by
    the signed area. The strip's entries are `begin` to `end` of those listed.
    """
    total = tl.zeros([PIXELS], tl.float32)
    for k in range(begin, end):
        # Pieces left of the tile count for whole rows of it, those right of it do not.
        if tl.load(listed + k * 3 + 1) <= column:
            ax, ay, bx, by = line(pieces, tl.load(listed + k * 3), True)
            total += _right_of(ax, ay, bx, by, x, y)
    share, slope = tl.abs(total), tl.where(total > 0, 1, -1)
    if kind == _NONZERO:
        slope = tl.where(share > 1, 0, slope)
        share = tl.minimum(share, 1.0)
    else:
        share = share - 2 * tl.floor(share * 0.5)
        slope = tl.where(share > 1, -slope, slope)
        share = tl.where(share > 1, 2 - share, share)
    some = share > _LEAST
    return tl.where(some, share, 0.0), tl.where(some, slope, 0)


@triton.jit
@no_type_check
def _crossing(a, d, low):
    """From where to where along it, as parameters, a + t·d lies between low and low + 1."""
    level = tl.abs(d) <= LEVEL
    divisor = tl.where(level, 1.0, d)
    s, e = (low - a) / divisor, (low + 1 - a) / divisor
    always = (low <= a) & (a < low + 1)
    return (
        tl.where(level, tl.where(always, 0.0, 1.0), tl.maximum(tl.minimum(s, e), 0.0)),
        tl.where(level, tl.where(always, 1.0, 0.0), tl.minimum(tl.maximum(s, e), 1.0)),
    )


@triton.jit
@no_type_check
def part_in(ax, ay, bx, by, column, row):
    """From where to where along it, as parameters, a line lies in pixels: nowhere if the end is first."""
    s, e = _crossing(ax, bx - ax, column)
    t, f = _crossing(ay, by - ay, row)
    return tl.maximum(s, t), tl.minimum(e, f)
