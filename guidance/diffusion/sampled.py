"""What a sampling makes, as a canvas: for a run's film, checkpoint and final files."""

from collections.abc import Callable, Iterator, Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.diffusion.sampling import SampleStep
from guidance.optimization import Step

Decode = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b 3 H W"]]


@final
class Sampled(Canvas):
    """The pictures of latents that a sampler improves, not an optimizer: nothing here has a gradient.

    `noise`: what sampling begins with; `steps`: how many it takes (`evaluations`). `seen` holds every x0, so
    that this state is all that a resumed sampling needs.
    """

    def __init__(self, decode: Decode, noise: Float[Tensor, "b c h w"], steps: int) -> None:
        super().__init__()
        self._decode = decode
        self.latents = nn.Parameter(torch.zeros_like(noise), requires_grad=False)
        self.seen: Tensor
        self.register_buffer("seen", noise.new_zeros(steps, *noise.shape))

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        return self._decode(self.latents)

    def param_groups(self) -> list[ParamGroup]:
        return [{"name": "latents", "params": [self.latents], "lr": 0.0}]

    @torch.no_grad()
    def follow(
        self,
        steps: Iterator[SampleStep],
        record: Mapping[str, Float[Tensor, " b"]] | None = None,
        *,
        shown: bool = True,
    ) -> Iterator[Step]:
        """The steps of a sampling as those of a run, with pictures of x0, or white ones unless `shown`.

        Their losses are the noise, "sigma", and what `record` holds after each step (see `guide`).
        """
        white = torch.ones(len(self.latents), 3, 8, 8)
        for step in steps:
            last = step.index + 1 == step.total
            self.latents.copy_(step.latents if last else step.x0)
            sigma = torch.full((len(self.latents),), step.sigma)
            image = self._decode(step.x0) if shown else white
            yield Step(step.index, step.total, {"sigma": sigma, **(record or {})}, image)
