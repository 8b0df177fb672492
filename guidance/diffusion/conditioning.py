"""What a denoiser is told of a prompt: embeddings of tokens, to mix, to join, to keep in files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.errors import InputError
from guidance.media import replacing

#: Larger files are refused unread: 77 tokens of SDXL take 631 kB.
_MAX_BYTES = 100_000_000


@dataclass(frozen=True)
class Condition:
    """The rows of the text encoders for b prompts, float32: one a token, `t` of them, `d` numbers each.

    SDXL's two encoders are beside each other along d, and `pooled` is the projected whole of its second;
    None for Stable Diffusion 1 and 2.
    """

    hidden: Float[Tensor, "b t d"]
    pooled: Float[Tensor, "b p"] | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Condition:
        """The same on a device, in a precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Condition(self.hidden.to(device, dtype), pooled)

    def __getitem__(self, members: slice) -> Condition:
        """Those of some of the b prompts."""
        return Condition(self.hidden[members], None if self.pooled is None else self.pooled[members])


def blend(conditions: Sequence[Condition], weights: Sequence[float], *, normalize: bool = True) -> Condition:
    """A weighted sum; the weights are divided by their sum unless `normalize` is off.

    Raises InputError unless there is one finite weight for each, for shapes that differ, and for weights that
    sum to (nearly) zero while they should be divided by it.
    """
    if len(conditions) != len(weights) or not conditions:
        raise InputError(
            f"a blend needs a weight for each prompt, got {len(weights)} for {len(conditions)}; add the rest"
        )
    _check_alike(conditions, (c.hidden.shape for c in conditions))
    total = sum(weights) if normalize else 1.0
    if not (all(map(isfinite, weights)) and abs(total) >= 1e-6):
        raise InputError(
            f"the weights of a blend must be finite and must not sum to zero, got {list(weights)}; change one"
        )
    shares = [weight / total for weight in weights]
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return Condition(_mix([c.hidden for c in conditions], shares), _mix(pooled, shares) if pooled else None)


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """One after the other along the tokens; the pooled whole is the first one's, as in other tools.

    Raises InputError for widths or numbers of prompts that differ.
    """
    _check_alike(conditions, (c.hidden[:, 0].shape for c in conditions))
    return Condition(torch.cat([c.hidden for c in conditions], 1), conditions[0].pooled)


def stack(conditions: Sequence[Condition]) -> Condition:
    """The prompts of several conditions of one shape as one population."""
    _check_alike(conditions, (c.hidden[0].shape for c in conditions))
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return Condition(torch.cat([c.hidden for c in conditions]), torch.cat(pooled) if pooled else None)


def nothing_like(condition: Condition) -> Condition:
    """Zeros of the same shape."""
    pooled = None if condition.pooled is None else torch.zeros_like(condition.pooled)
    return Condition(torch.zeros_like(condition.hidden), pooled)


def save_condition(path: Path | str, condition: Condition) -> None:
    """Write a condition as safetensors (`hidden`, `pooled`), atomically, float32.

    Raises InputError for another ending than .safetensors, and where nothing can be written.
    """
    from safetensors.torch import save

    path = _named(path)
    tensors = {"hidden": condition.hidden}
    if condition.pooled is not None:
        tensors["pooled"] = condition.pooled
    content = save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); name another file") from error


def load_condition(path: Path | str) -> Condition:
    """A condition that `save_condition` wrote, on the CPU.

    Raises InputError when there is no such file, it is larger than 100 MB, broken, or holds other tensors,
    and for numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = _named(path)
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such file")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
        tensors = load(path.read_bytes())
        if not {"hidden"} <= tensors.keys() <= {"hidden", "pooled"}:
            raise ValueError(
                f"its tensors are {', '.join(sorted(tensors)) or 'none'}, and not hidden and pooled"
            )
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise ValueError("some of its numbers are no floating-point numbers")
        hidden, pooled = tensors["hidden"].float(), None
        if "pooled" in tensors:
            pooled = tensors["pooled"].float()
        if hidden.dim() != 3 or 0 in hidden.shape:
            raise ValueError(f"hidden is {_times(hidden.shape)}, and not prompts × tokens × numbers")
        if pooled is not None and (pooled.dim() != 2 or len(pooled) != len(hidden)):
            raise ValueError(f"pooled is {_times(pooled.shape)}, and not {len(hidden)} × numbers")
        if not all(tensor.isfinite().all() for tensor in (hidden, pooled) if tensor is not None):
            raise ValueError("some of its numbers are not finite")
    except KeyError as error:  # safetensors' own, which PyTorch has not
        raise InputError(
            f"cannot read the condition in {path} (numbers of kind {error}); save it again"
        ) from error
    except (OSError, ValueError, MemoryError, SafetensorError) as error:
        raise InputError(f"cannot read the condition in {path} ({error}); save it again") from error
    return Condition(hidden, pooled)


def _mix(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([tensor * share for tensor, share in zip(tensors, shares, strict=True)]).sum(0)


def _check_alike(conditions: Sequence[Condition], shapes: Iterable[torch.Size]) -> None:
    kinds = sorted({_times(shape) for shape in shapes})
    if len(kinds) != 1 or len({c.pooled is None for c in conditions}) != 1:
        raise InputError(
            f"conditions must be alike to be put together, got {' and '.join(kinds) or 'none'}; "
            "make them with the same text encoders (and `match` their lengths)"
        )


def _named(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"a condition's file ends in .safetensors, got {str(path)!r}; rename it")
    return path


def _times(shape: torch.Size) -> str:
    return " × ".join(map(str, shape))
