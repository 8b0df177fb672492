"""What canvases of pixels refuse, and the size they have."""

from math import inf

from guidance.canvas.checks import MAX_MEMBERS
from guidance.canvas.raster import MAX_SIZE
from guidance.errors import InputError


def frame(size: int | tuple[int, int], least: int = 2) -> tuple[int, int]:
    """Height and width of a size, which is both or one for a square; raises `InputError` out of range.

    One pixel has no neighbour to be compared with: a picture has at least two each way.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    if not (least <= height <= MAX_SIZE and least <= width <= MAX_SIZE):
        raise InputError(f"size must be from {least} to {MAX_SIZE} pixels, got {size}")
    return height, width


def check_members(b: int) -> None:
    """Raises `InputError` unless a population can have so many members."""
    if not 1 <= b <= MAX_MEMBERS:
        raise InputError(f"a population has from 1 to {MAX_MEMBERS} members, got {b}")


def check_number(name: str, value: float, least: float = 0.0, most: float = inf) -> None:
    """Raises `InputError` unless a number is finite and in its range."""
    if not least <= value <= most or value == inf:
        raise InputError(f"{name} must be a number from {least} to {most}, got {value}")


def check_colour(name: str, colour: tuple[float, float, float]) -> None:
    """Raises `InputError` unless a colour is sRGB in [0, 1]."""
    if len(colour) != 3 or not all(0 <= channel <= 1 for channel in colour):
        raise InputError(f"{name} must be three numbers in [0, 1], got {colour}")
