"""The command line: a command for each recipe, made of the signature of its `main`.

Only the recipe that is asked for is imported, so that `guidance --help` takes no longer than its words.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from cyclopts import App, CycloptsError, UnusedCliTokensError

from guidance import __version__
from guidance.errors import FULL_DISK, InputError
from guidance.recipe import PARAMETERS, arguments_of_run, load, summary
from guidance.shipped import recipes


def main(tokens: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for wrong input, 130 for Ctrl-C."""
    tokens = sys.argv[1:] if tokens is None else tokens
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            result = _run(tokens)
    except UnusedCliTokensError as error:
        return _complain(f"what to do with {error.unused_tokens}? put a prompt of several words in quotes", 2)
    except (InputError, CycloptsError) as error:
        return _complain(str(error), 2)
    except FloatingPointError as error:
        return _complain(str(error), 1)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        return _complain(f"cannot write {error.filename or 'a file'} ({error.strerror}); make room", 1)
    except KeyboardInterrupt:
        return 130
    if isinstance(result, int):
        return result
    try:
        if result is not None:
            print(result, flush=True)
    except (
        BrokenPipeError
    ):  # whoever read, such as `head`, has seen enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _run(tokens: list[str]) -> object:
    app = App(
        "guidance",
        help="Text steers an image. Also: guidance ./my_recipe.py PROMPT, for a recipe of your own.",
        version=__version__,
        default_parameter=PARAMETERS,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    found = {_command(path): path for path in recipes().values()}
    if tokens and tokens[0].endswith(".py"):
        path = Path(tokens[0])
        found[_command(path)] = path
        tokens = [_command(path), *tokens[1:]]
    for name, path in found.items():
        if tokens[:1] == [name]:
            app.command(load(path), name=name)
        else:
            app.command(App(help=summary(path)), name=name)
    app.command(resume)
    app.command(rerun)
    app.command(doctor)
    return app(tokens, exit_on_error=False, print_error=False, verbose=False)


def resume(folder: Path, /, *, recipe: Path | None = None) -> object:
    """Go on with a run that was stopped or killed.

    Args:
        folder: The run's folder, which holds run.json.
        recipe: The file of the run's recipe, if that is one of your own.
    """
    from guidance.folder import recorded

    run = recorded(folder)
    main = _recipe_of(run, f"the run in {folder}", recipe)
    return main(**arguments_of_run(main, folder, run["settings"]), resume=folder)


def rerun(file: Path, /, *, recipe: Path | None = None, output: Path = Path("outputs")) -> object:
    """Make a picture again, from what it says of how it was made.

    Args:
        file: A PNG or SVG that guidance has made, the folder of a run, or its run.json.
        recipe: The file of its recipe, if that is one of your own.
        output: The folder of all runs.
    """
    from guidance import metadata
    from guidance.folder import recorded
    from guidance.run import versions

    folder = file.parent if file.name == "run.json" else file
    # os.path and not Path, whose methods raise for a name that is too long.
    made = recorded(folder) if os.path.isdir(folder) else metadata.read(file)
    main = _recipe_of(made, str(file), recipe)
    for name, here in versions().items():
        if made["versions"].get(name, here) != here:
            there = made["versions"][name]
            print(f"note: made with {name} {there}, here is {here}: details may differ", file=sys.stderr)
    # Where to write is the word of who asks, not of a file.
    settings = {name: value for name, value in made["settings"].items() if name != "output"}
    return main(**arguments_of_run(main, file, settings), output=output, resume=None)


def _recipe_of(made: dict, what: str, recipe: Path | None) -> Callable[..., object]:
    """The recipe that made something, which may come from anyone: it can name one of ours, not its own."""
    path = recipe or recipes().get(made["recipe"])
    if path is None:
        hint = f"if you trust that file, add --recipe {shlex.quote(made['recipe'])}"
        raise InputError(f"{what} is of the recipe {made['recipe']}, none of ours; {hint}")
    return load(path)


def doctor() -> int:
    """Tell what is here and whether it works: versions, devices, precision, models, film writer."""
    from guidance.doctor import examine

    return examine()


def _command(path: Path) -> str:
    return path.stem.replace("_", "-")


def _complain(message: str, code: int) -> int:
    print(f"guidance: {' '.join(message.split())}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are notes to the user, on one line; others look as they always do."""
    if category.__module__.startswith("guidance"):
        print(f"note: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)
