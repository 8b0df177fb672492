"""A recipe of the kind a user writes, small enough to be killed and resumed many times in a test."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn

import guidance as g
import guidance.run

guidance.run.CHECKPOINT_SECONDS = 0.05


class Dots(g.VectorCanvas):
    """Five dots an image."""

    def __init__(self, clock: g.Clock, b: int) -> None:
        super().__init__()
        self.size = 33
        self.places = nn.Parameter(clock.uniform("places", b, (5, 2)))
        self.colours = nn.Parameter(clock.uniform("colours", b, (5, 3)))

    def scene(self) -> g.Scene:
        points = self.places.flatten(0, 1).repeat_interleave(4, 0)
        one = torch.ones(self.colours.shape[:2])
        segments = torch.ones(one.numel(), dtype=torch.long)
        return g.Scene(points, segments, 0.2 * one, self.colours.clamp(0, 1), one, torch.zeros(3))

    def param_groups(self) -> list:
        return [
            {"name": "places", "params": [self.places], "lr": g.linear(0.02, 0.0)},
            {"name": "colours", "params": [self.colours], "lr": 0.05},
        ]


def main(
    prompt: str,
    *,
    steps: int = 60,
    seed: int = 0,
    best_of: int = 1,
    pause: float = 0.0,
    stop_at: int = -1,
    output: Path = Path("outputs"),
    resume: Path | None = None,
) -> Path:
    """Move five dots to the middle.

    Args:
        prompt: Names the folder, nothing else.
        pause: Seconds to sleep in a step.
        stop_at: The step that gives a loss which is not a number.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    canvas = Dots(clock, best_of)
    optimizer = g.adam(canvas)

    def near(image: Tensor) -> Tensor:
        time.sleep(pause)
        noise = clock.normal("noise", best_of, image.shape[1:])
        nothing = float("nan") if clock.index == stop_at else 1.0
        return nothing * (canvas.places - 0.5).square().sum((1, 2)) + (image + noise).square().mean((1, 2, 3))

    for _ in run.track(g.optimize(canvas, {"near": near}, clock, optimizer), canvas, optimizer, clock):
        pass
    return run.finish(canvas, scores=-(canvas.places - 0.5).square().sum((1, 2)), size=64)
