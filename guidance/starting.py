"""What a canvas starts from: a picture, or what a run has drawn; by itself it starts from noise."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from guidance import checkpoint
from guidance.canvas.base import Canvas
from guidance.clock import Clock
from guidance.media import fitted, read_image
from guidance.optimization import Step, optimize
from guidance.progress import progress


def start_from(canvas: Canvas, path: Path | str, *, steps: int = 150) -> None:
    """Make the canvas what a picture file shows, by `fit`, or what the run in a folder has drawn.

    A run must have had the same kind of canvas with as many paths, pixels and members; then its state is
    taken as it is. Shows the progress of fitting, which takes a step's time without CLIP for each of `steps`.

    Raises InputError when the picture cannot be read, and when the folder holds no run or one of another
    canvas.
    """
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        checkpoint.load_module(Path(path) / checkpoint.STATE, canvas)
    else:
        clock = Clock(steps)
        for _ in progress(_fitting(canvas, read_image(path), clock), clock):
            pass


def fit(canvas: Canvas, image: Float[Tensor, "1 3 h w"], clock: Clock) -> None:
    """Make the canvas look like a picture, by mean squared error in sRGB, in `clock.steps` steps of Adam.

    The picture is stretched to the canvas's size; every member of the population is fitted to it.
    """
    for _ in _fitting(canvas, image, clock):
        pass


def _fitting(canvas: Canvas, image: Float[Tensor, "1 3 h w"], clock: Clock) -> Iterator[Step]:
    with torch.no_grad():
        drawn = canvas()
    target = fitted(image, (drawn.shape[-2], drawn.shape[-1])).to(drawn.device)

    def pixels(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        return (images - target).square().mean((1, 2, 3))

    return optimize(canvas, {"pixels": pixels}, clock)
