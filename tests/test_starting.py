"""What canvases start from: pictures, runs; and that a resumed run needs neither again."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidance import cli, media
from guidance import run as run_module
from guidance.canvas import Shapes, Strokes
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.run import Run
from guidance.starting import fit, start_from


def strokes(paths: int = 60, b: int = 1, seed: int = 0) -> Strokes:
    widths = {"width": (3.0, 6.0), "width_limits": (1.0, 10.0)}
    return Strokes(paths, 40, Clock(seed=seed), b=b, segments=(1, 1), **widths)


def picture(folder: Path) -> Path:
    """Red above, blue below, twice as wide as high."""
    image = torch.zeros(1, 3, 30, 60)
    image[:, 0, :15] = 1
    image[:, 2, 15:] = 1
    path = folder / "picture.png"
    media.write_png(path, image)
    return path


def distance(canvas: Strokes | Shapes, path: Path) -> Tensor:
    target = torch.nn.functional.interpolate(media.read_image(path), (40, 40), mode="area")
    return (canvas() - target).square().mean((1, 2, 3)).detach()


def test_fit_brings_every_member_to_the_picture(tmp_path: Path) -> None:
    canvas, path = strokes(b=2), picture(tmp_path)
    before = distance(canvas, path)
    fit(canvas, media.read_image(path), Clock(60))
    assert (distance(canvas, path) < 0.25 * before).all()
    assert canvas()[:, 0, 5, 20].min() > 0.6 > 0.4 > canvas()[:, 2, 5, 20].max()


def test_a_canvas_starts_from_a_picture_and_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canvas, path = strokes(), picture(tmp_path)
    twin = strokes()
    start_from(canvas, path, steps=30)
    fit(twin, media.read_image(path), Clock(30))
    assert canvas().equal(twin())
    assert "step 30/30  pixels 0." in capsys.readouterr().err


def draw(output: Path, canvas: Strokes, *, dies: int = -1, **changes: object) -> Path:
    """A recipe that darkens, and remembers what it started from as a loss may."""
    arguments = {"prompt": "x", "seed": 0, "output": output, "resume": None, "film": "none"} | changes
    run, clock = Run("dark.py", arguments), Clock(6)
    run.start(canvas)
    start = canvas().detach()

    def loss(image: Tensor) -> Tensor:
        if clock.index == dies:
            raise RuntimeError("power cut")
        return image.mean((1, 2, 3)) + (image - start).square().mean((1, 2, 3))

    for _ in run.optimize(canvas, {"dark": loss}, clock):
        pass
    return run.finish(canvas, size=40)


def test_a_canvas_starts_from_what_a_run_has_drawn(tmp_path: Path) -> None:
    first, second = strokes(), strokes(seed=5)
    folder = draw(tmp_path, first)
    assert not second().equal(first())
    start_from(second, folder)
    assert second().equal(first())
    assert json.loads((draw(tmp_path, strokes(), start=folder) / "run.json").read_text())["settings"][
        "start"
    ] == str(folder)


@pytest.mark.parametrize(
    ("canvas", "words"),
    [
        (strokes(paths=59), r"does not fit this Strokes, which needs points \[.*\], got \[.*\]; start from"),
        (strokes(b=2), "does not fit this Strokes"),
        (Shapes(60, 40, Clock()), "does not fit this Shapes"),
    ],
)
def test_another_canvas_is_told(tmp_path: Path, canvas: Strokes | Shapes, words: str) -> None:
    folder = draw(tmp_path, strokes())
    before = canvas()
    with pytest.raises(InputError, match=words) as caught:
        start_from(canvas, folder)
    assert "\n" not in str(caught.value)
    assert canvas().equal(before)


def test_what_is_nothing_to_start_from_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    for name in ("a.png", "missing.png", ".", "x" * 5000):
        with pytest.raises(InputError):
            start_from(strokes(), tmp_path / name)


@pytest.mark.parametrize(("dies", "of_run"), [(0, True), (3, False)])
def test_a_resumed_run_needs_its_start_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: int, of_run: bool
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)
    path = draw(tmp_path / "first", strokes(seed=3)) if of_run else picture(tmp_path)
    whole = draw(tmp_path / "whole", strokes(), start=path)
    with pytest.raises(RuntimeError, match="power cut"):
        draw(tmp_path / "died", strokes(), dies=dies, start=path)
    path.rename(tmp_path / "gone")
    folder = draw(tmp_path, strokes(), start=path, resume=tmp_path / "died" / "dark" / "x-0")
    for name in ("metrics.jsonl", "final.svg"):
        assert (folder / name).read_text() == (whole / name).read_text()


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--steps", "1", "--size", "32", "--paths", "20", "--crops", "1", "--output", str(tmp_path)]
    assert cli.main(["clipdraw", "x", "--start", str(picture(tmp_path)), *common]) == 0
    drawn = media.read_image(tmp_path / "clipdraw" / "x-0" / "final.png")
    assert drawn[:, 0, :400].mean() > drawn[:, 0, 600:].mean() + 0.2
    capsys.readouterr()
    assert cli.main(["shapes", "x", "--start", str(tmp_path / "clipdraw" / "x-0"), *common]) == 2
    assert capsys.readouterr().err.count("\n") == 1
