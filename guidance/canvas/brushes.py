"""Brushes: what single random strokes cover."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.canvas.raster import rasterize
from guidance.canvas.strokes import Strokes
from guidance.clock import Clock


@torch.no_grad()
def brushes(size: int, clock: Clock, count: int = 1024) -> Float[Tensor, "k {size} {size}"]:
    """What each of `count` random strokes covers of a page of `size` pixels a side, in [0, 1]."""
    strokes = Strokes(1, size, clock, b=count, width=(2, size / 5), width_limits=(1, size)).scene()
    black = replace(strokes, colours=strokes.colours * 0, opacity=strokes.opacity * 0 + 1)
    return (1 - rasterize(black, size)[:, 0]).clamp(0, 1)
