"""The command line: a command for each recipe, made of the signature of its `main`.

Only the recipe that is asked for is imported, so that `guidance --help` takes no longer than its words.
"""

import ast
import importlib.util
import inspect
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, get_args, get_origin, get_type_hints

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError, convert

from guidance import __version__
from guidance.errors import InputError
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
        # `main(resume=...)` is for `guidance resume`, which knows the run's settings.
        default_parameter=Parameter(parse=re.compile(r"^(?!resume$)"), negative_iterable=()),
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
            app.command(_load(path), name=name)
        else:
            app.command(App(help=_summary(path)), name=name)
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
    main = _load(path)
    return main(**_arguments(main, folder, run["settings"]), resume=folder)


def doctor() -> int:
    """Tell what is here and whether it works: versions, devices, precision, models, film writer."""
    from guidance.doctor import examine

    return examine()


def _command(path: Path) -> str:
    return path.stem.replace("_", "-")


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe {path} ({error.strerror}); check the name") from error


def _summary(path: Path) -> str:
    """The first line of the docstring of a recipe's `main`, without importing it."""
    for node in ast.parse(_source(path)).body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise InputError(f"{path} is no recipe: it has no function main, such as main(prompt: str)")


def _load(path: Path) -> Callable[..., object]:
    _summary(path)  # says what is wrong with a file that is no recipe
    spec = importlib.util.spec_from_file_location(f"guidance_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module.main


def _arguments(main: Callable[..., object], folder: Path, settings: dict[str, object]) -> dict[str, object]:
    """A run's settings as a recipe's `main` takes them: JSON knows no paths and no tuples.

    Raises InputError for settings that are missing, or are none of the recipe's, or of another type.
    """
    from guidance.run import plain

    parameters, hints = inspect.signature(main).parameters, get_type_hints(main, include_extras=True)
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    if "resume" not in parameters or not needed <= settings.keys() <= parameters.keys() - {"resume"}:
        got, own = ", ".join(settings), ", ".join(parameters)
        raise InputError(f"the run in {folder} has the settings {got}, its recipe {own}; start a new run")
    arguments = {}
    for name, value in settings.items():
        if value == plain(parameters[name].default) or name not in hints:
            continue
        hint = hints[name]
        several = any(get_origin(part) in (list, tuple, Sequence) for part in (hint, *get_args(hint)))
        values = value if isinstance(value, list) and several else [value]
        try:
            arguments[name] = convert(hint, [str(each) for each in values])
            fits = plain(arguments[name]) == value
        except (CycloptsError, ValueError):
            fits = False
        if not fits:
            kind = inspect.formatannotation(hint)
            raise InputError(f"the run in {folder} has {name} {value!r}, not {kind}; start a new run")
    return arguments


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
