"""One model trained by all processes of a run: on each whole (DDP) or in parts (FSDP2).

In one process all of this does nothing.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from guidance.distributed import mean_over_ranks_, rank, whole, world

#: "ddp": every rank has the whole model; "fsdp": its part, and of the others' only what it needs at the time.
Sharding = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Parallel:
    """How to call a module so that its gradients are averaged over the ranks, and where they are not yet."""

    call: Callable[..., Any]
    no_sync: Callable[[], AbstractContextManager[None]]


def synchronise_batch_norm_(module: nn.Module, device: torch.device) -> None:
    """Let batch norm inside a module see the batches of all ranks; PyTorch has that on GPUs only."""
    if world() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)


def parallel(module: nn.Module, sharding: Sharding, several: bool) -> Parallel:
    """Make the processes train a module together, which is on its device and the same on every rank.

    `several`: steps have more than one micro-batch.
    """
    if world() == 1:
        return Parallel(module, nullcontext)
    if sharding == "fsdp":
        shard(module)
        # Nobody changes in place what a forward pass returns here.
        warnings.filterwarnings("ignore", message=".* returned a view tensor")

        @contextmanager
        def no_sync() -> Iterator[None]:
            module.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
            module.set_requires_gradient_sync(True)  # type: ignore[operator]

        return Parallel(module, no_sync)
    # Some parameters may be without use: a bias without SigLIP, a pooler of transformers'. A static graph
    # fails when the first step has several micro-batches (an internal assertion, PyTorch 2.15).
    wrapped = DistributedDataParallel(module, static_graph=not several, find_unused_parameters=several)
    return Parallel(wrapped, wrapped.no_sync)


def shard(module: nn.Module) -> None:
    """Spread a module's parameters over the ranks, block by block; single numbers stay whole (FSDP2)."""
    module.to(memory_format=torch.contiguous_format)  # all that FSDP2 takes
    for block in _blocks(module):
        fully_shard(block)
    fully_shard(module, ignored_params={p for p in module.parameters() if p.ndim == 0})


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of towers: members of the outermost lists of two or more modules of one kind."""
    for child in module.children():
        members = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        if len(members) > 1 and len({type(member) for member in members}) == 1:
            yield from members
        else:
            yield from _blocks(child)


@torch.no_grad()
def finish_gradients_(parameters: Iterable[nn.Parameter], most: float) -> Float[Tensor, ""]:
    """Average the gradients that FSDP2 has left alone, and shorten all together to norm `most`.

    Returns the norm before. To be called on every rank once the gradients are complete.
    """
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    spread = [parameter for parameter in learned if isinstance(parameter.grad, DTensor)]
    others = [parameter for parameter in learned if not isinstance(parameter.grad, DTensor)]
    if spread:
        mean_over_ranks_(parameter.grad for parameter in others)
    kinds = [kind for kind in (spread, others) if kind]
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds]
    norm = torch.stack(norms).norm()
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm


def rows_of_rank(n: int) -> slice:
    """This rank's rows of a global batch of which each rank has n."""
    return slice(rank() * n, (rank() + 1) * n)
