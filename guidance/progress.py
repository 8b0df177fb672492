"""How far a run is, on stderr: a bar in a terminal, about ten plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from guidance.clock import Clock
from guidance.optimization import Step

T = TypeVar("T")
#: Seconds between lines about items that pass.
PAUSE = 10.0


def progress(steps: Iterator[Step], clock: Clock) -> Iterator[Step]:
    """The same steps, shown as they pass, with the losses (means over the population) and the time left."""
    return bar(steps, clock, _losses) if sys.stderr.isatty() else _lines(steps, clock)


def _losses(step: Step) -> str:
    return "  ".join(f"{name} {loss.mean():.4f}" for name, loss in step.losses.items())


def bar(steps: Iterator[T], clock: Clock, describe: Callable[[T], str]) -> Iterator[T]:
    """The same steps, and in the terminal a bar with what is said of each and the time left."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=clock.steps, completed=clock.index)
        for step in steps:
            shown.update(task, completed=clock.index, description=describe(step))
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


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The same items, counted as they pass: a bar in a terminal that is gone at the end, elsewhere a line
    every ten seconds.
    """
    if sys.stderr.isatty():
        yield from track(items, what, console=Console(stderr=True), transient=True)
        return
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > PAUSE:
            told = time.monotonic()
            print(f"{what} {done}/{len(items)}", file=sys.stderr, flush=True)
        yield item
