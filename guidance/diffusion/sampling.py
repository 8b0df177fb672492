"""Sampling: a generator of steps from noise to a picture, by any scheduler of diffusers."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clock import Clock
from guidance.diffusion.denoiser import Denoiser
from guidance.diffusion.noise import Prediction, predicted, prediction_of
from guidance.diffusion.schedulers import prepared, scales_of
from guidance.errors import InputError


@dataclass(frozen=True)
class SampleStep:
    """What happened in one step: its index from 0, the number of all steps, and the latents.

    `x0` is what the denoiser made of the latents at noise `sigma`; `latents` are those after the step, in the
    scheduler's own scale: after the last step, the picture's.
    """

    index: int
    total: int
    sigma: float
    x0: Float[Tensor, "b c h w"]
    latents: Float[Tensor, "b c h w"]


def evaluations(scheduler: Any, steps: int, strength: float = 1.0) -> int:
    """How often `sample` asks the denoiser, which for some schedulers is more often than `steps`.

    Raises InputError as `sample` does.
    """
    scheduler, begin = prepared(scheduler, steps, strength, "cpu")
    return len(scheduler.timesteps) - begin


def sample(
    denoise: Denoiser,
    scheduler: Any,
    noise: Float[Tensor, "b c h w"],
    clock: Clock,
    *,
    steps: int,
    start: Float[Tensor, "#b c h w"] | None = None,
    strength: float = 1.0,
    mask: Float[Tensor, "#b 1 h w"] | None = None,
    seen: Float[Tensor, "n b c h w"] | None = None,
) -> Iterator[SampleStep]:
    """Take latents from noise to a picture, moving `clock.index` from 0 to `clock.steps`, which is set here.

    `noise`: standard normal; that of steps, for schedulers that add some, is drawn from the clock for each
    member by itself. `start` and `strength`: latents to begin with, and the share of the steps that is taken
    from them, in (0, 1]; at 1 nothing of them is left (SDEdit, Meng et al. 2022). `mask`: 1 where to paint;
    elsewhere the latents stay those of `start` (as in Stable Diffusion's inpainting with a plain network).
    `seen`: room for every x0, `evaluations` of them. They are put there, and what it holds before
    `clock.index` is taken from it, not asked for again: the state to go on from, for any scheduler.

    The scheduler is copied; its samples are brought to x0 + sigma * noise and x0 to what it expects. Raises
    InputError for steps and strengths that leave nothing to do, a mask without a start, and a scheduler that
    does not tell its noise.
    """
    if mask is not None and start is None:
        raise InputError("a mask says where a picture stays as it is; give a start as well")
    if strength < 1 and start is None:
        raise InputError(f"strength {strength} keeps a part of the start, and there is none; give a start")
    scheduler, begin = prepared(scheduler, steps, strength, noise.device)
    clock.steps = len(scheduler.timesteps) - begin
    times, scales = scheduler.timesteps[begin:], scales_of(scheduler, begin)
    kind: Prediction = prediction_of(scheduler)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    scale_input = getattr(scheduler, "scale_model_input", None)

    def take() -> Iterator[SampleStep]:
        if start is not None and strength < 1:
            x = scales[0].noised(start, noise)
        else:
            x = noise * getattr(scheduler, "init_noise_sigma", scales[0].spread)
        done, clock.index = clock.index, 0
        for i, (time, scale) in enumerate(zip(times, scales, strict=True)):
            noisy, sigma = x / scale.signal, torch.full((len(x), 1, 1, 1), scale.sigma, device=x.device)
            x0 = seen[i] if seen is not None and i < done else denoise(noisy, scale.sigma)
            streams = [clock.generator("step", member) for member in range(len(x))]
            if scale_input is not None:  # a scheduler warns unless it has scaled what the network saw
                scale_input(x, time)
            x = scheduler.step(
                predicted(kind, x0, noisy, sigma),
                time,
                x,
                return_dict=False,
                **({"generator": streams} if draws else {}),
            )[0]
            if mask is not None and start is not None:
                kept = start if i + 1 == len(times) else scales[i + 1].noised(start, noise)
                x = mask * x + (1 - mask) * kept
            if seen is not None:
                seen[i] = x0.detach()
            clock.index = i + 1
            if i >= done:
                yield SampleStep(i, clock.steps, scale.sigma, x0, x)

    return take()
