"""A run's state in one safetensors file: canvas (or model), optimizer, position.

There is no generator state, since every draw is a function of seed and position (see `Clock`), and no
learning rate, since that is a function of progress (see `optimize`).
"""

from copy import deepcopy
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
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        index, seconds = int(header["index"]), float(header["seconds"])
        states: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part == "module":
                states[rest] = tensor
            else:
                i, key = rest.split(".", 1)
                state.setdefault(int(i), {})[key] = tensor
    except SafetensorError as error:
        raise InputError(f"the checkpoint {path} is broken ({error}); {advice}") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"the checkpoint {path} was not written by a run ({error}); {advice}") from error

    if _shapes(states) != _shapes(module.state_dict()):
        raise InputError(f"the checkpoint {path} does not fit this {type(module).__name__}; {advice}")
    expected = _state_shapes(optimizer)
    fits = all(_shapes(values) == expected.get(i) for i, values in state.items())
    # Nothing is kept before the first step, nor ever by optimizers such as plain SGD.
    complete = bool(state) == (index > 0 and any(expected.values()))
    if not fits or not complete or not 0 <= index <= clock.steps:
        raise InputError(f"the checkpoint {path} does not fit this {type(optimizer).__name__}; {advice}")
    module.load_state_dict(states)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    clock.index = index
    return seconds


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _state_shapes(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Size]]:
    """What an optimizer keeps for every parameter, which only a step of it tells: here one of a copy."""
    twin = deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    twin.step()
    return {
        i: _shapes({name: value for name, value in values.items() if value is not None})
        for i, values in twin.state_dict()["state"].items()
    }
