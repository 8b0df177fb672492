"""A differentiable vector rasteriser: exact antialiasing, memory that grows with covered pixels."""

from collections.abc import Sequence
from importlib.util import find_spec
from operator import index
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.canvas.raster.scene import Gradients, Scene, cubics
from guidance.errors import InputError

__all__ = ["MAX_SIZE", "Gradients", "Scene", "backend", "cubics", "rasterize"]

MAX_SIZE = 16384


def rasterize(scene: Scene, size: SupportsIndex | Sequence[SupportsIndex]) -> Float[Tensor, "b channels h w"]:
    """Draws the scenes at `size` pixels a side, or (height, width): float32 sRGB, in [0, 1] where the scene's
    colours are.

    A scene without a background gives four channels: colours times alpha, and alpha, so that
    `image[:, :3] + (1 - image[:, 3:]) * ground` is the picture on any ground.

    Differentiable once, to points, widths, colours, opacity, background and gradients. Curves are drawn as
    polylines that are off by at most 0.1 pixel. Coverage is an area, never a sample. A fill's is exact where
    its edges do not cross within the pixel. A stroke's takes its edges to be straight within the pixel; where
    it crosses itself it is painted once. A stroke thinner than 1.3 pixels is filled as its outline, so that
    branches of it that share a pixel add up. Alpha is coverage times opacity, painted over what is there.
    Where strokes of a radius under 1 pixel fold sharply, gradients of points agree with finite differences of
    the true picture only to a cosine of about 0.9 to 0.99, where elsewhere it is above.

    The device of the scene decides how: compiled kernels (Numba) on CPUs, Triton's on CUDA; plain PyTorch
    where those are not installed, and on other devices. The kernels are compiled when they are first called,
    and kept on disk for later processes.

    Raises `InputError` unless both are whole numbers from 1 to 16384.
    """
    height, width = _sides(size)
    if not (1 <= height <= MAX_SIZE and 1 <= width <= MAX_SIZE):
        raise InputError(f"size must be from 1 to {MAX_SIZE} pixels, got {size}")
    # Imported when they are needed: Numba takes a second, which `guidance --help` has not.
    match backend(scene.points.device):
        case "numba":
            from guidance.canvas.raster import cpu

            return cpu.rasterize(scene, height, width)
        case "triton":
            from guidance.canvas.raster import cuda

            return cuda.rasterize(scene, height, width)
        case _:
            from guidance.canvas.raster import reference

            return reference.rasterize(scene, height, width)


def _sides(size: object) -> tuple[int, int]:
    """The height and the width: whole numbers of any type, such as NumPy's, but not True."""
    sides = size if isinstance(size, tuple | list) else (size, size)
    try:
        if any(isinstance(side, bool) for side in sides):
            raise TypeError
        height, width = map(index, sides)
    except (TypeError, ValueError):
        raise InputError(f"size must be a whole number of pixels or (height, width), got {size!r}") from None
    return height, width


def backend(device: torch.device) -> str:
    """What draws on a device: "numba", "triton", or "torch", which works everywhere."""
    if device.type == "cpu" and find_spec("numba"):
        return "numba"
    if device.type == "cuda" and find_spec("triton"):
        return "triton"
    return "torch"
