"""How noisy a picture is, and what a network predicts of it: the four kinds, and the way between them.

Everywhere here x = x0 + sigma * noise (variance exploding; Karras et al. 2022), whatever scale a network or a
scheduler has of its own: sqrt(1 - s²) x0 + s noise (variance preserving), or (1 - s) x0 + s noise (flow).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from guidance.errors import InputError

#: What a network was trained to say of a noisy picture, by diffusers' names: the noise; v (Salimans and Ho
#: 2022); the picture; or noise - picture (flow matching, Lipman et al. 2023).
Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


def prediction_of(scheduler: Any) -> Any:
    """What a scheduler of diffusers takes from a network."""
    # Those of flow matching do not say it, but may have kept what another scheduler's configuration said.
    flows = getattr(scheduler, "scale_model_input", None) is None
    return "flow_prediction" if flows else scheduler.config.get("prediction_type", "epsilon")


def clean(
    kind: Prediction,
    said: Float[Tensor, "b c h w"],
    x: Float[Tensor, "b c h w"],
    sigma: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, "b c h w"]:
    """The picture x0 that a prediction means, at noise sigma."""
    match kind:
        case "epsilon":
            return x - sigma * said
        case "v_prediction":
            return x / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * said
        case "flow_prediction":
            return (x - sigma * said) / (1 + sigma)
        case _:
            return said


def predicted(
    kind: Prediction,
    x0: Float[Tensor, "b c h w"],
    x: Float[Tensor, "b c h w"],
    sigma: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, "b c h w"]:
    """The prediction that means the picture x0: the inverse of `clean`."""
    match kind:
        case "epsilon":
            return (x - x0) / sigma
        case "v_prediction":
            return (x / (1 + sigma**2) - x0) * (1 + sigma**2).sqrt() / sigma
        case "flow_prediction":
            return (x - x0) / sigma - x0
        case _:
            return x0


#: In place of no picture at all (zero terminal SNR, Lin et al. 2024), as in diffusers: sigma is finite.
LEAST_ALPHA = 2**-24


@dataclass(frozen=True)
class Trained:
    """What a network was trained on: its kind of prediction, and its noise, from the least to the most.

    `sigmas[t]` is the noise at time t; None for flow matching, with t / (1000 - t) at time t of 1000.
    """

    kind: Prediction
    sigmas: Float64[Tensor, " T"] | None
    times: int

    @staticmethod
    def of(scheduler: Any) -> "Trained":
        """What the scheduler of a diffusers pipeline tells of it.

        Raises InputError for another kind of prediction, and for noise that does not grow.
        """
        name, kind = type(scheduler).__name__, prediction_of(scheduler)
        if kind not in get_args(Prediction):
            raise InputError(
                f"the {name} says that the network predicts {kind!r}; it must be one of "
                f"{', '.join(get_args(Prediction))}; check its scheduler_config.json"
            )
        if kind == "flow_prediction":
            return Trained(kind, None, scheduler.config.num_train_timesteps)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise InputError(
                f"the {name} does not tell the noise that the network was trained with (alphas_cumprod); "
                "take one made with betas, such as ddim"
            )
        alphas = alphas.double()
        if kind != "epsilon":  # noise says nothing of the picture that it hides wholly; v does
            alphas = alphas.clamp(min=LEAST_ALPHA)
        sigmas = ((1 - alphas) / alphas).sqrt()
        if not sigmas.isfinite().all() or len(sigmas) < 2 or not (sigmas.diff() > 0).all():
            raise InputError(f"the noise of the {name} must grow with time; check the betas of its config")
        return Trained(kind, sigmas, len(sigmas))

    def noise(self, shares: Float[Tensor, " b"] | Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """The noise at shares in [0, 1) of the trained times."""
        if self.sigmas is None:
            return shares.double() / (1 - shares.double())
        return self.sigmas[(shares.cpu() * len(self.sigmas)).long()]

    def limit(self, sigma: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """The nearest noise that was trained with."""
        return sigma if self.sigmas is None else sigma.clamp(max=self.sigmas[-1].item())

    def time(self, sigma: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """The time of a noise, between the trained ones on a straight line, as in diffusers."""
        if self.sigmas is None:
            return self.times * sigma / (1 + sigma)
        sigmas = self.sigmas.to(sigma.device)
        after = torch.searchsorted(sigmas, sigma).clamp(1, len(sigmas) - 1)
        low, high = sigmas[after - 1], sigmas[after]
        return (after - 1 + (sigma - low) / (high - low)).clamp(0, len(sigmas) - 1)
