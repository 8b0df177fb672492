"""A recipe: a file whose `main` is a command, by its signature."""

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_args, get_origin, get_type_hints

from cyclopts import CoercionError, CycloptsError, Parameter, Token, convert

from guidance.errors import InputError


def _exactly(kind: Any, tokens: Sequence[Token]) -> Any:
    """What Cyclopts makes of the tokens, but for fractions, which it would round to whole numbers."""
    for token in tokens:
        if int in (kind, *get_args(kind)) and "." in token.value:
            raise CoercionError(token=token, target_type=int)
    return convert(kind, tokens)


#: How parameters become options. `main(resume=...)` is for those who know the run's settings.
PARAMETERS = Parameter(parse=re.compile(r"^(?!resume$)"), negative_iterable=(), converter=_exactly)


def summary(path: Path) -> str:
    """The first line of the docstring of a recipe's `main`, without importing it."""
    for node in ast.parse(_source(path)).body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise InputError(f"{path} is no recipe: it has no function main, such as main(prompt: str)")


def load(path: Path) -> Callable[..., object]:
    """The `main` of a recipe; raises InputError when there is none."""
    summary(path)  # says what is wrong with a file that is no recipe
    spec = importlib.util.spec_from_file_location(f"guidance_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module.main


def arguments_of_run(
    main: Callable[..., object], what: str, settings: dict[str, object]
) -> dict[str, object]:
    """The settings of `what` as a recipe's `main` takes them: JSON knows no paths and no tuples.

    Raises InputError for settings that are missing, or are none of the recipe's, or of another type.
    """
    from guidance.folder import plain

    parameters, hints = inspect.signature(main).parameters, get_type_hints(main)
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    if "resume" not in parameters or not needed <= settings.keys() <= parameters.keys() - {"resume"}:
        got, own = ", ".join(settings)[:300], ", ".join(parameters)
        raise InputError(f"{what} has the settings {got}, its recipe {own}; start a new run")
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
            raise InputError(f"{what} has {name} {short(value)}, not {kind}; start a new run")
    return arguments


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe {path} ({error.strerror}); check the name") from error
