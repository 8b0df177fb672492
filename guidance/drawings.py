"""Many drawings, each a run of its own, as the command line would make it, and found again where it is."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import split

from cyclopts import App, CycloptsError

from guidance.errors import InputError, suggest
from guidance.folder import plain, recorded
from guidance.recipe import PARAMETERS, load
from guidance.run import Run
from guidance.shipped import recipes


@dataclass(frozen=True)
class Drawing:
    """A run of a recipe that is there already or is to be made: `main` with `arguments`.

    `command` is the recipe with its options, such as "clipdraw --steps 100".
    """

    command: str
    prompt: str
    seed: int
    recipe: Path
    main: Callable[..., object]
    arguments: dict[str, object]

    @property
    def guides(self) -> str | None:
        """The models that guide it, as the recipe's option has them, if it has that option."""
        return str(self.arguments["clip"]) if "clip" in self.arguments else None

    def make(self) -> Path:
        """The run's folder: the one that is there, gone on with if it was stopped, or a new one."""
        folder = self._folder()
        if folder is not None and recorded(folder)["status"] == "finished":
            return folder
        return Path(str(self.main(**self.arguments | {"resume": folder})))

    def _folder(self) -> Path | None:
        """The folder of a run with the same settings; where a finished one was made does not matter."""
        settings = {name: plain(value) for name, value in self.arguments.items()}
        # An option that the recipe has got since the run was made has its default in it.
        parameters = inspect.signature(self.main).parameters
        defaults = {name: plain(parameters[name].default) for name in settings}
        wanted = Run(str(self.recipe), self.arguments | {"resume": None}).folder
        name = re.compile(rf"{re.escape(wanted.name)}(-\d+)?")
        for file in sorted(wanted.parent.glob("*/run.json")):
            if not name.fullmatch(file.parent.name):
                continue
            try:
                facts = recorded(file.parent)
            except InputError:  # somebody's broken run; a new one gets a folder of its own
                continue
            free = {"output", "device"} if facts["status"] == "finished" else {"output"}
            if _without(defaults | facts["settings"], free) == _without(settings, free):
                return file.parent
        return None


def plan(command: str, prompt: str, seed: int, output: Path, device: str = "auto") -> Drawing:
    """A drawing by a recipe with options, such as "clipdraw --steps 100" or "./mine.py"; nothing is made yet.

    `device` is for a recipe that has this option, where the command does not say.
    Raises InputError for a recipe that is not there or does not draw, and for options that it has not.
    """
    name, *words = _words(command)
    path = Path(name) if name.endswith(".py") else recipes().get(name.replace("-", "_"))
    if path is None:
        raise InputError(f"there is no recipe {name!r}{suggest(name, recipes())}")
    main = load(path)
    parameters = inspect.signature(main).parameters
    if not {"prompt", "seed", "output", "resume"} <= parameters.keys():
        raise InputError(f"the recipe {name} does not draw a prompt; name one that does, such as clipdraw")
    app = App(default_parameter=PARAMETERS, help_flags=(), version_flags=())
    app.default(main)
    own = [f"--prompt={prompt}", f"--seed={seed}", f"--output={output}"]
    try:
        bound = app.parse_args([*own, *words], exit_on_error=False, print_error=False)[1]
    except CycloptsError as error:
        raise InputError(f"cannot run {command!r}: {' '.join(str(error).split())}") from error
    if device != "auto" and "device" in parameters:
        bound.arguments.setdefault("device", device)
    bound.apply_defaults()
    arguments = {key: value for key, value in bound.arguments.items() if key != "resume"}
    return Drawing(command, prompt, seed, path, main, arguments)


def _without(settings: dict[str, object], names: set[str]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in names}


def _words(command: str) -> list[str]:
    try:
        return split(command) or [""]
    except ValueError as error:
        raise InputError(f"cannot run {command!r}: {error}") from error


def make_all(drawings: Sequence[Drawing]) -> Iterator[Path]:
    """The folders of runs, in order, each as soon as it is finished; Ctrl-C says that nothing is lost."""
    for number, drawing in enumerate(drawings, 1):
        told = f"{drawing.command} {drawing.prompt!r} seed {drawing.seed}"
        print(f"{number}/{len(drawings)}  {told}", file=sys.stderr, flush=True)
        try:
            yield drawing.make()
        except KeyboardInterrupt:
            print("stopped early; the same command goes on", file=sys.stderr)
            raise
