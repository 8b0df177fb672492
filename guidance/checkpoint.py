"""A run's state in one safetensors file: canvas (or model), optimizer, position.

There is no generator state, since every draw is a function of seed and position (see `Clock`), and no
learning rate, since that is a function of progress (see `optimize`). In a distributed run every rank must
call these functions; rank 0 writes the file, all read it, and it is the same whatever the number of ranks.
"""

import os
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from guidance.clock import Clock
from guidance.distributed import rank, spread_like, whole
from guidance.errors import InputError
from guidance.media import replacing

#: Where a run's state is in its folder.
STATE = Path("checkpoint", "state.safetensors")


def save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    seconds: float,
    note: str = "",
) -> None:
    """Write the state between two steps, atomically; `seconds` is how long the run has taken so far.

    `note` is anything that shall be read again with `read_note`.
    """
    tensors = _named(module)
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items() if value is not None}
    _write(path, tensors, {"index": str(clock.index), "seconds": str(seconds), "note": note})


def save_module(path: Path, module: nn.Module) -> None:
    """Write the state of a canvas alone, atomically."""
    _write(path, _named(module), {})


def load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock) -> float:
    """Put a saved state into a module and optimizer built as they were, and the clock; returns its `seconds`.

    Raises InputError when the file is broken or was made by a run of another kind.
    """
    advice = "delete it to start this run from its beginning"
    header, states, state = _read(path, advice)
    try:
        index, seconds = int(header["index"]), float(header["seconds"])
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
    _put(module, states)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for i, values in state.items():
        for name, value in values.items():
            if value.shape == parameters[i].shape:  # and not a count of steps
                values[name] = spread_like(value, parameters[i])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    clock.index = index
    return seconds


def read_note(path: Path) -> str:
    """The `note` in a file that `save` wrote."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("note", "")


def load_module(path: Path, module: nn.Module) -> None:
    """Put the state of a canvas alone, from a file that `save` or `save_module` wrote, into one like it.

    Raises InputError when there is no such file, it is broken, or its canvas was another one.
    """
    advice = "start from another run, or from a picture"
    if not path.is_file():
        raise InputError(f"there is no run's state at {path}; {advice}")
    _, states, _ = _read(path, advice)
    own, got = _shapes(module.state_dict()), _shapes(states)
    if own != got:
        name = next(name for name in [*own, *got] if own.get(name) != got.get(name))
        sides = [list(shapes[name]) if name in shapes else "none" for shapes in (got, own)]
        raise InputError(
            f"the state {path} does not fit this {type(module).__name__}, which needs {name} {sides[1]},"
            f" got {sides[0]}; {advice}"
        )
    _put(module, states)


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in module.state_dict().items()}


def _put(module: nn.Module, states: dict[str, Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: spread_like(tensor, own[name]) for name, tensor in states.items()})


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    complete = {name: whole(tensor).detach().cpu().contiguous() for name, tensor in tensors.items()}
    if rank():
        return
    data = to_bytes(complete, header)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # some file systems find only then that they are full


def _read(path: Path, advice: str) -> tuple[dict[str, str], dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """What a file says of itself, a module's state and, by numbers of parameters, an optimizer's."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        states: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part == "module":
                states[rest] = tensor
            else:
                i, key = rest.split(".", 1)
                state.setdefault(int(i), {})[key] = tensor
    except (OSError, SafetensorError) as error:
        raise InputError(f"the checkpoint {path} is broken ({error}); {advice}") from error
    except ValueError as error:
        raise InputError(f"the checkpoint {path} was not written by a run ({error}); {advice}") from error
    return header, states, state


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
