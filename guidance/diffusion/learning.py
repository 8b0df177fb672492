"""Learning what to tell a frozen diffusion model from pictures, by the objective that it was trained with."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clip.pictures import suffixes
from guidance.clock import Clock, Schedule, at
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.noise import predicted
from guidance.diffusion.pipeline import Pipeline
from guidance.errors import InputError
from guidance.media import fitted, read_image
from guidance.optimization import Step


def read_pictures(place: Path, size: int) -> Float[Tensor, "n 3 size size"]:
    """A picture, or all of a folder in the order of their names: their middle squares, on white.

    Raises InputError where there is none, and for one that cannot be read.
    """
    endings = suffixes()
    is_folder = os.path.isdir(place)  # Path's own raises for a name that is too long
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in endings) if is_folder else [place]
    if not paths:
        raise InputError(f"there is no picture in {place}; name another folder")
    return torch.cat([_square(read_image(path), size) for path in paths])


def _square(image: Float[Tensor, "1 3 h w"], size: int) -> Float[Tensor, "1 3 size size"]:
    side = min(image.shape[-2:])
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return fitted(image[..., top : top + side, left : left + side], (size, size))


def denoising_error(
    pipeline: Pipeline,
    condition: Condition,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    sigma: Float64[Tensor, " b"],
) -> Float[Tensor, " b"]:
    """The mean squared error of what the network predicts (noise, v, ...) of latents + sigma * noise.

    The objective of Ho et al. (2020) and Rombach et al. (2022), for each member; no guidance, and a gradient
    to the condition.
    """
    spread = sigma.float()[:, None, None, None]
    x = latents + spread * noise
    # At scale 1 nothing negative is asked for; the empty prompt would be encoded in vain.
    x0 = denoiser(pipeline, condition, condition, scale=1.0)(x, sigma)
    kind = pipeline.trained.kind
    error = predicted(kind, x0, x, spread) - predicted(kind, latents, x, spread)
    return error.square().flatten(1).mean(1)


@final
class Learned(Canvas):
    """Tensors that are learned from pictures, and the picture that a model makes of them.

    `tensors` are what they begin as; `render` makes one picture of the parameters, which have their order.
    `size`: height and width of the picture. `lr`: the learning rate of all. `network`: one that `render` asks
    and that is learned as well, a part of the state, with a learning rate of its own.

    `preview` is the picture as it was last looked at: a part of the state, so that the film of a run that is
    resumed is the same.
    """

    preview: Tensor

    def __init__(
        self,
        tensors: Sequence[Tensor],
        render: Callable[[Sequence[Tensor]], Float[Tensor, "1 3 h w"]],
        size: tuple[int, int],
        *,
        lr: Schedule,
        network: nn.Module | None = None,
        network_lr: Schedule = 0.0,
    ) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(tensor.detach().clone() for tensor in tensors)
        self.render = render
        self.lr = lr
        self.network = network
        self.network_lr = network_lr
        self.register_buffer("preview", torch.ones(1, 3, *size))

    def forward(self) -> Float[Tensor, "1 3 h w"]:
        """The picture, float32 sRGB in [0, 1]."""
        return self.render(list(self.tensors))

    def param_groups(self) -> list[ParamGroup]:
        """Of the tensors, "learned", and of a network, "network"."""
        groups: list[ParamGroup] = [{"name": "learned", "params": list(self.tensors), "lr": self.lr}]
        if self.network is not None:
            weights = list(self.network.parameters())
            groups.append({"name": "network", "params": weights, "lr": self.network_lr})
        return groups


def learn(
    learned: Learned,
    captions: Callable[[torch.Generator, int], Condition],
    pipeline: Pipeline,
    latents: Float[Tensor, "n c h w"],
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    previews: int = 20,
    until: int | None = None,
) -> Iterator[Step]:
    """Lower the denoising error of pictures from step `clock.index` to `clock.steps`, yielding every step.

    `until`: the step to stop before, if not the last one; what requires a gradient is learned.

    `optimizer`: of the parameter groups of `learned`, in their order.
    `latents`: those of the pictures. `captions`: from a random generator and a number to what is said of so
    many pictures, connected to the parameters of `learned`; or one for all. Each step sees `batch` pictures
    under new noise, all drawn from the clock; the amounts of noise are one from each of `batch` equal spans
    of the times that the network was trained at. The image of a step is the last of `previews` looks.

    Raises FloatingPointError when the error or a gradient is not finite; the parameters are then as they were
    after the last good step.
    """
    while clock.index < (clock.steps if until is None else until):
        if clock.index % max(1, clock.steps // previews) == 0:
            with torch.no_grad():
                learned.preview.copy_(learned())
        generator = clock.generator("learn")
        picks = torch.randint(len(latents), (batch,), generator=generator)
        spans = (torch.arange(batch) + torch.rand(batch, generator=generator, dtype=torch.float64)) / batch
        noise = torch.randn(batch, *latents.shape[1:], generator=generator).to(latents)
        condition = captions(generator, batch)
        sigma = pipeline.trained.noise(spans).to(latents.device)
        error = denoising_error(pipeline, condition, latents[picks.to(latents.device)], noise, sigma).mean()
        optimizer.zero_grad()
        error.backward()
        gradients = [parameter.grad for parameter in learned.parameters() if parameter.grad is not None]
        if not torch.stack([g.isfinite().all() for g in gradients]).all() or not error.isfinite():
            raise FloatingPointError(
                f"the error or its gradient is not finite at step {clock.index} of {clock.steps}; a lower "
                "learning rate or float32 precision may help"
            )
        for group, own in zip(optimizer.param_groups, learned.param_groups(), strict=True):
            group["lr"] = at(own["lr"], clock.progress)
        optimizer.step()
        clock.index += 1
        yield Step(clock.index - 1, clock.steps, {"error": error.detach()[None]}, learned.preview.clone())
