"""A differentiable vector rasteriser: analytic antialiasing, and memory that grows with the covered pixels."""

from jaxtyping import Float
from torch import Tensor

from guidance.canvas.raster import cpu
from guidance.canvas.raster.scene import Gradients, Scene, cubics
from guidance.errors import InputError

__all__ = ["MAX_SIZE", "Gradients", "Scene", "cubics", "rasterize"]

MAX_SIZE = 16384


def rasterize(scene: Scene, size: int | tuple[int, int]) -> Float[Tensor, "b channels h w"]:
    """Draws the scenes at `size` pixels a side, or (height, width): float32 sRGB, in [0, 1] where the scene's
    colours are.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= MAX_SIZE and 1 <= width <= MAX_SIZE):
        raise InputError(f"size must be from 1 to {MAX_SIZE} pixels, got {size}")
    return cpu.rasterize(scene, height, width)
