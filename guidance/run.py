"""A run and its folder, the only place where anything is written.

outputs/<recipe>/<prompt>-<seed>/
    final.png  final.svg  timelapse.mp4     the best of the population
    sheet.png                               all of it, if it is more than one
    run.json  metrics.jsonl                 settings, versions, status, scores; the losses of every step
    checkpoint/                             the state to go on from, the frames of the film so far, a lock
"""

import itertools
import json
import os
import platform
import re
import shlex
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch
from jaxtyping import Float
from torch import Tensor

from guidance import __version__, checkpoint, media
from guidance.canvas.base import Canvas, VectorCanvas
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.optimization import Step
from guidance.progress import progress
from guidance.shipped import recipes

#: Time between two checkpoints: a run that is killed loses about this much.
CHECKPOINT_SECONDS = 5.0
#: A film has about this many frames, whatever the number of steps: six seconds.
FRAMES = 150


def recorded(folder: Path) -> dict:
    """What run.json in a run's folder says; raises InputError when there is none or it is broken."""
    path = folder / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no run in {folder}: cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"no run in {folder}: {path} is broken ({error}); start a new run") from error
    kinds = {"recipe": str, "settings": dict, "versions": dict, "status": str}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kinds[name]) for name in kinds):
        raise InputError(f"no run in {folder}: {path} was not written by a run; start a new one")
    return facts


