"""Many processes as one: each has its rank, its rows of the batch, and sees the rows of all.

Everything here also works in a single process, where it costs nothing, so that code is written once.
"""

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from guidance.errors import InputError, ToldElsewhere

#: Numbers the groups that this process joins; every rank joins the same ones.
_groups = itertools.count()


class LostRank(RuntimeError):
    """Some ranks did not take part in a collective operation; the message names them."""


@contextmanager
def process_group(device: torch.device, timeout: float = 600) -> Iterator[torch.device]:
    """Join the processes that torchrun started, for the length of a block; yields this process's device.

    Without torchrun there is nothing to join. `timeout`: seconds that a collective operation waits for the
    slowest rank. When it has waited that long, or a rank has died, LostRank names the ranks that are missing;
    with NCCL, whose operations are asynchronous, it is PyTorch's watchdog that ends the process and names
    them. Raises InputError when torchrun's environment is incomplete or there are too few GPUs.
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise InputError(f"WORLD_SIZE is set but not {', '.join(missing)}; start with torchrun")
    if device.type == "cuda":
        device = _own_gpu()
    patience = timedelta(seconds=timeout)
    store, own, count = next(dist.rendezvous("env://", timeout=patience))
    # A group must not find what an earlier one of this process left in the store.
    store = dist.PrefixStore(f"group {next(_groups)}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=own, world_size=count, timeout=patience)
        yield device
    except InputError:
        # Whoever closes its connections before the others have read why leaves them waiting in vain.
        store.set(f"told {own}", "")
        with suppress(RuntimeError):
            store.wait([f"told {index}" for index in range(count)], timedelta(seconds=min(timeout, 10.0)))
        raise
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, which name the place in its source.
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        store.set(f"noticed {own}", "")
        lost = _lost(store, count, min(timeout, 10.0))
        names = ", ".join(map(str, lost)) or "none: all answered afterwards"
        raise LostRank(
            f"rank {own} of {count} waited for the others in vain, {timeout:g} s at most; missing: {names}"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(rows: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of all ranks in the order of the ranks, differentiable.

    Every rank must give the same shape. The gradient of a rank's rows is the sum of what all ranks' losses
    have to say about them.
    """
    return cast(Tensor, _Gather.apply(rows)) if world() > 1 else rows


@torch.no_grad()
def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@torch.no_grad()
def mean_over_ranks_(tensors: Iterable[Tensor | None]) -> None:
    """Overwrite tensors of one dtype, those that are there, with their means over the ranks, all at once."""
    there = [tensor for tensor in tensors if tensor is not None]
    if world() > 1 and there:
        flat = torch.cat([tensor.flatten() for tensor in there])
        dist.all_reduce(flat)
        flat /= world()
        for tensor, part in zip(there, flat.split([tensor.numel() for tensor in there]), strict=True):
            tensor.copy_(part.view_as(tensor))


def anywhere(flags: list[bool], device: torch.device) -> list[bool]:
    """Which of some flags are set on any rank."""
    return gather(torch.tensor(flags, dtype=torch.uint8, device=device)[None]).bool().any(0).tolist()


@contextmanager
def together() -> Iterator[None]:
    """What a user got wrong on one rank is wrong on all, so that none waits for another in vain.

    At the end of the block each rank raises an InputError if any did: the first of those the one it has, the
    others ToldElsewhere. It also waits there for all.
    """
    own: InputError | None = None
    try:
        yield
    except InputError as error:
        own = error
    if world() > 1:
        messages: list[str | None] = [None] * world()
        dist.all_gather_object(messages, None if own is None else str(own))
        told = [index for index, message in enumerate(messages) if message is not None]
        if told and told[0] != rank():
            raise ToldElsewhere(messages[told[0]])
    if own is not None:
        raise own


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that FSDP has spread over the ranks, of which each must ask; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that FSDP has spread over the ranks; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor that every rank has whole, spread over the ranks as another is, if that is."""
    if not isinstance(other, DTensor):
        return tensor
    whole_here = tensor.to(other.device)
    # No rank sends anything: each takes its part.
    return distribute_tensor(whole_here, other.device_mesh, other.placements, src_data_rank=None)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everything = rows.new_empty(world() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(everything, rows.contiguous())
        return everything

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // world(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def _own_gpu() -> torch.device:
    index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= count:
        raise InputError(f"there are {count} GPUs for more processes; give torchrun --nproc-per-node {count}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _lost(store: dist.Store, count: int, patience: float) -> list[int]:
    """The ranks that do not come to say that they too noticed that something is wrong."""
    until = time.monotonic() + patience
    while True:
        lost = [other for other in range(count) if not store.check([f"noticed {other}"])]
        if not lost or time.monotonic() > until:
            return lost
        time.sleep(0.1)
