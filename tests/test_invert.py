"""The recipes that change what a diffusion model is told: tune, imagic and invert."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guidance import cli, media, run
from guidance.diffusion import learning
from guidance.diffusion.conditioning import load_condition
from guidance.diffusion.inversion import load_word

sys.path.append(str(Path(__file__).parent / "diffusion"))
from small_pipelines import write

COMMON = ["--sampling", 2, "--film", "none", "--seed", 3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write(tmp_path_factory.mktemp('pipeline'))}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        media.write_png(folder / f"{i}.png", torch.linspace(0, 1 - i / 2, 300).view(1, 3, 10, 10))
    return folder


def draw(recipe: str, *tokens: object, output: Path) -> Path:
    assert cli.main([recipe, *map(str, [*tokens, *COMMON, "--output", output])]) == 0
    (found,) = (output / recipe).iterdir()
    return found


def die_at(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut in the step after so many."""
    look, calls = learning.denoising_error, iter(range(100))

    def dies(*given: object) -> torch.Tensor:
        if next(calls) == error:
            raise RuntimeError("power cut")
        return look(*given)

    monkeypatch.setattr(learning, "denoising_error", dies)
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)


def same(one: Path, other: Path, names: list[str]) -> None:
    for name in [*names, "metrics.jsonl"]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


Options = Callable[[Path], list[object]]
RECIPES: dict[str, tuple[Options, list[str]]] = {
    "invert": (lambda p: [p, "a <it>", "--initial", "red heart"], ["it.safetensors"]),
    "imagic": (lambda p: [p / "0.png", "a blue heart"], ["picture.safetensors", "way.png"]),
}
TUNED = ["--tune-steps", 3, "--tune-rate", 0.001]


@pytest.mark.parametrize(
    ("recipe", "steps"), [("invert", [5]), ("imagic", [5]), ("imagic", [2, *TUNED]), ("imagic", [4, *TUNED])]
)
def test_a_killed_run_goes_on_to_the_same(
    recipe: str,
    steps: list[object],
    model: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, files = RECIPES[recipe]
    tokens = [*options(pictures), "--model", model, "--batch", 2, "--steps", *steps]
    whole = draw(recipe, *tokens, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        die_at(3, patch)
        with pytest.raises(RuntimeError, match="power cut"):
            draw(recipe, *tokens, output=tmp_path / "died")
    (died,) = (tmp_path / "died" / recipe).iterdir()
    assert cli.main(["resume", str(died)]) == 0
    same(died, whole, files)
    images = [media.read_image(folder / "final.png") for folder in (died, whole)]
    assert torch.equal(*images)
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == steps[0] + 3 * (len(steps) > 1)
    assert json.loads((whole / "run.json").read_text())["status"] == "finished"


def test_a_word_has_learned_of_its_pictures(model: str, pictures: Path, tmp_path: Path) -> None:
    tokens = [pictures, "--word", "<Two>", "--vectors", 2, "--model", model, "--steps", 16, "--mirrored"]
    folder = draw("invert", *tokens, "a <Two>", output=tmp_path / "out")
    word = load_word(folder / "Two.safetensors")
    assert word.text == "<Two>"
    assert [rows.shape for rows in word.vectors] == [(2, 32)]
    errors = [json.loads(line)["error"][0] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(errors[-5:]) < sum(errors[:5])


def test_strength_is_the_way_from_the_picture_to_the_words(
    model: str, pictures: Path, tmp_path: Path
) -> None:
    finals = []
    for strength in (0, 0.6, 1):
        tokens = [pictures / "0.png", "a blue heart", "--model", model, "--steps", 3, "--batch", 1]
        folder = draw("imagic", *tokens, "--strength", strength, output=tmp_path / str(strength))
        finals.append(media.read_image(folder / "final.png"))
    way = media.read_image(folder / "way.png")
    size = finals[0].shape[-1]
    # The sheet has six pictures from the picture to the words; of this run, three of them.
    tiles = [way[..., y : y + size, x : x + size] for y, x in places(way, size)]
    for final in finals:
        assert any(torch.equal(tile, final) for tile in tiles)
    assert load_condition(folder / "picture.safetensors").hidden.shape == (1, 12, 32)


def test_a_tuned_network_knows_the_picture_better_and_leaves_the_embedding(
    model: str, pictures: Path, tmp_path: Path
) -> None:
    tokens = [pictures / "0.png", "a blue heart", "--model", model, "--steps", 2, "--strength", 0]
    plain = draw("imagic", *tokens, output=tmp_path / "plain")
    tuned = draw("imagic", *tokens, "--tune-steps", 40, "--tune-rate", 0.003, output=tmp_path / "tuned")
    conditions = [load_condition(folder / "picture.safetensors").hidden for folder in (plain, tuned)]
    # The rate of the embedding falls over its own steps, not over all.
    assert torch.equal(*conditions)
    errors = [json.loads(line)["error"][0] for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert len(errors) == 42
    assert sum(errors[-10:]) < 0.8 * sum(errors[2:12])
    images = [media.read_image(folder / "final.png") for folder in (plain, tuned)]
    assert not torch.equal(*images)


def places(sheet: torch.Tensor, size: int) -> list[tuple[int, int]]:
    height, width = sheet.shape[-2:]
    return [(y, x) for y in range(height - size + 1) for x in range(width - size + 1)]


def test_tuning_raises_the_score(model: str, tmp_path: Path) -> None:
    tokens = ["a red heart", "--model", model, "--crops", 2, "--steps", 32, "--rate", 0.1, "--best-of", 2]
    folder = draw("tune", *tokens, output=tmp_path / "out")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = torch.tensor([json.loads(line)["clip"] for line in lines])
    assert (losses[-4:].mean(0) < losses[:4].mean(0) - 0.01).all()
    assert load_condition(folder / "embedding.safetensors").hidden.shape == (1, 12, 32)
    before, after = (media.read_image(folder / name) for name in ("before.png", "final.png"))
    assert (before - after).abs().max() > 0.01


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["tune", "a fox", "--rate", "nan"], "rate must be a finite number"),
        (["tune", "a fox", "--radius", "0"], "radius must be above 0, got 0"),
        (["tune", "@cat.png"], "give them: --begin cat"),
        (["imagic", "PICTURE", "a fox", "--strength", "inf"], "strength must be a finite number, got inf"),
        (["imagic", "missing.png", "a fox"], "missing.png"),
        (["imagic", "x" * 300, "a fox"], "there is no picture at xxx"),
        (["imagic", "PICTURE", "a fox", "--scale", "nan"], "scale must be a finite number, got nan"),
        (["imagic", "PICTURE", "a fox", "--batch", "0"], "batch must be at least 1, got 0"),
        (["imagic", "PICTURE", "a fox", "--tune-steps", "-1"], "tune_steps must be at least 0"),
        (
            ["imagic", "PICTURE", "a fox", "--tune-steps", "1", "--precision", "bfloat16"],
            "in float32 and whole",
        ),
        (["invert", "PICTURE", "a fox"], "must have the word to learn in it, such as <it>, got 'a fox'"),
        (["invert", "PICTURE", "--word", "two words", "--prompt", "two words"], "one word"),
        (["invert", "PICTURE", "--initial", ""], "must have a token, got ''"),
        (["invert", "PICTURE", "--sampling", "0"], "steps must be from 1 to 1000"),
    ],
)
def test_a_mistake_is_one_line(
    tokens: list[str],
    words: str,
    model: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(pictures / "0.png") if token == "PICTURE" else token for token in tokens]
    assert cli.main([*given, "--model", model, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]
    assert not (tmp_path / "out").exists()
