"""The recipe that trains an autoencoder: it goes on where it stopped; what it writes is loaded."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import guidance as g
from guidance import cli

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "split"])
        for i, colour in enumerate(["red", "green", "blue", "yellow"]):
            Image.new("RGB", (24, 24), colour).save(folder / f"{i}.png")
            writer.writerow([f"{i}.png", colour, "val" if colour == "blue" else "train"])
    return folder


def train(data: Path, output: Path, **options: object) -> int:
    settings = {"image_size": 16, "batch": 2, "steps": 4, "output": output, **options}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return cli.main(["train-vae", str(data), *words, "--channels=16", "--channels=16"])


def test_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at_second_save: Callable[[], None]
) -> None:
    monkeypatch.setattr("guidance.training.WINDOW", 2)
    assert train(data, tmp_path / "whole", steps=5) == 0

    # Every second step is saved, and the second training is killed after its second save.
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    kill_at_second_save()
    assert train(data, tmp_path / "died", steps=5) == 130
    # What a kill may leave of a line that it was in the middle of.
    with (tmp_path / "died" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "pix')
    assert train(data, tmp_path / "died", steps=5) == 0
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "died")]
    assert lines[0] == lines[1]
    assert lines[0].count("\n") == 3
    whole, died = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "died"))
    assert all(torch.equal(whole[name], died[name]) for name in whole)

    # It is in diffusers' layout, and can be started from.
    vae = g.load_vae(f"local-dir:{tmp_path / 'whole'}")
    assert vae.encode(torch.rand(1, 3, 8, 12)).shape == (1, 4, 4, 6)
    assert train(data, tmp_path / "more", start=tmp_path / "whole", lr=1e-9) == 0
    more = load_file(tmp_path / "more" / WEIGHTS)
    name = "decoder.mid_block.resnets.0.conv1.weight"
    assert torch.equal(more[name], whole[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 17}, "image_size must be a multiple of 2, got 17"),
        ({"image_size": 0}, "image_size must be a multiple of 2, got 0"),
        ({"latent_channels": 2}, "latent_channels must be at least 3"),
        ({"channels": 8}, "channels must be multiples of 4 from 16, got (8, 16, 16)"),
        ({"start": "nowhere"}, "there is no model in nowhere"),
        ({"start": g.__path__[0] + "/models/tiny_vae"}, "has another architecture"),
        ({"batch": 9}, "batch must be from 1 to the 3 pictures"),
        ({"lr": "nan"}, "lr must be finite and at least 0, got nan"),
        ({"kl": -1}, "kl must be finite and at least 0, got -1.0"),
    ],
)
def test_wrong_input_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], message: str
) -> None:
    assert train(data, tmp_path / "out", **options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_training_does_not_take_the_folder_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "out") == 0
    before = load_file(tmp_path / "out" / WEIGHTS)
    assert train(data, tmp_path / "out", lr=0.5) == 2
    assert "has lr 0.0005, got 0.5; choose another output" in capsys.readouterr().err
    after = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("settings", ["", "[1]", "file"])
def test_a_folder_that_is_none_of_a_training_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str
) -> None:
    output = tmp_path / "out"
    if settings == "file":
        output.touch()
    else:
        output.mkdir()
        (output / "settings.json").write_text(settings)
    assert train(data, output) == 2
    assert capsys.readouterr().err.endswith("choose another output\n")
    assert settings == "file" or (output / "settings.json").read_text() == settings


@pytest.mark.parametrize("steps", [1, 4])
def test_what_diverges_is_not_saved(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    # In float32 this weight is infinite: the first step is seen well, and makes weights that are no numbers.
    assert train(data, tmp_path / "out", kl=1e39, steps=steps) == 1
    assert "is not finite at step" in capsys.readouterr().err
    assert not (tmp_path / "out" / WEIGHTS).exists()
