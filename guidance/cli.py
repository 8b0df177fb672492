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
from guidance.errors import FULL_DISK, InputError, ToldElsewhere
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
    except ToldElsewhere:
        return 2
    except CycloptsError as error:
        # All processes that torchrun started have the same words.
        return _complain(str(error), 2) if os.environ.get("RANK", "0") == "0" else 2
    except InputError as error:
        return _complain(str(error), 2)
    except FloatingPointError as error:
        return _complain(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "LostRank":
            return _complain(str(error), 1)
        # PyTorch's own class is known by name only: it is not imported for a wrong word.
        out = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
        if not out and not isinstance(error, MemoryError):
            raise
        return _complain("out of memory; take a smaller --size, fewer --crops or a smaller model", 1)
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
    arguments = arguments_of_run(main, f"the run in {folder}", run["settings"])
    _note_differences(run, arguments)
    return main(**arguments, resume=folder)


def rerun(
    file: Path, /, *, recipe: Path | None = None, output: Path = Path("outputs"), trust: bool = False
) -> object:
    """Make a picture again, from what it says of how it was made, with the files that it names.

    Args:
        file: A PNG or SVG that guidance has made, the folder of a run, or its run.json.
        recipe: The file of its recipe, if that is one of your own.
        output: The folder of all runs.
        trust: Take also models that are not on this disk, which the picture may have from the internet.
    """
    from guidance import metadata
    from guidance.folder import inputs, recorded

    folder = file.parent if file.name == "run.json" else file
    # os.path and not Path, whose methods raise for a name that is too long.
    made = recorded(folder) if os.path.isdir(folder) else metadata.read(file)
    main = _recipe_of(made, str(file), recipe)
    # Where to write is the word of who asks, not of a file.
    settings = {name: value for name, value in made["settings"].items() if name != "output"}
    arguments = arguments_of_run(main, str(file), settings)
    models = _models(settings)
    remote = [name for name in models if not name.startswith("local-dir:") and not os.path.isfile(name)]
    if remote and not trust:
        raise InputError(f"{file} takes {', '.join(remote)} from the internet; if you trust it, add --trust")
    if used := [*models, *inputs(arguments)]:
        _note(f"{file} is made with {', '.join(used)}")
    _note_differences(made, arguments)
    return main(**arguments, output=output, resume=None)


def _models(settings: dict[str, object]) -> list[str]:
    """The models that settings name, other than the embedded ones."""
    lines = [str(settings.get(name, "tiny")) for name in ("clip", "vae", "generator", "features")]
    names = [name.strip() for line in lines for name in line.split("|")]
    return [name for name in names if name.partition(":")[0].strip() not in ("tiny", "clip")]


def _note_differences(made: dict, arguments: dict[str, object]) -> None:
    """Say what is here another than where something was made."""
    from guidance.folder import inputs
    from guidance.run import versions

    for name, here in versions().items():
        if (there := made["versions"].get(name, here)) != here:
            _note(f"made with {name} {there}, here is {here}: details may differ")
    files = made.get("files")
    for name, here in inputs(arguments).items():
        if isinstance(files, dict) and files.get(name, here) != here:
            _note(f"{name} has changed since: the picture may differ")


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
    print(f"guidance: {_one_line(message)}", file=sys.stderr)
    return code


def _note(message: str) -> None:
    print(f"note: {_one_line(message)}", file=sys.stderr)


def _one_line(text: str) -> str:
    """Text that may come from a stranger's file, without what commands a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
        _note(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)
