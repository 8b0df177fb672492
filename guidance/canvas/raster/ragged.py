"""Ragged groups as flat tensors: the index computations that the rasteriser is built from.

On CPU some operations wake all threads for a handful of numbers, and then wait for the slowest: sqrt, floor
and ceil (of MKL's vector mathematics), repeat_interleave, `x[index]` of more than one dimension. On a busy
machine each took longer (16 ms) than all the rest of a small picture. Here are none.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


def expand(counts: Int[Tensor, "g"]) -> tuple[Int[Tensor, "i"], Int[Tensor, "i"]]:
    """Lists `counts[g]` items for every group g: the group of every item, and its rank in the group."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    # An item belongs to the group whose number is how many groups end before it.
    group = torch.bincount(ends, minlength=total + 1)[:total].cumsum(0)
    return group, torch.arange(total, device=counts.device) - pick(ends - counts, group)


def pick(x: Tensor, index: Int[Tensor, "i"]) -> Tensor:
    """The rows `index` of x: three times as quick as x[index]."""
    return x.index_select(0, index)


def root(x: Tensor) -> Tensor:
    """The square root of numbers that are at least 1e-12."""
    return x * x.rsqrt()


class Layers(NamedTuple):
    """Groups of consecutive items laid out by rank: all first items, then all second items, and so
    on.

    The groups stand deepest first, so layer k is a slice, and its groups are the first ones of layer k - 1:
    what runs through every group item by item (a minimum, alpha compositing) is one vector operation a layer.
    """

    order: Int[Tensor, "g"]  # the group in every place
    position: Int[Tensor, "i"]  # of every item, in the layout
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
    return Layers(order, pick(starts, rank) + pick(place, group), sizes.tolist())
