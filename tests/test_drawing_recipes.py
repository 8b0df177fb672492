"""The recipes that draw on other canvases than clipdraw's: what they write and refuse, and their settings."""

import json
from pathlib import Path

import pytest

from guidance import cli

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 6"><path d="M1 1h5v4z" fill="red"/></svg>'


def draw(folder: Path, *tokens: str) -> Path:
    assert cli.main([*tokens, "--steps", "3", "--crops", "1", "--size", "32", "--output", str(folder)]) == 0
    (run,) = folder.glob("*/*/run.json")
    assert all((run.parent / name).stat().st_size for name in ("final.svg", "final.png", "timelapse.mp4"))
    return run


def test_shapes_are_drawn(tmp_path: Path) -> None:
    run = draw(tmp_path, "shapes", "a red heart", "--paths", "8")
    assert run.with_name("final.svg").read_text().count("<path") == 8


def test_a_drawing_is_gone_on_from_with_the_settings_of_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source.svg"
    source.write_text(SVG)
    settings = json.loads(draw(tmp_path, "redraw", str(source), "a red heart").read_text())["settings"]
    assert settings["drawing"] == str(source)
    # What a resume is called with: nothing but arguments of the recipe.
    options = {"steps", "size", "seed", "clip", "crops", "device", "precision", "output"}
    of_the_run = {"on_nan", "report", "film", "metadata"}
    assert settings.keys() == {"drawing", "prompt", *options, *of_the_run}


@pytest.mark.parametrize("content", [None, "no svg", "<svg/>"])
def test_what_is_no_drawing_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    source = tmp_path / "source.svg"
    if content is not None:
        source.write_text(content)
    assert cli.main(["redraw", str(source), "a red heart", "--output", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
