"""The recipes that edit a generator's latents, as their user meets them, on a small random generator."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from guidance import cli, media, run
from guidance.clock import Clock
from guidance.generator.loading import load_generator, save_generator
from guidance.generator.stylegan2 import Generator, randomize_
from guidance.losses import ClipLoss
from guidance.starting import start_from

Folder = Callable[..., Path]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    generator = Generator((4, 3), style_dim=6, mapping_layers=2)
    randomize_(generator, Clock())
    save_generator(tmp_path / "generator.safetensors", generator)
    return tmp_path / "generator.safetensors"


def edit(model: Path, network: Path, output: Path, *options: object, recipe: str = "edit") -> int:
    settings = {"--generator": network, "--clip": f"local-dir:{model}", "--steps": 4, "--crops": 1}
    common = [word for pair in settings.items() if pair[0] not in options for word in pair]
    return cli.main([str(word) for word in (recipe, "a red heart", *common, "--output", output, *options)])


def written(output: Path) -> Path:
    (folder,) = output.glob("*/a-red-heart-0")
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    return folder


def shown(folder: Path, name: str) -> torch.Tensor:
    return media.read_image(folder / f"{name}.png")


def test_a_latent_is_optimised(tmp_path: Path, model_folder: Folder, network: Path) -> None:
    assert edit(model_folder("vit"), network, tmp_path, "--draws", 3) == 0
    folder = written(tmp_path)
    first, *_, last = shown(folder, "strip").chunk(5, dim=-1)
    assert torch.equal(first, shown(folder, "before"))
    assert (last - shown(folder, "final")).abs().max() < 2 / 255
    assert not torch.equal(first, last)
    assert (folder / "timelapse.mp4").exists()
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["near"] == [0.0]


def test_a_picture_is_edited(
    tmp_path: Path, model_folder: Folder, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "start_from", partial(start_from, steps=25))
    generator = load_generator(network)
    goal = generator(generator.draw(Clock(seed=9), 1, 0.7))
    media.write_png(tmp_path / "mine.png", goal)
    assert edit(model_folder("vit"), network, tmp_path, "--start", tmp_path / "mine.png", "--draws", 1) == 0
    drawn = generator(generator.draw(Clock(), 1, 0.7))
    before = shown(written(tmp_path), "before")
    assert (before - goal).square().mean() < 0.5 * (drawn - goal).square().mean()


def test_a_direction_is_followed(tmp_path: Path, model_folder: Folder, network: Path) -> None:
    options = (
        "--method",
        "direction",
        "--source",
        "the blue whale",
        "--latents",
        1,
        "--beta",
        0,
        "--draws",
        1,
    )
    assert edit(model_folder("vit"), network, tmp_path, *options, "--strength", 2) == 0
    folder = written(tmp_path)
    first, *_, last = shown(folder, "strip").chunk(5, dim=-1)
    assert torch.equal(first, shown(folder, "before"))
    assert torch.equal(last, shown(folder, "final"))
    assert not torch.equal(first, last)


def test_a_mapper_is_trained_and_applied(tmp_path: Path, model_folder: Folder, network: Path) -> None:
    train = ("--batch", 2, "--groups", "coarse", "--lr", 0.1)
    assert edit(model_folder("vit"), network, tmp_path / "a", *train, recipe="train-mapper") == 0
    mapper = written(tmp_path / "a") / "mapper.safetensors"
    assert edit(model_folder("vit"), network, tmp_path / "b", "--method", "mapper", "--mapper", mapper) == 0
    folder = written(tmp_path / "b")
    assert torch.equal(shown(folder, "strip").chunk(5, dim=-1)[-1], shown(folder, "final"))
    assert not torch.equal(shown(folder, "before"), shown(folder, "final"))


@pytest.mark.parametrize(("recipe", "options"), [("edit", ()), ("train-mapper", ("--batch", "2"))])
def test_a_run_that_died_is_resumed_to_the_same_end(
    tmp_path: Path,
    model_folder: Folder,
    network: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    options: tuple[str, ...],
) -> None:
    assert edit(model_folder("vit"), network, tmp_path / "whole", *options, recipe=recipe) == 0
    see, calls = ClipLoss.__call__, iter(range(10))

    def dies(self: ClipLoss, image: torch.Tensor) -> torch.Tensor:
        if next(calls) == 2:
            raise RuntimeError("power cut")
        return see(self, image)

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "__call__", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            edit(model_folder("vit"), network, tmp_path / "died", *options, recipe=recipe)
    (folder,) = (tmp_path / "died").glob("*/a-red-heart-0")
    assert cli.main(["resume", str(folder)]) == 0
    whole = written(tmp_path / "whole")
    for path in whole.glob("*.*"):
        if path.suffix == ".png":
            assert torch.equal(media.read_image(path), media.read_image(folder / path.name)), path.name
        elif path.name != "run.json":
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "mapper"], "needs a mapper"),
        (["--mapper", "x.safetensors"], "needs a mapper"),
        (["--method", "mapper", "--mapper", "x.safetensors"], "there is no mapper at x.safetensors"),
        (["--method", "direction", "--clip", "tiny | ViT-B/32"], "one model"),
        (["--generator", "ffhq.pkl"], "there is no generator at ffhq.pkl"),
        (["--draws", "0"], "got 0"),
        (["--truncation", "9"], "truncation must be from 0 to 2, got 9"),
        (["--source", " "], "must not be empty"),
        (["--start", "missing.png"], "missing.png"),
        (["--l2", "nan"], "l2 must be"),
        (["--beta", "inf"], "beta must be"),
        (["--strength", "nan"], "strength must be"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path,
    model_folder: Folder,
    network: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert edit(model_folder("vit"), network, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "split"])
        for i, colour in enumerate(["red", "green", "blue", "yellow", "grey"]):
            Image.new("RGB", (24, 24), colour).save(folder / f"{i}.png")
            name = "grey" if colour == "grey" else f"{colour} heart"
            writer.writerow([f"{i}.png", name, "val" if colour == "blue" else "train"])
    return folder


def train(data: Path, output: Path, batch: int = 3, *options: object) -> int:
    small = ["--channels", 4, "--channels", 3, "--style-dim", 4, "--batch", batch, "--steps", 3]
    words = ["train-generator", data, *small, "--output", output, *options]
    return cli.main([str(word) for word in words])


def test_a_generator_is_trained_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidance.training.WINDOW", 1)
    monkeypatch.setattr("guidance.generator.train.MAPPING_STEPS", 10)
    assert train(data, tmp_path / "whole") == 0
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    from guidance import checkpoint

    save, saves = checkpoint.save, iter(range(10))

    def die(*arguments: object) -> None:
        save(*arguments)
        if next(saves) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("guidance.checkpoint.save", die)
    assert train(data, tmp_path / "died") == 130
    assert train(data, tmp_path / "died") == 0
    for name in ("generator.safetensors", "samples.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "died" / name).read_bytes()
    assert load_generator(tmp_path / "whole" / "generator.safetensors").size == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([3, "--names", "dog"], "no picture has a name like 'dog'"),
        ([3, "--names", "("], "names must be a regular expression"),
        ([4], "batch must be from 1 to the 3 pictures, got 4"),
    ],
)
def test_a_training_that_cannot_be_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list, words: str
) -> None:
    assert train(data, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_strength_that_nothing_would_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["edit", "blue heart", "--strength", "2", "--output", str(tmp_path / "out")]) == 2
    assert "the method latent has no strength" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
