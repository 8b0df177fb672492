"""The command line: what it shows, what it accepts, and one line for everything wrong."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from safetensors import safe_open

from guidance import __version__, cli, doctor

ROOT = Path(__file__).parents[1]
TOY = Path(__file__).parent / "recipes" / "toy.py"


def told(capsys: pytest.CaptureFixture[str], *tokens: object) -> tuple[int, str]:
    """The exit code and the one line of a command that is wrong."""
    code = cli.main([str(token) for token in tokens])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("guidance: ")
    assert err.count("\n") == 1
    return code, err


def help_without_torch(*tokens: str) -> str:
    code = f"import sys; from guidance.cli import main; main({list(tokens)}); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert out.endswith("False\n")
    return out


def test_help_lists_recipes_without_importing_torch() -> None:
    out = help_without_torch("--help")
    assert "clipdraw" in out
    assert "Draw a prompt with brush strokes" in out
    assert "doctor" in out


def test_help_of_a_recipe_comes_from_its_signature(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(TOY), "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Move five dots to the middle." in out
    assert "--steps" in out
    assert "[default: 60]" in out
    assert "Seconds to sleep in a step." in out
    assert "--resume" not in out


def test_help_of_a_shipped_recipe_needs_no_torch() -> None:
    assert "--best-of" in help_without_torch("clipdraw", "--help")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_a_recipe_of_ones_own_runs_and_its_folder_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(TOY), "red dots", "--steps", "3", "--output", str(tmp_path)]) == 0
    folder = tmp_path / "toy" / "red-dots-0"
    assert capsys.readouterr().out == f"{folder}\n"
    assert (folder / "final.svg").exists()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([TOY], "requires an argument"),
        ([TOY, "x", "--stesp", "3"], "--steps"),
        ([TOY, "x", "--steps", "many"], 'unable to convert "many" into int'),
        ([TOY, "a", "red", "heart"], "in quotes"),
        ([TOY, "x", "--resume", "y"], "--resume"),
        ([TOY, "x", "--steps", "2.6"], 'Invalid value for --steps: unable to convert "2.6" into int'),
        ([TOY, "x", "--seed", "1.0"], 'unable to convert "1.0" into int'),
        ([TOY, "x", "--pause", "long"], 'Invalid value for --pause: unable to convert "long" into float'),
        ([TOY, "x", "--steps", "0"], "steps must be at least 1, got 0"),
        ([TOY, "x", "--steps", "100000000000"], "steps must be at most 100000000, got 100000000000"),
        (["clipdrew", "x"], "clipdraw"),
        (["missing.py", "x"], "missing.py"),
        (["resume"], "FOLDER"),
        (["resume", "nowhere"], "no run in nowhere"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tokens: list,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = told(capsys, *tokens)
    assert code == 2
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("print('not to be run')")
    assert told(capsys, tmp_path / "a.py", "x")[0] == 2


def test_an_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, err = told(capsys, TOY, "x", "--output", tmp_path / "file")
    assert code == 2
    assert "cannot write to" in err


def test_resume_with_a_recipe_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(TOY.read_text())
    arguments = [str(recipe), "x", "--steps", "5", "--stop-at", "3", "--output", str(tmp_path)]
    assert cli.main(arguments) == 1
    hint, err = capsys.readouterr().err.splitlines()[-2:]
    assert err.startswith("guidance: loss 'near' is not finite at step 3 of 5")
    folder = tmp_path / "mine" / "x-0"
    assert hint == f"stopped early; to go on: guidance resume {folder} --recipe {recipe}"
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    with safe_open(folder / "checkpoint" / "state.safetensors", "pt") as state:
        assert state.metadata()["index"] == "3"
    recipe.write_text(TOY.read_text().replace('float("nan")', "1.0"))
    # A folder cannot choose what is run: only a recipe of ours, or one that the user names.
    assert f"add --recipe {recipe}" in told(capsys, "resume", folder)[1]
    assert cli.main(["resume", str(folder), "--recipe", str(recipe)]) == 0
    assert (folder / "final.png").exists()


RESUMED = """
from pathlib import Path
from typing import Annotated

def main(
    prompt: str, *, steps: Annotated[int, "How many."] = 3, scale: float = 1.0, near: Path = Path("a"),
    range: tuple[int, int] = (0, 1), names: list[str] | None = None, output: Path = Path("outputs"),
    resume: Path | None = None,
):
    "Tell."
    print(repr((prompt, steps, scale, near.name, range, names)))
