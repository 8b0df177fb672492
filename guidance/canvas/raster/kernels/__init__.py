"""The CPU backend's inner loops, compiled by Numba: which pixels paths cover, by how much, and the painting.

A kernel handles the rows of every `stride`-th band of `BAND` rows, beginning with band `first`, so that
threads share nothing; in a band it handles path by path, in painting order. Everything is in pixels; pixels
are numbered row by row in their own image, as no number would do for all of a large population's.

What a path covers in a band is a run: fragments, which are pixels with the share that is covered, and spans
of pixels that lie inside. Only fragments feel how the path moves.
"""

from guidance.canvas.raster.kernels.cover import cover, survey, uncover
from guidance.canvas.raster.kernels.curves import flatten, pieces, unflatten
from guidance.canvas.raster.kernels.painting import paint, unpaint
from guidance.canvas.raster.kernels.strokes import COLUMNS, frame

__all__ = [
    "COLUMNS",
    "cover",
    "flatten",
    "frame",
    "paint",
    "pieces",
    "survey",
    "uncover",
    "unflatten",
    "unpaint",
]
