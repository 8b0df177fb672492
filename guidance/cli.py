"""The command line: a command for each recipe, made of the signature of its `main`.

Only the recipe that is asked for is imported, so that `guidance --help` takes no longer than its words.
"""

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TextIO

from cyclopts import App, CycloptsError, UnusedCliTokensError

from guidance import __version__
from guidance.errors import InputError
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
    app.command(doctor)
    return app(tokens, exit_on_error=False, print_error=False, verbose=False)


def resume(folder: Path, /, *, recipe: Path | None = None) -> object:
    """Go on with a run that was stopped or killed.

    Args:
        folder: The run's folder, which holds run.json.
        recipe: The file of the run's recipe, if that is one of your own.
    """
    from guidance.run import recorded

    run = recorded(folder)
    path = recipes().get(run["recipe"], recipe)
    # A folder may come from anyone: it can name one of our recipes, and cannot make us run its own.
    if path is None:
        hint = f"if you trust that file, add --recipe {shlex.quote(run['recipe'])}"
        raise InputError(f"the run in {folder} is of the recipe {run['recipe']}, none of ours; {hint}")
    main = load(path)
    return main(**arguments_of_run(main, folder, run["settings"]), resume=folder)


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
