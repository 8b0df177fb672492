"""A change of styles at any strength: what all three ways of editing give."""

from collections.abc import Callable, Iterator, Mapping
from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock, Schedule
from guidance.generator.stylegan2 import Generator, Styles
from guidance.optimization import Loss, Step


def styleclip_rate(peak: float) -> Callable[[float], float]:
    """StyleCLIP's learning rate: up to `peak` in the first 5 %, down like a cosine in the last 25 %."""
    return lambda p: peak * min(1, p / 0.05) * (1 - cos(pi * min(1, (1 - p) / 0.25))) / 2


def difference(after: Styles, before: Styles) -> Styles:
    """What must be added to styles to become others."""
    return [a - b for a, b in zip(after, before, strict=True)]


class Moved(Canvas):
    """Images of styles that are moved by `change`, times a strength for each member of the population.

    Styles are those of b latents, the change is one for all or one for each; the strength begins at 1. As W+
    becomes styles by linear layers, a straight way in W+ is one in styles as well.
    """

    def __init__(self, generator: Generator, styles: Styles, change: Styles) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.ones(len(styles[0]), device=styles[0].device))
        self._synthesize = generator.synthesize
        self._pairs = [(s.detach(), c.detach()) for s, c in zip(styles, change, strict=True)]

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The images, float32 sRGB in [0, 1]."""
        return self._synthesize([style + self.strength[:, None] * change for style, change in self._pairs])

    def param_groups(self) -> list[ParamGroup]:
        """One group, "strength"."""
        return [{"name": "strength", "params": [self.strength], "lr": 0.01}]


def sweep(
    canvas: Moved, strength: float, losses: Mapping[str, tuple[Schedule, Loss]], clock: Clock
) -> Iterator[Step]:
    """Steps in which nothing is learned: the strength goes up from 0 to `strength`, which it has at the end.

    Losses are as `optimize` takes them; they are only looked at.
    """
    while clock.index < clock.steps:
        with torch.no_grad():
            canvas.strength.fill_(strength * clock.progress)
            image = canvas()
            seen = {name: loss(image) for name, (_, loss) in losses.items()}
            clock.index += 1
            canvas.strength.fill_(strength * clock.progress)
        yield Step(clock.index - 1, clock.steps, seen, image)


@torch.no_grad()
def strip(
    generator: Generator, styles: Styles, change: Styles, strength: float, count: int = 5
) -> Float[Tensor, "1 3 h w"]:
    """One latent's images side by side, at `count` strengths from 0 to `strength`."""
    strengths = torch.linspace(0, strength, count, device=styles[0].device)[:, None]
    images = generator.synthesize([s + strengths * c for s, c in zip(styles, change, strict=True)])
    return torch.cat(list(images), dim=-1)[None]
