"""The recipes of pixels as their user meets them: what they write, their presets, what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guidance import cli


def draw(folder: Path, *tokens: str) -> Path:
    common = ["--steps", "3", "--crops", "1", "--film", "none", "--output", str(folder)]
    assert cli.main([tokens[0], "a red heart", *tokens[1:], *common]) == 0
    (run,) = folder.glob("*/*/run.json")
    assert json.loads(run.read_text())["status"] == "finished"
    return run.with_name("final.png")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("recipe", ["pixels", "fourier"])
def test_pictures_may_be_wide(tmp_path: Path, recipe: str) -> None:
    assert pixels(draw(tmp_path, recipe, "--size", "24", "--width", "36")).shape == (24, 36, 3)


@pytest.mark.parametrize(("recipe", "preset"), [("pixels", "pixray"), ("fourier", "aphantasia")])
def test_peers_settings_fill_the_frame(tmp_path: Path, recipe: str, preset: str) -> None:
    page = pixels(draw(tmp_path / "page", recipe, "--size", "32"))
    filled = pixels(draw(tmp_path / "filled", recipe, "--size", "32", "--preset", preset))
    assert page[:2].mean() > 190 > filled[:2].mean()
    assert filled[:2].std() > 5


def test_pixel_art_is_crisp_and_of_few_colours(tmp_path: Path) -> None:
    picture = pixels(draw(tmp_path, "pixelart", "--cells", "12", "--colours", "3"))
    height, width, _ = picture.shape
    assert height == width
    block = height // 12
    cells = picture.reshape(12, block, 12, block, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= 3


def test_pixel_art_keeps_to_a_palette(tmp_path: Path) -> None:
    picture = pixels(draw(tmp_path, "pixelart", "--cells", "8", "--palette", "#ffffff,#ff004d,#1d2b53"))
    allowed = {(255, 255, 255), (255, 0, 77), (29, 43, 83)}
    assert {tuple(colour) for colour in picture.reshape(-1, 3).tolist()} <= allowed


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["pixels", "--size", "0"], "size"),
        (["pixels", "--width", "0"], "size"),
        (["fourier", "--size", "20000"], "size"),
        (["pixelart", "--cells", "0"], "size"),
        (["pixelart", "--colours", "1"], "colours"),
        (["pixelart", "--palette", "redd"], "no colour 'redd'"),
        (["pixelart", "--palette", "@missing.png"], "missing.png"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: list[str], words: str
) -> None:
    assert cli.main([tokens[0], "a red heart", *tokens[1:], "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()
