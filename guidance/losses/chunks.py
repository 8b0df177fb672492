"""Losses of many views in as many at once as memory holds, with the same value and gradient."""

import warnings
from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.errors import InputError

#: One number for each of some views, which are these rows of all; a view's is its own affair.
ViewLoss = Callable[[Float[Tensor, "n *view"], slice], Float[Tensor, " n"]]


class MemoryWarning(UserWarning):
    """Less is computed at once than before, since memory ran out."""


@final
class Chunks:
    """Evaluates a loss of views, and on the way its gradient to them: nothing of the loss is kept for later.

    So memory runs out here, if it does; the chunk is then halved, for good, and the evaluation repeated, with
    a MemoryWarning. Raises InputError when one view is too much.
    """

    def __init__(self) -> None:
        self._at_once: int | None = None

    def __call__(self, views: Float[Tensor, "n *view"], loss: ViewLoss) -> Float[Tensor, " n"]:
        """The loss of every view, once differentiable to `views` only."""
        return _Eager.apply(views, loss, self)

    def evaluate(
        self, views: Tensor, loss: ViewLoss, differentiable: bool
    ) -> tuple[Float[Tensor, " n"], Tensor]:
        """The loss of every view and its gradient (empty unless wanted)."""
        while True:
            at_once = min(self._at_once or len(views), len(views))
            try:
                return _evaluate(views, loss, differentiable, at_once)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if at_once == 1:
                    raise InputError(
                        "there is no memory for a single view; free some, or take a smaller model"
                    ) from error
            # Outside of the handler, whose error holds on to all that was computed.
            self._at_once = (at_once + 1) // 2
            warnings.warn(
                f"no memory for {at_once} views at once; now {self._at_once} at once, with the same gradient",
                MemoryWarning,
                stacklevel=2,
            )


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, views: Tensor, loss: ViewLoss, chunks: Chunks) -> Tensor:
        values, gradients = chunks.evaluate(views, loss, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradients)
        return values

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("the losses of views have no second derivative")
        (gradients,) = ctx.saved_tensors
        return gradients * outer[0].view(-1, *[1] * (gradients.dim() - 1)), None, None


def _evaluate(views: Tensor, loss: ViewLoss, differentiable: bool, at_once: int) -> tuple[Tensor, Tensor]:
    values, gradients = [], []
    for start in range(0, len(views), at_once):
        rows = slice(start, start + at_once)
        part = views[rows].detach().requires_grad_(differentiable)
        with torch.set_grad_enabled(differentiable):
            value = loss(part, rows)
            if differentiable:
                gradients.append(torch.autograd.grad(value.sum(), part)[0])
        values.append(value.detach())
    return torch.cat(values), torch.cat(gradients) if differentiable else views.new_empty(0)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # For the CPU there is no class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
