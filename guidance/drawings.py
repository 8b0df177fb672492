"""Many drawings, each a run of its own, as the command line would make it, and found again where it is."""

import glob
import inspect
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
        """The folder of a run with the same settings."""
        settings = {name: plain(value) for name, value in self.arguments.items()}
        wanted = Run(str(self.recipe), self.arguments | {"resume": None}).folder
        for file in sorted(wanted.parent.glob(f"{glob.escape(wanted.name)}*/run.json")):
            facts = recorded(file.parent)
            if facts["settings"] | {"output": settings["output"]} == settings:
                return file.parent
        return None


def plan(command: str, prompt: str, seed: int, output: Path) -> Drawing:
    """A drawing by a recipe with options, such as "clipdraw --steps 100" or "./mine.py"; nothing is made yet.

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
    app = App(default_parameter=PARAMETERS, result_action="return_value")
    app.default(main)
    own = ["--seed", str(seed), "--output", str(output), "--", prompt]
    try:
        bound = app.parse_args([*words, *own], exit_on_error=False, print_error=False)[1]
    except CycloptsError as error:
        raise InputError(f"cannot run {command!r}: {' '.join(str(error).split())}") from error
    bound.apply_defaults()
    arguments = {key: value for key, value in bound.arguments.items() if key != "resume"}
    return Drawing(command, prompt, seed, path, main, arguments)


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
