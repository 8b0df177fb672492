"""What canvases of paths refuse."""

from guidance.canvas.raster import MAX_SIZE
from guidance.errors import InputError

#: Beyond these a drawing is taken for a mistake; it would not fit into memory.
MAX_PATHS, MAX_MEMBERS = 100_000, 4096


def check_canvas(paths: int, size: int, b: int, background: tuple[float, float, float]) -> None:
    """Raises `InputError` unless a canvas can have so many paths, pixels a side and members."""
    if not 1 <= paths <= MAX_PATHS:
        raise InputError(f"paths must be from 1 to {MAX_PATHS}, got {paths}")
    if not 1 <= size <= MAX_SIZE:
        raise InputError(f"size must be from 1 to {MAX_SIZE} pixels, got {size}")
    if not 1 <= b <= MAX_MEMBERS:
        raise InputError(f"a population has from 1 to {MAX_MEMBERS} members, got {b}")
    if not all(0 <= channel <= 1 for channel in background):
        raise InputError(f"background must be three numbers in [0, 1], got {background}")


def check_range(name: str, value: tuple[float, float], least: float, most: float) -> None:
    """Raises `InputError` unless a range to draw from lies within what there can be."""
    low, high = value
    if not least <= low <= high <= most:
        raise InputError(f"{name} must be (low, high) with {least} ≤ low ≤ high ≤ {most}, got {value}")
