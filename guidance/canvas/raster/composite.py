"""Alpha compositing in painting order, exact forward and backward, for any number of layers a pixel."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from guidance.canvas.raster.ragged import Layers


def paint(
    alpha: Float[Tensor, "e lanes"],
    colour: Float[Tensor, "3 e"],
    background: Float[Tensor, "3"],
    layout: Layers,
) -> Float[Tensor, "3 e lanes"]:
    """The picture after every cell is painted over what is under it; cells are in the layout's positions."""
    after = colour[:, :, None] * alpha
    keep = 1 - alpha
    if layout.sizes:
        lowest = slice(0, layout.sizes[0])
        after[:, lowest] += background[:, None, None] * keep[lowest]
    for here, below in layout.steps():
        after[:, here].addcmul_(keep[here], after[:, below])
    return after


def unpaint(
    gradient: Float[Tensor, "3 g lanes"],
    top: Int[Tensor, "g"],
    after: Float[Tensor, "3 e lanes"],
    alpha: Float[Tensor, "e lanes"],
    colour: Float[Tensor, "3 e"],
    background: Float[Tensor, "3"],
    layout: Layers,
) -> tuple[Float[Tensor, "e lanes"], Float[Tensor, "3 e"], Float[Tensor, "3"]]:
    """The backward of `paint`: the gradients of alpha, colours and background.

    `gradient` is that of the finished tiles, whose last cells are `top`. A cell sees it through all that is
    painted over the cell; its alpha moves the picture from what is under it to its colour. Nothing is divided
    by a transparency, so opaque cells are exact too.
    """
    keep = 1 - alpha
    seen = torch.zeros_like(after)
    seen.index_copy_(1, top, gradient)
    steps = layout.steps()
    for here, below in reversed(steps):
        seen[:, below].addcmul_(keep[here], seen[:, here])
    lowest = background[:, None, None].expand(-1, layout.sizes[0] if layout.sizes else 0, alpha.shape[1])
    under = torch.cat([lowest, *(after[:, below] for _, below in steps)], 1)
    to_alpha = ((colour[:, :, None] - under) * seen).sum(0)
    to_background = (seen[:, : lowest.shape[1]] * keep[: lowest.shape[1]]).sum((1, 2))
    return to_alpha, (seen * alpha).sum(2), to_background
