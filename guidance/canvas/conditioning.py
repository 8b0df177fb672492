"""What a diffusion model is told, as parameters: between the words lie pictures that no word asks for."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Schedule
from guidance.diffusion.conditioning import Condition
from guidance.errors import InputError


class Conditioning(Canvas):
    """The embeddings of b prompts, rendered by a few steps of a diffusion model, into which gradients flow.

    `condition` is what they begin as: a prompt as its text encoders say it, repeated for b pictures.
    `generate` makes pictures in [0, 1] of it, always the same: `renderer` gives one with bounded memory. It
    is a function, since the weights of a module that is held here would become parameters of the canvas.
    `lr` is the learning rate of the rows, for Adam, which moves every number by about so much a step; those
    of text encoders have about unit variance.

    `radius` keeps every row, and the pooled whole, near its beginning: after every step it is brought back to
    within so many times its beginning's own length. Far from all prompts, where a model was never trained, a
    loss is lowered by pictures of nothing.

    Raises `InputError` for a radius that is not above 0.
    """

    hidden: nn.Parameter
    hidden_start: Tensor
    pooled_start: Tensor

    def __init__(
        self,
        generate: Callable[[Condition], Float[Tensor, "b 3 h w"]],
        condition: Condition,
        *,
        lr: Schedule = 0.02,
        radius: float = 0.5,
    ) -> None:
        super().__init__()
        if isinstance(generate, nn.Module):
            raise InputError("generate must be a function, got a module; give a function that calls it")
        if not radius > 0:
            raise InputError(f"radius must be above 0, got {radius}; inf is no bound")
        self.generate = generate
        self.lr = lr
        self.radius = radius
        self.hidden = nn.Parameter(condition.hidden.detach().clone())
        self.register_buffer("hidden_start", self.hidden.detach().clone(), persistent=False)
        self.pooled: nn.Parameter | None = None
        if condition.pooled is not None:
            self.pooled = nn.Parameter(condition.pooled.detach().clone())
            self.register_buffer("pooled_start", self.pooled.detach().clone(), persistent=False)

    @property
    def condition(self) -> Condition:
        """The embeddings as they are now, connected to the parameters."""
        return Condition(self.hidden, self.pooled)

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The pictures, float32 sRGB in [0, 1]."""
        return self.generate(self.condition)

    def param_groups(self) -> list[ParamGroup]:
        """The groups "hidden" and, for Stable Diffusion XL, "pooled"."""
        groups: list[ParamGroup] = [{"name": "hidden", "params": [self.hidden], "lr": self.lr}]
        if self.pooled is not None:
            groups.append({"name": "pooled", "params": [self.pooled], "lr": self.lr})
        return groups

    @torch.no_grad()
    def project_(self) -> None:
        """Brings rows that have gone too far back to `radius`, in place."""
        _stay_near_(self.hidden, self.hidden_start, self.radius)
        if self.pooled is not None:
            _stay_near_(self.pooled, self.pooled_start, self.radius)


def _stay_near_(rows: Tensor, starts: Tensor, radius: float) -> None:
    moved = rows - starts
    share = moved.norm(dim=-1, keepdim=True) / (radius * starts.norm(dim=-1, keepdim=True))
    # What was just brought back may be beyond by rounding, and stays.
    rows.copy_(torch.where(share > 1 + 1e-3, starts + moved / share, rows))
