"""The CUDA backend's kernels, in Triton: which tiles paths touch, how much of their pixels, and the painting.

The terms: a *piece* is a line of a polyline, and has the number of the vertex that it begins with; a piece
of a fill may be the one that closes its contour. A *tile* is a square of `TILE` pixels, and tiles are counted
through the population's images. A *strip* is where a path crosses a row of tiles, and has the list of the
path's pieces there, by *entries*: a piece, and the first and last column of tiles that it touches; a *cell*
is a tile of a strip. Strips and cells are numbered in painting order. Each cell is outside its path
(dropped), inside it, or on its edge. An *item* is a cell that is kept; items are numbered by tile, those of a
tile in painting order.

Everything is in pixels, and computed once, in one order: no sum depends on which program is first.
"""

from guidance.canvas.raster.triton_kernels.binning import classify, list_entries, survey
from guidance.canvas.raster.triton_kernels.coverage import cover, gather, uncover
from guidance.canvas.raster.triton_kernels.curves import flatten, unflatten
from guidance.canvas.raster.triton_kernels.painting import paint, sum_paints, unpaint
from guidance.canvas.raster.triton_kernels.tiles import LANES, TILE

__all__ = [
    "LANES",
    "TILE",
    "classify",
    "cover",
    "flatten",
    "gather",
    "list_entries",
    "paint",
    "sum_paints",
    "survey",
    "uncover",
    "unflatten",
    "unpaint",
]
