"""Embeddings in files, one in each: `.npy`, or `.safetensors` with one tensor; the name's ending decides."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from guidance.errors import InputError
from guidance.media import replacing

#: Larger files are refused unread: an embedding takes some kilobytes.
_MAX_BYTES = 1_000_000


def save_embedding(path: Path | str, embedding: Float[Tensor, " d"]) -> None:
    """Write an embedding as float32, atomically, for a prompt like `@fox.npy`.

    Raises InputError for another ending than .npy and .safetensors.
    """
    path = Path(path)
    row = embedding.detach().float().cpu().contiguous()
    safe = _is_safetensors(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if safe:
            file.write(save({"embedding": row}))
        else:
            np.save(file, row.numpy(), allow_pickle=False)


def embedding(given: tuple[float, ...] | Path, d: int) -> Float[Tensor, " {d}"]:
    """A prompt's embedding, float32 on the CPU: plain numbers, or those in a file.

    Raises InputError as `read_embedding` does, and unless there are `d` numbers.
    """
    row = read_embedding(given) if isinstance(given, Path) else torch.tensor(given, dtype=torch.float32)
    if len(row) != d:
        source = f" in {given}" if isinstance(given, Path) else ""
        raise InputError(
            f"an embedding for this model has {d} numbers, got {len(row)}{source}; give one that it made"
        )
    return row


def read_embedding(path: Path | str) -> Float[Tensor, " d"]:
    """The embedding in a file, float32 on the CPU; rows and columns of one are left out.

    Raises InputError when there is no such file, it is larger than a megabyte, broken, holds no tensor of
    real numbers or several, is no single row, or is zero or not finite.
    """
    path = Path(path)
    safe = _is_safetensors(path)
    try:
        if not os.path.isfile(path):  # a device's size is 0
            raise ValueError("there is no such file")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
        if safe:
            tensors = list(load(path.read_bytes()).values())
            if len(tensors) != 1:
                raise ValueError(f"{len(tensors)} tensors in it, and not one")
            tensor = tensors[0]
        else:
            # Mapped, so that a header which promises more than the file holds is an error and no allocation.
            array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        if tensor.is_complex():
            raise ValueError("its numbers are complex")
        row = tensor.float().squeeze()
    # numpy's parser of headers recurses.
    except (OSError, ValueError, TypeError, EOFError, RecursionError, MemoryError, SafetensorError) as error:
        raise InputError(f"cannot read the embedding in {path} ({error}); save it again") from error
    if row.dim() != 1 or not 0 < row.square().sum() < torch.inf:
        got = "×".join(map(str, tensor.shape)) or "one"
        raise InputError(f"{path} must hold one embedding, finite and not zero, got {got} numbers")
    return row


def _is_safetensors(path: Path) -> bool:
    if path.suffix.lower() not in (".npy", ".safetensors"):
        raise InputError(f"an embedding's file ends in .npy or .safetensors, got {str(path)!r}; rename it")
    return path.suffix.lower() == ".safetensors"
