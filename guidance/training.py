"""A training's folder: settings, metrics, a checkpoint; the same command goes on where it was stopped."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidance import checkpoint
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.folder import check_writable
from guidance.media import write_text

#: A training that is killed loses about this much, or a window if that takes longer.
SAVE_SECONDS = 120.0
#: Metrics are means over so many steps.
WINDOW = 50


def check_batch(batch: int, pictures: int) -> None:
    """Raises InputError unless there are so many pictures to train on."""
    if not 1 <= batch <= pictures:
        raise InputError(f"batch must be from 1 to the {pictures} pictures, got {batch}")


def open_folder(output: Path, settings: Mapping[str, object]) -> None:
    """Make the folder, or see that it is this very training's.

    Raises InputError when it is another's, broken or not writable, and for a fraction among the settings (a
    rate or a weight) that is negative or not finite.
    """
    for name, value in settings.items():
        if isinstance(value, float) and not 0 <= value < inf:
            raise InputError(f"{name} must be finite and at least 0, got {value}")
    check_writable(output)
    path = output / "settings.json"
    texts = {name: str(value) for name, value in settings.items()}
    try:
        then = json.loads(path.read_text(encoding="utf-8")) if path.exists() else texts
        (output / "checkpoint").mkdir(parents=True, exist_ok=True)
        (output / "metrics.jsonl").touch()
    except OSError as error:
        raise InputError(f"cannot write to {output} ({error.strerror}); choose another output") from error
    except ValueError as error:
        raise InputError(f"{path} is broken ({error}); choose another output") from error
    if not isinstance(then, dict):
        raise InputError(f"{path} was not written by a training; choose another output")
    for name, value in texts.items():
        if then.get(name) != value:
            raise InputError(f"{output} has {name} {then.get(name)}, got {value}; choose another output")
    write_text(path, json.dumps(texts, indent=2) + "\n")


def record(
    steps: Iterator[Any],
    output: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    save: Callable[[], None],
) -> None:
    """Run all steps, from the folder's checkpoint if it has one; shows, records and saves them.

    `steps` yields dataclasses of numbers whose first field is the step's index. `save` writes what the
    training makes; it is called with every checkpoint and at the end, but never with numbers that are not
    finite: then FloatingPointError is raised, and what was saved before stays.
    """
    state, metrics = output / "checkpoint" / "state.safetensors", output / "metrics.jsonl"
    before = 0.0
    if state.exists():
        before = checkpoint.load(state, module, optimizer, clock)
        kept = [line for line in metrics.read_text().splitlines() if _is_until(line, clock.index)]
        write_text(metrics, "".join(line + "\n" for line in kept))
    began = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    for step in steps:
        seen = {name: value for name, value in asdict(step).items() if name != "index"}
        for name, value in seen.items():
            if not isfinite(value):
                raise _diverged(name, clock)
        recent.append(seen)
        if clock.index % WINDOW and clock.index < clock.steps:
            continue
        now = time.monotonic()
        means = {name: round(sum(r[name] for r in recent) / len(recent), 4) for name in recent[0]}
        facts = {"step": clock.index} | means
        with metrics.open("a") as file:
            file.write(json.dumps(facts) + "\n")
        left = (now - began + before) / clock.index * (clock.steps - clock.index) / 60
        print(*(f"{name} {value}" for name, value in facts.items()), f"{left:.0f} min left", flush=True)
        recent.clear()
        # Only here, where no mean is half taken: a training that goes on writes the lines of an unbroken one.
        if now - saved > SAVE_SECONDS or clock.index == clock.steps:
            for name, parameter in module.named_parameters():
                if not parameter.isfinite().all():
                    raise _diverged(name, clock)
            save()
            checkpoint.save(state, module, optimizer, clock, now - began + before)
            saved = now


def _is_until(line: str, index: int) -> bool:
    """Whether a line of metrics is whole, which a kill may prevent, and of a step up to this."""
    try:
        return json.loads(line)["step"] <= index
    except (ValueError, TypeError, LookupError):
        return False


def _diverged(name: str, clock: Clock) -> FloatingPointError:
    return FloatingPointError(f"{name} is not finite at step {clock.index}; a lower lr may help")
