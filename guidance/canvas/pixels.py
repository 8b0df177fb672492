"""Pixels as a pyramid: the coarse ones move first, the fine ones later."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.canvas.grids import check_colour, check_members, check_number, frame
from guidance.clock import Clock
from guidance.errors import InputError


class Pixels(Canvas):
    """A population of b pictures, each a sum of grids that double from level to level (Burt & Adelson 1983).

    `size` is (height, width), or one number for a square. The finest of the `levels` has the picture's size,
    each before it half of that, rounded up, and is enlarged bilinearly. The picture begins with one `colour`,
    sRGB in [0, 1], and on it Gaussian `noise` of this standard deviation in the coarsest level.

    The picture grows from coarse to fine by its learning rates alone: level i has a group "level i" whose
    rate is nearly 0 until progress `growth`·i/(levels - 1), then rises to `lr` (in units of colour a step),
    and all fall to a fifth at the end. So what is drawn never depends on the clock, a picture that is fitted
    keeps its details, and levels = 1 is plain pixels.

    Where the sum leaves [0, 1] it is clamped, with a gradient only for what brings it back (VQGAN-CLIP's
    `clamp_with_grad`). The picture begins as that of the clock's step 0 wherever the clock is. Raises
    `InputError` for numbers out of their ranges.
    """

    levels: nn.ParameterList

    def __init__(
        self,
        size: int | tuple[int, int],
        clock: Clock,
        *,
        b: int = 1,
        levels: int = 6,
        growth: float = 0.6,
        colour: tuple[float, float, float] = (1.0, 1.0, 1.0),
        noise: float = 0.1,
        lr: float = 0.03,
    ) -> None:
        super().__init__()
        height, width = frame(size)
        check_members(b)
        check_colour("colour", colour)
        check_number("growth", growth, most=1)
        check_number("noise", noise)
        check_number("lr", lr, least=1e-6)
        if not 1 <= levels <= 16:
            raise InputError(f"levels must be from 1 to 16, got {levels}")

        self.growth = growth
        self.lr = lr
        cells = [(-(-height >> down), -(-width >> down)) for down in reversed(range(levels))]
        start = replace(clock, index=0).normal("pixels", b, (3, *cells[0]))
        coarsest = torch.tensor(colour)[:, None, None] + noise * start
        self.levels = nn.ParameterList([coarsest, *(torch.zeros(b, 3, *grid) for grid in cells[1:])])

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The pictures, float32 sRGB in [0, 1]."""
        coarsest, *finer = self.levels
        image = coarsest
        for level in finer:
            image = F.interpolate(image, level.shape[2:], mode="bilinear") + level
        return _clamp(image)

    def param_groups(self) -> list[ParamGroup]:
        """A group for each level, coarse ones first."""
        wait = self.growth / max(len(self.levels) - 1, 1)
        return [
            {"name": f"level {i}", "params": [level], "lr": partial(_rate, self.lr, i * wait)}
            for i, level in enumerate(self.levels)
        ]

    @torch.no_grad()
    def project_(self) -> None:
        """Clamps the coarsest level to colours and the others to differences of colours, in place."""
        for i, level in enumerate(self.levels):
            level.clamp_(0 if i == 0 else -1, 1)


def _rate(lr: float, begin: float, progress: float) -> float:
    """The rate of a level that begins to move at progress `begin`, and within a tenth of the run in full."""
    return lr * min(max(10 * (progress - begin), 0.01), 1) * (1 - 0.8 * progress)


class _Clamp(torch.autograd.Function):
    """Clamping to [0, 1]; outside, the gradient is that of the identity where a descent would come back."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, image: Tensor) -> Tensor:
        clamped = image.clamp(0, 1)
        ctx.save_for_backward(image - clamped)
        return clamped

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (excess,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * (gradient * excess >= 0)


def _clamp(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return _Clamp.apply(image)
