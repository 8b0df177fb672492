"""Score distillation: a diffusion pipeline as a judge of any canvas's picture."""

from collections.abc import Callable
from math import isfinite
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clock import Schedule, at
from guidance.crops import Crops
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.pipeline import Pipeline
from guidance.errors import InputError


def variance(sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 - ᾱ, the noise's part of what the network sees: DreamFusion's and VectorFusion's w(t)."""
    return sigma**2 / (1 + sigma**2)


@final
class DistillationLoss:
    """How far a picture is from what a pipeline makes of it once it is noisy (SDS; Poole et al. 2023,
    equation 3; in a latent space as in VectorFusion, Jain et al. 2023).

    A view's latents z get noise ε of a random time t; the pipeline predicts ε̂ of z + sigma * ε. The gradient
    to z is w(t)(ε̂ - ε) over the number of latents, that through the denoiser left out. The loss is half the
    mean square of w(t)(ε̂ - ε), which changes with t more than with the picture; its own gradient would be
    another. Mean over the views.

    `views`: as many of each picture as it says, at the size of the pipeline's own pictures. `scale`: of
    classifier-free guidance, against `negative` (no words if None). `times`: the range of t, shares of the
    trained times, uniformly drawn; each bound a number or a function of progress, both the same for one t.
    `weight`: w as a function of sigma. Times and noise of member i are those of a single run with seed + i.

    Raises InputError for times out of range, and as `denoiser` does.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        condition: Condition,
        views: Crops,
        *,
        negative: Condition | None = None,
        scale: Schedule = 100.0,
        times: tuple[Schedule, Schedule] = (0.05, 0.95),
        weight: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]] = variance,
    ) -> None:
        self.pipeline = pipeline
        self.views = views
        self.times = times
        self.weight = weight
        for progress in (0.0, 1.0):
            low, high = (at(bound, progress) for bound in times)
            if not (isfinite(low) and 0 < low <= high < 1):
                raise InputError(f"times must be two shares in (0, 1), the smaller first, got {(low, high)}")
        unwanted = None if negative is None else _each(negative, views.k)
        self._denoise = denoiser(pipeline, _each(condition, views.k), unwanted, scale)

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        clock, b, k = self.views.clock, len(image), self.views.k
        views = self.views(image, self.pipeline.size)
        z = self.pipeline.vae.encode(views.flatten(0, 1))
        low, high = (at(bound, clock.progress) for bound in self.times)
        times = low + (high - low) * clock.uniform("distillation/time", b, (k,)).flatten()
        streams = [clock.normal(f"distillation/noise/{view}", b, z.shape[1:]) for view in range(k)]
        noise = torch.stack(streams, 1).flatten(0, 1).to(z)
        sigma = self.pipeline.trained.noise(times).to(z)
        with torch.no_grad():
            spread = sigma[:, None, None, None]
            x0 = self._denoise(z + spread * noise, sigma)
            gradient = self.weight(sigma)[:, None, None, None] * (z - x0) / spread  # is w(t) (ε̂ - ε)
        halves = (z - (z - gradient).detach()).square().mean((1, 2, 3)) / 2
        return halves.unflatten(0, (b, k)).mean(1)


def _each(condition: Condition, k: int) -> Condition:
    """The conditions of k views of each picture, if there is one for each picture."""
    if len(condition.hidden) == 1:
        return condition
    pooled = None if condition.pooled is None else condition.pooled.repeat_interleave(k, 0)
    return Condition(condition.hidden.repeat_interleave(k, 0), pooled)
