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
    with torch.no_grad():
        encoded = [_seeded(encode, batch, seed) for batch, seed in zip(batches, seeds, strict=True)]
    leaves = [_leaf(parts) for parts in zip(*encoded, strict=True)]
    sizes = [[len(part) if part.ndim else 0 for part in parts] for parts in encoded]
    del encoded
    value = loss(*leaves)
    value.backward()
    ends = [0] * len(leaves)
    for index, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        last = index == len(batches) - 1
        ends = [end + size for end, size in zip(ends, sizes[index], strict=True)]
        # DDP takes note of no_sync in the forward pass already.
        with nullcontext() if last else no_sync():
            outputs, gradients = [], []
            encoded_again = _seeded(encode, batch, seed)
            for output, leaf, end in zip(encoded_again, leaves, ends, strict=True):
                # A locked tower has no gradient to carry on; a number has one, once.
                if output.requires_grad and leaf.grad is not None and (output.ndim or last):
                    outputs.append(output)
                    gradients.append(leaf.grad[end - len(output) : end] if output.ndim else leaf.grad)
            torch.autograd.backward(outputs, gradients)
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
