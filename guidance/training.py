"""A training's folder: settings, metrics, a checkpoint; the same command goes on where it was stopped.

In a distributed run every rank calls these functions with the same arguments; all read the folder, which
they must share, and rank 0 writes it.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from math import inf, isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from guidance import checkpoint
from guidance.clock import Clock
from guidance.distributed import anywhere, own_part, rank, together
from guidance.errors import InputError
from guidance.folder import alone, check_writable
from guidance.media import write_text
from guidance.progress import bar

#: A training that is killed loses about this much, or a step if that takes longer.
SAVE_SECONDS = 120.0
#: Metrics are means over so many steps.
WINDOW = 50


def check_batch(batch: int, pictures: int) -> None:
    """Raises InputError unless there are so many pictures to train on."""
    if not 1 <= batch <= pictures:
        raise InputError(f"batch must be from 1 to the {pictures} pictures, got {batch}")


def check_tensorboard() -> None:
    """Raises InputError unless TensorBoard is installed."""
    if find_spec("tensorboard") is None:
        raise InputError("tensorboard is not installed; pip install 'clip-guidance[train]', or leave it out")


def open_folder(output: Path, settings: Mapping[str, object]) -> None:
    """Make the folder, or see that it is this very training's.

    Raises InputError when it is another's, broken or not writable, and for a fraction among the settings (a
    rate or a weight) that is negative or not finite.
    """
    with together():
        if rank() == 0:
            _open(output, settings)


def _open(output: Path, settings: Mapping[str, object]) -> None:
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
    *,
    pictures: int | None = None,
    evaluate: tuple[int, Callable[[], dict[str, float]]] | None = None,
    tensorboard: bool = False,
) -> None:
    """Run all steps, from the folder's checkpoint if it has one; shows, records and saves them.

    `steps` yields dataclasses of numbers, and of such by name, whose first field is the step's index. `save`
    writes what the training makes; it is called with every checkpoint, at the end and before Ctrl-C or
    SIGTERM end the process, but never with numbers that are not finite: then FloatingPointError is raised,
    and what was saved before stays. `pictures`: how many a step sees, so that their speed is recorded.
    `evaluate`: every so many steps and at the end this function's numbers are recorded as well. All ranks
    must yield the same numbers.
    """
    state, device = output / checkpoint.STATE, next(module.parameters()).device
    with ExitStack() as stack:
        with together():
            if rank() == 0:
                stack.enter_context(alone(output))
            before, recent = _go_on(output, module, optimizer, clock)
        tell = stack.enter_context(_metrics(output, clock, tensorboard))
        received = stack.enter_context(_noted_signals())
        started, began = clock.index, time.monotonic()
        saved = told = began
        speeds = [""]
        in_terminal = rank() == 0 and sys.stderr.isatty()
        for step in bar(steps, clock, lambda _: speeds[-1]) if in_terminal else steps:
            seen = _numbers(step)
            for name, value in seen.items():
                if not isfinite(value):
                    raise _diverged(name, clock)
            recent.append(seen)
            now, finished = time.monotonic(), clock.index == clock.steps
            if clock.index % WINDOW == 0 or finished:
                facts = {name: sum(r[name] for r in recent) / len(recent) for name in recent[0]}
                if pictures is not None:
                    # After a resume the window is shorter than its means are over.
                    taken = min(len(recent), clock.index - started)
                    facts["pictures_per_second"] = pictures * taken / (now - told)
                    speeds[-1] = f"{facts['pictures_per_second']:.0f} pictures/s"
                recent, told = [], now
                left = (now - began + before) / clock.index * (clock.steps - clock.index) / 60
                tell(facts, f" {left:.0f} min left")
            if evaluate is not None and (clock.index % evaluate[0] == 0 or finished):
                tell(evaluate[1](), "")
            stop, due = anywhere([bool(received), now - saved > SAVE_SECONDS], device)
            if stop or due or finished:
                _check_finite(module, clock)
                with together():  # none goes on before rank 0 has written
                    save()
                    seconds = time.monotonic() - began + before
                    checkpoint.save(state, module, optimizer, clock, seconds, json.dumps(recent))
                saved = time.monotonic()
            told += time.monotonic() - now  # the speed is that of training alone
            if stop and not finished:
                raise _stopped(received, clock)


def _is_until(line: str, index: int) -> bool:
    """Whether a line of metrics is whole, which a kill may prevent, and of a step up to this."""
    try:
        return json.loads(line)["step"] <= index
    except (ValueError, TypeError, LookupError):
        return False


def _go_on(
    output: Path, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock
) -> tuple[float, list[dict[str, float]]]:
    """Load the folder's checkpoint, if it has one, and drop what was written later or by half.

    Returns the seconds that the training has taken, and the steps that no line of the metrics tells yet.
    """
    state, metrics = output / checkpoint.STATE, output / "metrics.jsonl"
    seconds, recent = 0.0, []
    if state.exists():
        seconds = checkpoint.load(state, module, optimizer, clock)
        recent = json.loads(checkpoint.read_note(state) or "[]")
    if rank() == 0:
        for half_written in output.rglob(".*.tmp"):
            half_written.unlink()
        kept = [line for line in metrics.read_text().splitlines() if _is_until(line, clock.index)]
        write_text(metrics, "".join(line + "\n" for line in kept))
    return seconds, recent


def _numbers(step: Any) -> dict[str, float]:
    """What a step tells, by name."""
    numbers: dict[str, float] = {}
    for name, value in asdict(step).items():
        numbers |= value if isinstance(value, dict) else {name: value}
    del numbers["index"]
    return numbers


@contextmanager
def _metrics(
    output: Path, clock: Clock, tensorboard: bool
) -> Iterator[Callable[[Mapping[str, float], str], None]]:
    """A function that writes numbers of the present step into the folder and shows them, and more."""
    if rank():
        yield lambda facts, more: None
        return
    with ExitStack() as stack:
        writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(output / "tensorboard"), purge_step=clock.index + 1)
            writer = stack.enter_context(board)

        def tell(facts: Mapping[str, float], more: str) -> None:
            short = {"step": clock.index} | {name: float(f"{value:.5g}") for name, value in facts.items()}
            with (output / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(short) + "\n")
            if writer is not None:
                for name, value in facts.items():
                    writer.add_scalar(name, value, clock.index)
            # Not those of parts, such as languages, of which there may be dozens.
            shown = [f"{name} {value}" for name, value in short.items() if "/" not in name]
            print(" ".join(shown) + more, flush=True)

        yield tell


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """The numbers of Ctrl-C and SIGTERM once they came; a second one does what it always does."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(received: list[int], clock: Clock) -> BaseException:
    if rank() == 0:
        print(f"stopped after step {clock.index}; the same command goes on", file=sys.stderr, flush=True)
    return KeyboardInterrupt() if signal.SIGINT in received else SystemExit(128 + signal.SIGTERM)


def _check_finite(module: nn.Module, clock: Clock) -> None:
    device = next(module.parameters()).device
    bad = [name for name, p in module.named_parameters() if not own_part(p).isfinite().all()]
    if anywhere([bool(bad)], device)[0]:
        raise _diverged(bad[0] if bad else "a weight of another rank", clock)


def _diverged(name: str, clock: Clock) -> FloatingPointError:
    return FloatingPointError(f"{name} is not finite at step {clock.index}; a lower lr may help")
