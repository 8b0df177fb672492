"""Ragged groups as flat tensors: the two index computations that the rasteriser is built from."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


def expand(counts: Int[Tensor, "g"]) -> tuple[Int[Tensor, "i"], Int[Tensor, "i"]]:
    """Lists `counts[g]` items for every group g: the group of every item, and its rank in the group."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    group = torch.repeat_interleave(counts, output_size=total)
    return group, torch.arange(total, device=counts.device) - (ends - counts)[group]


class Layers(NamedTuple):
    """Groups of consecutive items laid out by rank: first items of all groups, then all second items, and so
    on.

    The groups stand deepest first, so layer k is a slice, and its groups are the first ones of layer k - 1:
    what runs through every group item by item (a minimum, alpha compositing) is one vector operation a layer.
    """

    order: Int[Tensor, "g"]  # the group in every place
    position: Int[Tensor, "i"]  # of every item, in the layout
    last: Int[Tensor, "g"]  # the position of the last item of the group in every place; -1 if it is empty
    sizes: list[int]

    def steps(self) -> list[tuple[slice, slice]]:
        """For every layer but the first: its slice, and that of the same groups in the layer under it."""
        steps, below = [], 0
        for under, size in zip(self.sizes, self.sizes[1:], strict=False):
            steps.append((slice(below + under, below + under + size), slice(below, below + size)))
            below += under
        return steps


def layers(counts: Int[Tensor, "g"]) -> Layers:
    """The layout for groups of `counts[g]` consecutive items."""
    group, rank = expand(counts)
    order = counts.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    # The layer of rank k has one item of every group that has more than k.
    sizes = torch.bincount(counts).flip(0).cumsum(0).flip(0)[1:]
    starts = sizes.cumsum(0) - sizes
    last = (
        (counts.sum() - 1).expand_as(order) if len(sizes) == 0 else starts[(counts[order] - 1).clamp_min(0)]
    )
    last = torch.where(counts[order] > 0, last + torch.arange(len(order), device=order.device), -1)
    return Layers(order, starts[rank] + place[group], last, sizes.tolist())