"""


def write_run(folder: Path, settings: object) -> list[str]:
    """The command that resumes a run of RESUMED with these settings."""
    (folder / "mine.py").write_text(RESUMED)
    facts = {"recipe": "mine.py", "settings": settings, "versions": {}, "status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(facts))
    return ["resume", str(folder), "--recipe", str(folder / "mine.py")]


def test_resumed_settings_have_their_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"prompt": "-1", "scale": 2, "near": "b/c", "range": [2, 3], "names": ["x"], "output": "d"}
    assert cli.main(write_run(tmp_path, settings)) == 0
    assert capsys.readouterr().out == "('-1', 3, 2.0, 'c', (2, 3), ['x'])\n"
    assert cli.main(write_run(tmp_path, {"prompt": "x", "names": None, "range": [0, 1]})) == 0
    assert capsys.readouterr().out == "('x', 3, 1.0, 'a', (0, 1), None)\n"


def test_resume_notes_other_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = write_run(tmp_path, {"prompt": "x"})
    facts = json.loads((tmp_path / "run.json").read_text()) | {"versions": {"torch": "2"}}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert cli.main(command) == 0
    assert capsys.readouterr().err.startswith("note: made with torch 2, here is ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "was not written by a run"),
        ({"steps": 3}, "has the settings steps, its recipe prompt, steps"),
        ({"prompt": "x", "resume": "y"}, "has the settings prompt, resume"),
        ({"prompt": "x", "bogus": 1}, "has the settings prompt, bogus"),
        ({"prompt": ["x" * 300]}, "xx...xx"),
        ({"prompt": ["x"]}, "has prompt ['x'], not str"),
        ({"prompt": "x", "steps": "many"}, "has steps 'many', not int"),
        ({"prompt": "x", "steps": 2.5}, "has steps 2.5, not int;"),
        ({"prompt": "x", "steps": None}, "has steps None, not int"),
        ({"prompt": "x", "steps": [1, 2]}, "has steps [1, 2], not int"),
        ({"prompt": "x", "range": [1]}, "has range [1], not tuple[int, int]"),
        ({"prompt": "x", "names": []}, "has names []"),
        ({"prompt": "x", "near": {"a": 1}}, "has near {'a': 1}"),
    ],
)
def test_settings_that_do_not_fit_the_recipe(
    settings: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = told(capsys, *write_run(tmp_path, settings))
    assert code == 2
    assert words in err
    assert len(err) < 300 + len(str(tmp_path))


def test_a_recipe_may_have_dataclasses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "json.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import KW_ONLY, dataclass\n"
        "@dataclass\nclass Pen:\n    _: KW_ONLY\n    width: int\n"
        "def main(prompt: str, width: int = 2):\n    'Draw.'\n    print(Pen(width=width))\n"
    )
    assert cli.main([str(tmp_path / "json.py"), "x", "--width", "3"]) == 0
    assert capsys.readouterr().out == "Pen(width=3)\n"
    assert sys.modules["json"] is json


def test_our_warnings_are_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "warns.py").write_text(
        "import warnings\n"
        "class PromptWarning(UserWarning):\n    __module__ = 'guidance.clip'\n"
        "def main(prompt: str):\n    'Warn.'\n"
        "    warnings.warn(PromptWarning('two\\n\\x1b[2Jlines'))\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([str(tmp_path / "warns.py"), "x"]) == 0
    assert capsys.readouterr().err == "note: two [2Jlines\n"


def test_ctrl_c_outside_of_a_loop_is_130(tmp_path: Path) -> None:
    (tmp_path / "stops.py").write_text("def main(prompt: str):\n    'Stop.'\n    raise KeyboardInterrupt\n")
    assert cli.main([str(tmp_path / "stops.py"), "x"]) == 130


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guidance", "clipdraw", "x", "--bogus"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("guidance: ")
    assert "--bogus" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_tells_what_fails_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise OSError("no such\nlibrary")

    checks = [
        doctor.Check("needed", broken, "install it"),
        doctor.Check("nice", broken, "do without", essential=False),
        doctor.Check("film", doctor._film, ""),
    ]
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "failed  needed: no such library; install it"
    assert lines[1] == "failed  nice: no such library; do without"
    assert lines[2].startswith("ok      film: ffmpeg")
    monkeypatch.setattr(doctor, "CHECKS", checks[1:])
    assert cli.main(["doctor"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "guidance", str(TOY), "x", "--steps", "5", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = b""
    while process.poll() is None:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # Linux's way to say that the terminal's other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "5/5" in text
    assert "near " in text
    assert "\n" not in text.strip().replace("\r\n", "")


@pytest.mark.parametrize("error", ["MemoryError()", "torch.OutOfMemoryError('CUDA out of memory')"])
def test_out_of_memory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], error: str) -> None:
    recipe = tmp_path / "hungry.py"
    recipe.write_text(f'import torch\n\n\ndef main() -> None:\n    """Eats."""\n    raise {error}\n')
    assert cli.main([str(recipe)]) == 1
    assert capsys.readouterr().err.startswith("guidance: out of memory; ")