class Run:
    """One run of a recipe: its folder, checkpoints, film, metrics and final files.

    A recipe makes it from its file and its arguments, which hold `prompt`, `seed`, `output` and `resume`,
    wraps its steps into `track` and ends with `finish`:

        run = Run(__file__, locals())
        for step in run.track(optimize(canvas, losses, clock, optimizer), canvas, optimizer, clock):
            ...
        run.finish(canvas, scores)

    Nothing is written before the first step. Raises InputError when the folder cannot be written, and when
    the run to resume is finished, is none, or had other settings.
    """

    def __init__(self, recipe: str, arguments: Mapping[str, object]) -> None:
        settings = {name: plain(value) for name, value in arguments.items() if name != "resume"}
        for name, value in settings.items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{name} is not valid UTF-8, got {value!r}; type it again") from error
        path = Path(recipe).resolve()
        self._name = path.stem
        self._resumes = arguments["resume"] is not None
        self._interrupted = False
        self._seconds = 0.0
        if self._resumes:
            self.folder = Path(str(arguments["resume"]))
            self._facts = recorded(self.folder)
            _check_same(self.folder, self._facts, settings)
            _check_writable(self.folder)
        else:
            place = Path(str(settings["output"])) / self._name
            slug = re.sub(r"[\W_]+", "-", str(settings["prompt"]).lower()).strip("-")[:40].strip("-")
            self.folder = place / f"{slug or 'untitled'}-{settings['seed']}"
            self._facts = {
                # One of ours is found by its name wherever it is installed, one of the user's by its path.
                "recipe": self._name if recipes().get(self._name) == path else str(path),
                "settings": settings,
                "versions": _versions(),
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            _check_writable(place)

    def track(
        self, steps: Iterator[Step], canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock
    ) -> Iterator[Step]:
        """Pass the steps on while showing and recording them; a resumed run goes on where its checkpoint is.

        Ctrl-C ends the loop after the step it is in, so that `finish` can follow; a second one quits at once.
        A FloatingPointError of the steps is passed on, after the last good state is saved.
        """
        if not self._resumes:
            self.folder = _new_folder(self.folder)
        self._frames.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder):
            yield from self._record(steps, canvas, optimizer, clock)

    def _record(
        self, steps: Iterator[Step], canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock
    ) -> Iterator[Step]:
        self._restore(canvas, optimizer, clock)
        self._describe("running")
        began, saved = time.monotonic() - self._seconds, time.monotonic()

        def save() -> None:
            checkpoint.save(self._checkpoint, canvas, optimizer, clock, self._seconds)

        with (
            self._interruptible(),
            self._failing(save),
            (self.folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1) as metrics,
        ):
            for step in progress(steps, clock):
                losses = {name: loss.tolist() for name, loss in step.losses.items()}
                metrics.write(json.dumps({"step": step.index, **losses}) + "\n")
                if step.index * FRAMES // step.total > (step.index - 1) * FRAMES // step.total:
                    self._film(step.index, step.image)
                yield step
                self._seconds = time.monotonic() - began
                if self._interrupted:
                    break
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    save()
                    saved = time.monotonic()
        save()

    @torch.no_grad()
    def finish(self, canvas: Canvas, scores: Float[Tensor, "b"] | None = None, *, size: int = 1024) -> Path:
        """Write the final files, of the member with the highest score; returns the folder.

        A vector canvas is rendered at `size` pixels for final.png. Raises KeyboardInterrupt, after
        everything is written, if Ctrl-C ended the run.
        """
        images = canvas()
        best = 0 if scores is None else int(scores.argmax())
        final = images[best : best + 1]
        if isinstance(canvas, VectorCanvas):
            media.write_text(
                self.folder / "final.svg", canvas.svg(best, str(self._facts["settings"]["prompt"]))
            )
            final = canvas(size, best)
        media.write_png(self.folder / "final.png", final, self._png_text())
        if len(images) > 1:
            media.write_png(self.folder / "sheet.png", media.sheet(images), self._png_text())
        self._film(sys.maxsize, images)
        media.write_film(self.folder / "timelapse.mp4", sorted((self._frames / str(best)).glob("*.jpg")))

        if scores is not None:
            self._facts |= {"scores": scores.tolist(), "best": best}
        self._describe("interrupted" if self._interrupted else "finished")
        if self._interrupted:
            self._tell_how_to_go_on()
            raise KeyboardInterrupt
        shutil.rmtree(self._frames)
        return self.folder

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.safetensors"

    @property
    def _frames(self) -> Path:
        return self.folder / "checkpoint" / "frames"

    def _restore(self, canvas: Canvas, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        """Load the checkpoint, if there is one, and drop what was recorded after it."""
        if self._checkpoint.exists():
            self._seconds = checkpoint.load(self._checkpoint, canvas, optimizer, clock)
        for half_written in self.folder.rglob(".*.tmp"):
            half_written.unlink()
        for frame in self._frames.glob("*/*.jpg"):
            if int(frame.stem) >= clock.index:
                frame.unlink()
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            media.write_text(metrics, "".join(lines[: clock.index]))

    def _film(self, index: int, images: Float[Tensor, "b 3 h w"]) -> None:
        # Every member has its film, since the best is known at the end only; a frame takes about 2 ms.
        for member, image in enumerate(images):
            folder = self._frames / str(member)
            folder.mkdir(exist_ok=True)
            media.write_jpeg(folder / f"{index:020}.jpg", image[None])

    def _describe(self, status: str) -> None:
        facts = self._facts | {"status": status, "seconds": round(self._seconds, 2)}
        media.write_text(self.folder / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def _png_text(self) -> dict[str, str]:
        settings = {name: value for name, value in self._facts["settings"].items() if name != "output"}
        facts = {"recipe": self._name, "settings": settings, "versions": self._facts["versions"]}
        return {
            "Description": settings["prompt"],
            "Software": f"clip-guidance {__version__}",
            "guidance": json.dumps(facts, ensure_ascii=False),
        }

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


def plain(value: object) -> object:
    """The value as JSON gives it back, and paths, which it has not, as strings."""
    return json.loads(json.dumps(value, default=str))


def _versions() -> dict[str, str]:
    ours = {"guidance": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return ours | {name: version(name) for name in ("open_clip_torch", "timm")}


def _check_same(folder: Path, facts: dict, settings: dict[str, object]) -> None:
    if facts["status"] == "finished":
        raise InputError(f"the run in {folder} is finished; to go further, start a new run with more steps")
    for name, value in facts["settings"].items():
        if name != "output" and settings.get(name) != value:
            raise InputError(
                f"the run in {folder} has {name} {value!r}, got {settings.get(name)!r}; leave it out"
            )


def _check_writable(folder: Path) -> None:
    """Look before anything is computed; the nearest folder that exists decides."""
    # os.path and not Path, whose methods raise for names that are too long and folders closed to us.
    there = next(parent for parent in [folder, *folder.absolute().parents] if os.path.exists(parent))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {folder}: {there} is not a writable folder; choose another output")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the lock is SQLite's, which the system frees after a kill.

    Raises InputError when another process has it.
    """
    path = folder / "checkpoint" / "lock"
    with closing(sqlite3.connect(path, timeout=0, check_same_thread=False)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise InputError(f"another process works on the run in {folder}; wait for its end") from error
            # Some network file systems have no locks.
        yield


def _new_folder(wanted: Path) -> Path:
    """Make the folder, or the first of `wanted-2`, `wanted-3`, ... that nobody else has made."""
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            folder = wanted if count == 1 else wanted.with_name(f"{wanted.name}-{count}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise InputError(f"cannot make {wanted} ({error.strerror}); choose another output") from error
    return folder
