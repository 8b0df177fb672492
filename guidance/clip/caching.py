"""Gradients of a batch that does not fit in memory (GradCache, Gao et al. 2021).

A contrastive loss needs the embeddings of the whole batch at once, but not what the encoders keep to compute
gradients. So the batch is encoded in micro-batches without keeping anything, the loss gives the gradient of
every embedding, and each micro-batch is encoded a second time to carry its gradients on. It costs one more
forward pass of the encoders; memory is that of a micro-batch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.errors import InputError

Batch = TypeVar("Batch")


def cached_backward(
    encode: Callable[[Batch], tuple[Tensor, ...]],
    batches: Sequence[Batch],
    loss: Callable[..., Float[Tensor, ""]],
    *,
    seeds: Sequence[int],
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Float[Tensor, ""]:
    """Add the gradients of `loss(*encode(batch))` of all micro-batches together to the parameters' `grad`.

    `encode` returns tensors with a row for each pair of its micro-batch, or numbers that are the same for
    every micro-batch, such as the scale; `loss` gets the rows of all micro-batches, and the numbers. `encode`
    may draw from torch's global generators (dropout, patch dropout, augmentation): both times, micro-batch i
    does so after `seeds[i]`. It may load and augment, so that a micro-batch can be small until then. What it
    changes besides, such as the running means of batch norm, is changed twice.

    With DDP, `encode` calls the wrapped model, gives all that `loss` needs of its parameters, and `no_sync`
    is the model's: gradients are averaged once, in the last micro-batch. Returns the loss without its graph.
    Raises InputError without micro-batches or when there is not a seed for each.
    """
    if not batches or len(batches) != len(seeds):
        raise InputError(f"each micro-batch needs a seed: got {len(batches)} and {len(seeds)} seeds")
    if len(batches) == 1:  # once is enough
        value = loss(*_seeded(encode, batches[0], seeds[0]))
        value.backward()
        return value.detach()
    with torch.no_grad():
        encoded = [_seeded(encode, batch, seed) for batch, seed in zip(batches, seeds, strict=True)]
    leaves = [_leaf(parts) for parts in zip(*encoded, strict=True)]
    value = loss(*leaves)
    value.backward()
    shares = [_shares(leaf, parts) for leaf, parts in zip(leaves, zip(*encoded, strict=True), strict=True)]
    del encoded
    for index, (batch, seed, *gradients) in enumerate(zip(batches, seeds, *shares, strict=True)):
        # DDP takes note of no_sync in the forward pass already.
        with no_sync() if index + 1 < len(batches) else nullcontext():
            _carry_on(_seeded(encode, batch, seed), gradients)
    return value.detach()


def _seeded(encode: Callable[[Batch], tuple[Tensor, ...]], batch: Batch, seed: int) -> tuple[Tensor, ...]:
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        return encode(batch)


def _leaf(parts: tuple[Tensor, ...]) -> Tensor:
    """The rows of all micro-batches, or the number that each has, at the beginning of a new graph."""
    whole = torch.cat(parts) if parts[0].ndim else parts[0].clone()
    return whole.requires_grad_(whole.is_floating_point())


def _shares(leaf: Tensor, parts: tuple[Tensor, ...]) -> Sequence[Tensor | None]:
    """Each micro-batch's rows of a gradient; that of a number goes through the last micro-batch alone."""
    if leaf.grad is None or not leaf.ndim:
        return [None] * (len(parts) - 1) + [leaf.grad]
    return leaf.grad.split([len(part) for part in parts])


def _carry_on(encoded: tuple[Tensor, ...], gradients: Sequence[Tensor | None]) -> None:
    """Backpropagate gradients of what was encoded, except through what a locked tower encoded."""
    pairs = [(e, g) for e, g in zip(encoded, gradients, strict=True) if e.requires_grad and g is not None]
    torch.autograd.backward([e for e, _ in pairs], [g for _, g in pairs])
