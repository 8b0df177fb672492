"""A run's state in one safetensors file: canvas (or model), optimizer, position.

There is no generator state, since every draw is a function of seed and position (see `Clock`), and no
learning rate, since that is a function of progress (see `optimize`).
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.media import replacing


def save(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock, seconds: float
) -> None:
    """Write the state between two steps, atomically; `seconds` is how long the run has taken so far."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items() if value is not None}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"index": str(clock.index), "seconds": str(seconds)})


def load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> float:
    """Put a saved state into a module and optimizer built as they were, and the clock; returns its `seconds`.

    Raises InputError when the file is broken or was made by a run of another kind.
    """
    advice = "delete it to start this run from its beginning"
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"the checkpoint {path} is broken ({error}); {advice}") from error

    states = {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in states.items()} != expected:
        raise InputError(f"the checkpoint {path} does not fit this {type(module).__name__}; {advice}")
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = tensor
    module.load_state_dict(states)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    clock.index = int(header["index"])
    return float(header["seconds"])
