"""How far a run is, on stderr: a bar in a terminal, about ten plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guidance.clock import Clock
from guidance.optimization import Step


def progress(steps: Iterator[Step], clock: Clock) -> Iterator[Step]:
    """The same steps, shown as they pass, with the losses (means over the population) and the time left."""
    return _bar(steps, clock) if sys.stderr.isatty() else _lines(steps, clock)


def _losses(step: Step) -> str:
    return "  ".join(f"{name} {loss.mean():.4f}" for name, loss in step.losses.items())


def _bar(steps: Iterator[Step], clock: Clock) -> Iterator[Step]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=clock.steps, completed=clock.index)
        for step in steps:
            bar.update(task, completed=step.index + 1, description=_losses(step))
            yield step


def _lines(steps: Iterator[Step], clock: Clock) -> Iterator[Step]:
    start, began = clock.index, time.monotonic()
    for step in steps:
        done = step.index + 1
        if done * 10 // step.total > step.index * 10 // step.total:
            left = (time.monotonic() - began) / (done - start) * (step.total - done)
            print(
                f"step {done}/{step.total}  {_losses(step)}  {left:.0f} s left", file=sys.stderr, flush=True
            )
        yield step
