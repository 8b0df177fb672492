"""A run and its folder, the only place where anything is written.

outputs/<recipe>/<prompt>-<seed>/
    final.png  final.svg  timelapse.mp4     the best of the population
    sheet.png  members/0.png  0.svg ...     all of it, if it is more than one
    run.json  metrics.jsonl                 settings, versions, status, scores; the losses of every step
    checkpoint/                             the state to go on from, what it started from, the frames of the
                                            film so far, a lock
"""

import json
import platform
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from guidance import __version__, checkpoint, film, media, metadata
from guidance.canvas.base import Canvas, VectorCanvas
from guidance.clock import Clock, Schedule
from guidance.errors import FULL_DISK, InputError
from guidance.folder import alone, check_same, check_writable, inputs, new_folder, plain, recorded
from guidance.optimization import Loss, Step, adam, optimize
from guidance.progress import progress
from guidance.shipped import recipes
from guidance.starting import start_from

#: Time between two checkpoints: a run that is killed loses about this much; more if its state is large.
CHECKPOINT_SECONDS = 5.0


class Run:
    """One run of a recipe: its folder, checkpoints, film, metrics and final files.

    A recipe makes it from its file and its arguments, lets it take the steps and ends with `finish`:

        run = Run(__file__, locals())
        run.start(canvas)
        for step in run.optimize(canvas, {"clip": loss}, clock):
            ...
        run.finish(canvas, scores)

    The arguments hold `prompt`, `seed`, `output` and `resume`. Of the others these are the run's: `film`
    ("mp4", "gif", "webp" or "none"), `metadata` (whether pictures say how they were made), `start` (what
    `start` starts from), `on_nan` and `report` (as `optimize` has them).

    Nothing is written before the first step. Raises InputError when the folder cannot be written, and when
    the run to resume is finished, is none, or had other settings.
    """

    def __init__(self, recipe: str, arguments: Mapping[str, object]) -> None:
        settings: dict[str, Any] = {
            name: plain(value) for name, value in arguments.items() if name != "resume"
        }
        for name, value in settings.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{name} is not valid UTF-8, got {value!r}; type it again") from error
        self._film = settings.get("film", "mp4")
        if self._film not in film.KINDS:
            raise InputError(f"film must be one of {', '.join(film.KINDS)}, got {self._film!r}")
        self._settings = settings
        path = Path(recipe).resolve()
        self._name = path.stem
        self._resumes = arguments["resume"] is not None
        self._interrupted = False
        self._started: Canvas | None = None
        self._seconds = 0.0
        if self._resumes:
            self.folder = Path(str(arguments["resume"]))
            self._facts = recorded(self.folder)
            check_same(self.folder, self._facts, settings)
            check_writable(self.folder)
        else:
            place = Path(str(settings["output"])) / self._name
            subject = str(settings["prompt"] or Path(str(settings.get("picture", ""))).stem)
            slug = re.sub(r"[\W_]+", "-", subject.lower()).strip("-")[:40].strip("-")
            self.folder = place / f"{slug or 'untitled'}-{settings['seed']}"
            self._facts = {
                # One of ours is found by its name wherever it is installed, one of the user's by its path.
                "recipe": self._name if recipes().get(self._name) == path else str(path),
                "settings": settings,
                "versions": versions(),
                "files": inputs({n: v for n, v in arguments.items() if n not in ("output", "resume")}),
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            check_writable(place)

    def start(self, canvas: Canvas) -> None:
        """Bring the canvas to what the argument `start` names, as `start_from` does, if it names anything.

        A resumed run starts from a copy in its own folder, so that it does not need that again. Whatever is
        made of the canvas's beginning, such as a loss, comes after this.
        """
        if self._resumes and self._start_file.exists():
            checkpoint.load_module(self._start_file, canvas)
        elif self._settings.get("start") is not None:
            start_from(canvas, str(self._settings["start"]))
            self._started = canvas

    def optimize(
        self,
        canvas: Canvas,
        losses: Mapping[str, Loss | tuple[Schedule, Loss]],
        clock: Clock,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Iterator[Step]:
        """Take the steps of `guidance.optimize` with the run's own arguments for it, and `track` them."""
        optimizer = optimizer or adam(canvas)
        on_nan, report = self._settings.get("on_nan", "stop"), self._settings.get("report", False)
        steps = optimize(canvas, losses, clock, optimizer, on_nan=on_nan, report=report)
        return self.track(steps, canvas, optimizer, clock)

    def track(
        self, steps: Iterator[Step], canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock
    ) -> Iterator[Step]:
        """Pass the steps on while showing and recording them; a resumed run goes on where its checkpoint is.

        Ctrl-C ends the loop after the step it is in, so that `finish` can follow; a second one quits at once.
        A FloatingPointError of the steps is passed on, after the last good state is saved.
        """
        if not self._resumes:
            self.folder = new_folder(self.folder)
        try:
            self._start_file.parent.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise InputError(f"{self._start_file.parent} must be a folder; delete that file") from error
        with alone(self.folder), self._full_disk_told():
            if self._started is not None:
                checkpoint.save_module(self._start_file, self._started)
            yield from self._record(steps, canvas, optimizer, clock)

    def _record(
        self, steps: Iterator[Step], canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock
    ) -> Iterator[Step]:
        self._restore(canvas, optimizer, clock)
        self._describe("running")
        began, saved = time.monotonic() - self._seconds, time.monotonic()
        rest = CHECKPOINT_SECONDS

        def save() -> None:
            checkpoint.save(self._checkpoint, canvas, optimizer, clock, self._seconds)

        with (
            self._interruptible(),
            self._failing(save),
            (self.folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1) as metrics,
        ):
            for step in progress(steps, clock):
                metrics.write(json.dumps(_metrics(step)) + "\n")
                if self._film != "none" and film.shows(step.index, step.total):
                    film.keep(self._frames, step.image, step.index)
                yield step
                self._seconds = time.monotonic() - began
                if self._interrupted:
                    break
                if (now := time.monotonic()) - saved >= rest:
                    save()
                    saved = time.monotonic()
                    # Half a second of every five: the gigabytes of a network in training take many.
                    rest = CHECKPOINT_SECONDS * max(1.0, (saved - now) / 0.5)
        save()

    @torch.no_grad()
    def finish(self, canvas: Canvas, scores: Float[Tensor, "b"] | None = None, *, size: int = 1024) -> Path:
        """Write the final files, of the member with the highest score; returns the folder.

        A vector canvas is rendered at `size` pixels for its PNG. Raises KeyboardInterrupt, after everything
        is written, if Ctrl-C ended the run.
        """
        with self._full_disk_told():
            images = canvas()
            best = 0 if scores is None else int(scores.argmax())
            self._write(self.folder / "final", canvas, images, best, size)
            if len(images) > 1:
                (self.folder / "members").mkdir(exist_ok=True)
                for member in range(len(images)):
                    self._write(self.folder / "members" / str(member), canvas, images, member, size)
                facts = self._said()
                text = None if facts is None else metadata.for_png(facts)
                media.write_png(self.folder / "sheet.png", media.sheet(images), text)
            if self._film != "none":
                self._write_film(images, best)
            if scores is not None:
                self._facts |= {"scores": scores.tolist(), "best": best}
            self._describe("interrupted" if self._interrupted else "finished")
        if self._interrupted:
            self._tell_how_to_go_on()
            raise KeyboardInterrupt
        shutil.rmtree(self._frames, ignore_errors=True)
        return self.folder

    def _write(self, stem: Path, canvas: Canvas, images: Tensor, member: int, size: int) -> None:
        """One member of the population as a PNG and, if it is a drawing, as an SVG."""
        facts = self._said(member if len(images) > 1 else None)
        image = images[member : member + 1]
        if isinstance(canvas, VectorCanvas):
            title = None if facts is None else str(self._settings["prompt"])
            about = None if facts is None else metadata.for_svg(facts)
            media.write_text(stem.with_suffix(".svg"), canvas.svg(member, title, about))
            image = canvas(size, member)
        media.write_png(stem.with_suffix(".png"), image, None if facts is None else metadata.for_png(facts))

    def _write_film(self, images: Tensor, member: int) -> None:
        film.keep(self._frames, images, sys.maxsize)
        facts = self._said(member if len(images) > 1 else None)
        frames = (path.read_bytes() for path in film.kept(self._frames, member))
        tags = None if facts is None else metadata.for_film(facts)
        film.write_film(self.folder / f"timelapse.{self._film}", frames, tags)

    def _said(self, member: int | None = None) -> dict | None:
        """What a picture says of how it was made; None if it is to say nothing."""
        if not self._settings.get("metadata", True):
            return None
        settings = {name: value for name, value in self._settings.items() if name != "output"}
        # Of a recipe of the user's not the path, which is private, but a name that none of ours has.
        recipe = self._name if self._facts["recipe"] == self._name else f"{self._name}.py"
        facts = {"recipe": recipe, "settings": settings, "versions": self._facts["versions"]}
        if self._facts.get("files"):
            facts["files"] = self._facts["files"]
        return facts if member is None else facts | {"member": member}

    @property
    def _checkpoint(self) -> Path:
        return self.folder / checkpoint.STATE

    @property
    def _start_file(self) -> Path:
        return self._checkpoint.with_name("start.safetensors")

    @property
    def _frames(self) -> Path:
        return self._checkpoint.with_name("frames")

    def _restore(self, canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        """Load the checkpoint, if there is one, and drop what was recorded after it."""
        if self._checkpoint.exists():
            self._seconds = checkpoint.load(self._checkpoint, canvas, optimizer, clock)
        for half_written in self.folder.rglob(".*.tmp"):
            half_written.unlink()
        film.forget(self._frames, clock.index)
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_bytes().splitlines(keepends=True)
            with media.replacing(metrics) as temporary:
                temporary.write_bytes(b"".join(lines[: clock.index]))

    def _describe(self, status: str) -> None:
        facts = self._facts | {"status": status, "seconds": round(self._seconds, 2)}
        media.write_text(self.folder / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def _tell_how_to_go_on(self) -> None:
        own = [] if self._facts["recipe"] == self._name else ["--recipe", self._facts["recipe"]]
        command = shlex.join(["guidance", "resume", str(self.folder), *own])
        print(f"stopped early; to go on: {command}", file=sys.stderr)

    @contextmanager
    def _failing(self, save: Callable[[], None]) -> Iterator[None]:
        """Save the state when a step fails that has not changed it (see `optimize`)."""
        try:
            yield
        except FloatingPointError:
            save()
            self._describe("failed")
            self._tell_how_to_go_on()
            raise

    @contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        """Say how to go on once there is space again: from the last checkpoint, which is whole."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL_DISK:
                self._tell_how_to_go_on()
            raise

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Note the first Ctrl-C, let the second be what it always is; signals reach the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)

        def note(_signal: int, _frame: FrameType | None) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, previous)
            print("finishing the files; Ctrl-C again quits at once", file=sys.stderr)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _metrics(step: Step) -> dict[str, object]:
    """A line of metrics.jsonl."""
    line: dict[str, object] = {"step": step.index}
    line |= {name: loss.tolist() for name, loss in step.losses.items()}
    if step.report is not None:
        norms = {name: norm.tolist() for name, norm in step.report.norms.items()}
        cosines = {" ~ ".join(pair): cosine.tolist() for pair, cosine in step.report.cosines.items()}
        line["report"] = {"gradient norms": norms, "cosines": cosines}
    return line


def versions() -> dict[str, str]:
    """What a picture's bits depend on."""
    ours = {"guidance": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return ours | {name: version(name) for name in ("open_clip_torch", "timm")}
