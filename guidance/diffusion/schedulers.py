"""diffusers' schedulers: by name, and what they do not say of themselves, the scale of their samples."""

from copy import deepcopy
from dataclasses import dataclass
from math import isclose
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.diffusion.noise import LEAST_ALPHA
from guidance.errors import InputError, suggest

SchedulerName = Literal["ddim", "pndm", "lms", "euler", "euler-ancestral", "dpm++", "unipc", "flow-matching"]

#: A flow begins with noise alone; so much of the picture in it keeps sigma finite.
_LEAST_SIGNAL = 1e-4


def replace_scheduler(scheduler: Any, name: str) -> Any:
    """A scheduler of another kind for the same noise in training; raises InputError for an unknown name."""
    import diffusers

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "pndm": diffusers.PNDMScheduler,
        "lms": diffusers.LMSDiscreteScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
        "dpm++": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
        "flow-matching": diffusers.FlowMatchEulerDiscreteScheduler,
    }
    if name not in classes:
        raise InputError(
            f"scheduler must be one of {', '.join(classes)}, got {name!r}{suggest(name, list(classes))}"
        )
    known = scheduler.config.get("prediction_type") in ("epsilon", "v_prediction")
    # What a scheduler calls the prediction is between it and `sample`; these two are known to all.
    kind = {} if known or name == "flow-matching" else {"prediction_type": "v_prediction"}
    # As all Stable Diffusions have it: PNDM's Runge-Kutta steps cannot begin in the middle.
    skip = {"skip_prk_steps": True} if name == "pndm" else {}
    return classes[name].from_config(scheduler.config, **kind, **skip)


def prepared(scheduler: Any, steps: int, strength: float, device: torch.device | str) -> tuple[Any, int]:
    """A copy of the scheduler with its times, and the index of the first."""
    name = type(scheduler).__name__
    if not 1 <= steps <= scheduler.config.num_train_timesteps:
        most = scheduler.config.num_train_timesteps
        raise InputError(f"steps must be from 1 to {most} for {name}, got {steps}")
    if not 0 < strength <= 1:
        raise InputError(f"strength must be above 0 and at most 1, got {strength}")
    taken = int(steps * strength)
    if not taken:
        raise InputError(f"strength {strength} leaves none of {steps} steps; take more of either")
    scheduler = deepcopy(scheduler)
    try:
        scheduler.set_timesteps(steps, device=device)
    except (ValueError, IndexError) as error:
        raise InputError(f"{name} cannot take {steps} steps ({error}); take others, or ddim") from error
    if taken < steps and getattr(scheduler, "plms_timesteps", None) is not None:
        if not scheduler.config.skip_prk_steps:
            raise InputError(f"{name} with skip_prk_steps false cannot begin in the middle; take ddim")
        # It takes its second time twice, wherever it begins; diffusers' own list does so at the top only.
        rest = scheduler.timesteps.unique().flip(0)[-taken:]
        scheduler.timesteps = torch.cat([rest[:2], rest[1:]])
        return scheduler, 0
    begin = (steps - taken) * scheduler.order
    if set_begin := getattr(scheduler, "set_begin_index", None):  # others look the time up
        set_begin(begin)
    return scheduler, begin


@dataclass(frozen=True)
class Scale:
    """A scheduler's samples at one time: signal * x0 + spread * noise."""

    signal: float
    spread: float

    @property
    def sigma(self) -> float:
        return self.spread / self.signal

    def noised(
        self, x0: Float[Tensor, "#b c h w"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        return self.signal * x0 + self.spread * noise


def scales_of(scheduler: Any, begin: int) -> list[Scale]:
    """The scale of a scheduler's samples at each of its times from `begin` on.

    diffusers has no name for it: it follows from how a scheduler scales what the network sees.
    """
    times, sigmas = scheduler.timesteps, getattr(scheduler, "sigmas", None)
    alphas, scaled = getattr(scheduler, "alphas_cumprod", None), getattr(scheduler, "scale_model_input", None)
    if sigmas is None and alphas is not None:
        alphas = alphas[times[begin:].cpu()].clamp(min=LEAST_ALPHA)
        return [Scale(a**0.5, (1 - a) ** 0.5) for a in alphas.tolist()]
    if sigmas is not None and len(sigmas) == len(times) + 1:
        sigmas = sigmas[begin : len(times)].tolist()
        if scaled is None or scheduler.config.get("use_flow_sigmas"):
            return [Scale(max(1 - s, _LEAST_SIGNAL), s) for s in sigmas]
        seen = deepcopy(scheduler).scale_model_input(torch.ones(1), times[begin]).item()
        signals = [(1 + s**2) ** -0.5 for s in sigmas]
        if alphas is not None and seen == 1:
            return [Scale(signal, s * signal) for signal, s in zip(signals, sigmas, strict=True)]
        if alphas is not None and isclose(seen, signals[0], rel_tol=1e-4):
            return [Scale(1.0, s) for s in sigmas]
    raise InputError(
        f"{type(scheduler).__name__} does not tell how noisy its samples are; take another, such as ddim"
    )
