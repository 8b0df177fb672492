"""A training's folder: settings, metrics, a checkpoint; the same command goes on where it was stopped."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidance import checkpoint
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.media import write_text

#: A training that is killed loses about this much.
SAVE_SECONDS = 120.0
#: Metrics are means over so many steps.
WINDOW = 50


def open_folder(output: Path, settings: Mapping[str, object]) -> None:
    """Make the folder, or see that it is this very training's; raises InputError when it is another's."""
    path = output / "settings.json"
    texts = {name: str(value) for name, value in settings.items()}
    if path.exists():
        then = json.loads(path.read_text(encoding="utf-8"))
        for name, value in texts.items():
            if then.get(name) != value:
                raise InputError(f"{output} has {name} {then.get(name)}, got {value}; choose another output")
    try:
        (output / "checkpoint").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {output} ({error.strerror}); choose another output") from error
    write_text(path, json.dumps(texts, indent=2) + "\n")
    (output / "metrics.jsonl").touch()


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
    training makes; it is called with every checkpoint and at the end.
    """
    state, metrics = output / "checkpoint" / "state.safetensors", output / "metrics.jsonl"
    before = 0.0
    if state.exists():
        before = checkpoint.load(state, module, optimizer, clock)
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= clock.index]
        write_text(metrics, "".join(line + "\n" for line in kept))
    began = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    for step in steps:
        recent.append({name: value for name, value in asdict(step).items() if name != "index"})
        now = time.monotonic()
        if clock.index % WINDOW == 0 or clock.index == clock.steps:
            means = {name: round(sum(r[name] for r in recent) / len(recent), 4) for name in recent[0]}
            facts = {"step": clock.index} | means
            with metrics.open("a") as file:
                file.write(json.dumps(facts) + "\n")
            left = (now - began + before) / clock.index * (clock.steps - clock.index) / 60
            print(*(f"{name} {value}" for name, value in facts.items()), f"{left:.0f} min left", flush=True)
            recent.clear()
        if now - saved > SAVE_SECONDS or clock.index == clock.steps:
            save()
            checkpoint.save(state, module, optimizer, clock, now - began + before)
            saved = now
