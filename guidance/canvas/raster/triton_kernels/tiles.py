"""What all kernels share: tiles, and the tables of pieces."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster import model
from guidance.canvas.raster.model import REACH, STILL, STROKE

#: Pixels a side of a tile.
TILE = tl.constexpr(16)
PIXELS = tl.constexpr(16 * 16)

#: Pieces or vertices a program, in kernels that handle several.
LANES = tl.constexpr(128)

#: What a cell is.
OUTSIDE, EDGE, INSIDE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

STROKED = tl.constexpr(STROKE)
HALO = tl.constexpr(REACH)
LEVEL = tl.constexpr(model.LEVEL)

#: Shorter pieces are points.
TINY = tl.constexpr(STILL)


@triton.jit
@no_type_check
def line(pieces, v, mask):
    """The ends of piece v: ax, ay, bx, by."""
    row = pieces + v * 8
    return (
        tl.load(row, mask, 0.0),
        tl.load(row + 1, mask, 0.0),
        tl.load(row + 2, mask, 0.0),
        tl.load(row + 3, mask, 0.0),
    )


@triton.jit
@no_type_check
def frame(pieces, v, mask):
    """The direction of piece v, the radius at its beginning and how much larger it is at the end."""
    row = pieces + v * 8 + 4
    return (
        tl.load(row, mask, 0.0),
        tl.load(row + 1, mask, 0.0),
        tl.load(row + 2, mask, 0.0),
        tl.load(row + 3, mask, 0.0),
    )


@triton.jit
@no_type_check
def span(x, y):
    """The length of a piece, 0 if it is tiny."""
    length = tl.sqrt(x * x + y * y)
    return tl.where(length > TINY, length, 0.0)


@triton.jit
@no_type_check
def within(ax, ay, bx, by, top, bottom):
    """The x of the two ends of that part of a line which lies between two rows; all of it if it is level."""
    dx, dy = bx - ax, by - ay
    steep = tl.abs(dy) > LEVEL
    divisor = tl.where(steep, dy, 1.0)
    s, e = (top - ay) / divisor, (bottom - ay) / divisor
    t0 = tl.where(steep, tl.minimum(tl.maximum(tl.minimum(s, e), 0.0), 1.0), 0.0)
    t1 = tl.where(steep, tl.minimum(tl.maximum(tl.maximum(s, e), 0.0), 1.0), 1.0)
    return ax + t0 * dx, ax + t1 * dx
