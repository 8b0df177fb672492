"""How kernels are compiled, and what all of them know."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, no_type_check

import numba
import numpy as np

from guidance.canvas.raster import model

#: Rows that are drawn at once: few enough that what is kept of them stays in a core's cache, enough that few
#: paths are in several bands.
BAND = 32

#: Pixels beside each other that are compared with a piece of a stroke at once.
BLOCK = 16

#: The columns of `runs`: the path, its fragments (from, to), its spans (from, to), the band.
PATH, FIRST, LAST, FIRST_SPAN, LAST_SPAN, IN_BAND = range(6)


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, for functions that only kernels call."""
    return _compiled(function, wrapped=False)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has Numba compile a function when it is first called, and keep the code on disk for later processes.

    A kernel releases Python's lock. The code is kept in a folder of its own for every version of all kernels:
    Numba itself only sees whether the file of the function that was called has changed, not those of what it
    calls. The folder is in `NUMBA_CACHE_DIR`, if that is set, or beside the sources, or in the user's cache;
    where none can be written to, nothing is kept.
    """
    return _compiled(function, wrapped=True)


def _compiled(function: Callable[..., Any], wrapped: bool) -> Callable[..., Any]:
    # What is never called from Python or C needs no wrappers.
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "nsz", "arcp"},
        "no_cpython_wrapper": not wrapped,
        "no_cfunc_wrapper": True,
    }
    given = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(_folder(given))
        return numba.njit(**options, cache=True)(function)
    except RuntimeError:
        # No home, or no folder that Numba can write to: every process compiles for itself.
        return numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = given


def _folder(given: str) -> Path:
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), Path(model.__file__)]
    version = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    if given:
        base = Path(given)
    elif os.access(here, os.W_OK):
        base = here / "__pycache__"
    else:
        base = Path.home() / ".cache" / "guidance"
    return base / f"kernels-{version}"


@inner
@no_type_check
def grow(pixel, share, piece, shape):
    """The fragments' arrays with twice the room."""
    n = len(pixel)
    pixels, shares = np.empty(2 * n, np.int32), np.empty(2 * n, np.float32)
    pieces, shapes = np.empty(2 * n, np.int32), np.empty((4, 2 * n), np.float32)
    # One by one: to compile an assignment to a slice takes seconds, for the sake of its error messages.
    for i in range(n):
        pixels[i], shares[i], pieces[i] = pixel[i], share[i], piece[i]
        for k in range(4):
            shapes[k, i] = shape[k, i]
    return pixels, shares, pieces, shapes
