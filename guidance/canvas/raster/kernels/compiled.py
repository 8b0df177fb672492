"""How kernels are compiled, and what all of them know."""

from typing import Any, no_type_check

import numba
import numpy as np

#: Rows that are drawn at once: few enough that what is kept of them stays in a core's cache, enough that few
#: paths are in several bands.
BAND = 32

#: The columns of `runs`: the path, its fragments (from, to), its spans (from, to), the band.
PATH, FIRST, LAST, FIRST_SPAN, LAST_SPAN, IN_BAND = range(6)

#: Kernels release Python's lock, and are compiled once for all processes.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp"},
}


@numba.njit(**OPTIONS)
@no_type_check
def grow(pixel, share, piece, shape):
    """The fragments' arrays with twice the room."""
    n = len(pixel)
    pixels, shares = np.empty(2 * n, np.int32), np.empty(2 * n, np.float32)
    pieces, shapes = np.empty(2 * n, np.int32), np.empty((2 * n, 4), np.float32)
    pixels[:n], shares[:n], pieces[:n], shapes[:n] = pixel, share, piece, shape
    return pixels, shares, pieces, shapes
