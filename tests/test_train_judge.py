"""The judge's training: paintings come near their pictures, styles stay pictures, and a training goes on."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import guidance as g
from guidance import cli
from guidance.canvas.brushes import brushes
from guidance.clip.judge import paint, restyle


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    found = brushes(32, g.Clock(seed=1), 64)
    return found[found.sum((1, 2)).argsort(descending=True)]


def pictures() -> torch.Tensor:
    page = torch.ones(3, 3, 32, 32)
    page[0, :, 8:24, 8:24] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    page[1, :, 4:28, 12:20] = 0.2
    page[2, :, :, 16:] = torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    return page


def test_brushes_cover_something_of_the_page(masks: torch.Tensor) -> None:
    assert masks.shape == (64, 32, 32)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert (masks.amax((1, 2)) > 0).float().mean() > 0.8


def test_a_painting_comes_nearer_with_every_stroke_that_is_kept(masks: torch.Tensor) -> None:
    page, goal = torch.ones(3, 3, 32, 32), pictures()

    def error(strokes: int) -> torch.Tensor:
        painting = paint(goal, masks, g.Clock(seed=2).generator("paint"), strokes)
        assert painting.min() >= 0
        assert painting.max() <= 1 + 1e-6
        return (painting - goal).square().sum((1, 2, 3))

    blank = (page - goal).square().sum((1, 2, 3))
    assert (error(200) < 0.6 * blank).all()
    assert (error(1) <= blank).all()
    plain = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(paint(plain, masks, g.Clock().generator("paint"), 20), plain, atol=1e-5)


def test_styles_are_drawn_from_the_generator_and_stay_pictures(masks: torch.Tensor) -> None:
    goal = pictures().repeat(20, 1, 1, 1)
    styled = restyle(goal, masks, g.Clock().generator("style"))
    assert torch.equal(styled, restyle(goal, masks, g.Clock().generator("style")))
    assert styled.min() >= 0
    assert styled.max() <= 1
    # Every picture can still be told from the others of its kind by its pixels, in most styles.
    nearest = (styled.flatten(1)[:, None] - pictures().flatten(1)).square().sum(2).argmin(1)
    assert (nearest == torch.arange(3).repeat(20)).float().mean() > 0.8


def test_a_judge_is_trained_and_a_training_that_died_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filepath", "title"])
        for colour in ("red", "lime", "blue"):
            Image.new("RGB", (24, 24), colour).save(tmp_path / f"{colour}.png")
            rows.writerow([f"{colour}.png", colour])

    def train(output: Path) -> int:
        small = ["--image-size", "32", "--batch", "2", "--steps", "3", "--output", str(output)]
        return cli.main(["train-judge", str(tmp_path), *small])

    assert train(tmp_path / "whole") == 0
    assert "painted: first" in capsys.readouterr().out
    assert g.load(f"local-dir:{tmp_path / 'whole'}").image_size == 32

    from guidance import checkpoint

    monkeypatch.setattr("guidance.training.WINDOW", 1)
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    save = checkpoint.save

    def die(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("guidance.checkpoint.save", die)
    assert train(tmp_path / "died") == 130
    monkeypatch.setattr("guidance.checkpoint.save", save)
    assert train(tmp_path / "died") == 0
    whole, died = (load_file(tmp_path / which / "open_clip_model.safetensors") for which in ("whole", "died"))
    assert all(torch.equal(whole[name], died[name]) for name in whole)
