"""The recipes that draw on other canvases than clipdraw's: what they write and refuse, and their settings."""

import json
from pathlib import Path

import pytest
import torch

from guidance import cli, run
from guidance.media import write_png

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
    options = {"steps", "size", "seed", "clip", "crops", "templates", "device", "precision", "output"}
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


@pytest.mark.parametrize(
    "recipe", ["clipdraw", "shapes", "pixels", "fourier", "pixelart", "latents", "morph"]
)
def test_a_misspelt_model_is_told_before_the_picture_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(run, "start_from", lambda *_: pytest.fail("fitted"))
    write_png(tmp_path / "start.png", torch.ones(1, 3, 8, 8))
    tokens = [recipe, "a red heart", "--clip", "tinny", "--start", str(tmp_path / "start.png")]
    assert cli.main([*tokens, "--output", str(tmp_path / "out")]) == 2
    assert "unknown model 'tinny'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["shapes", "pixels", "fourier", "pixelart", "latents", "morph"])
def test_texts_are_put_into_templates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    templates = tmp_path / "templates.txt"
    templates.write_text("no braces")
    tokens = [recipe, "a red heart", "--templates", str(templates), "--output", str(tmp_path / "out")]
    assert cli.main(tokens) == 2
    assert "number 1 is 'no braces'" in capsys.readouterr().err
