"""The recipe that trains an autoencoder: it goes on where it stopped; what it writes is loaded."""

import csv
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


def test_the_same_command_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(data, tmp_path / "whole") == 0

    # Every step is saved, and the second training is killed after its second one.
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    saves: list[int] = []

    def die(*arguments: object) -> None:
        save(*arguments)
        saves.append(0)
        if len(saves) == 2:
            raise KeyboardInterrupt

    from guidance import checkpoint

    save = checkpoint.save
    monkeypatch.setattr("guidance.checkpoint.save", die)
    assert train(data, tmp_path / "died") == 130
    assert train(data, tmp_path / "died") == 0
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
        ({"channels": 8}, "channels must be multiples of 4 from 16, got (8, 16, 16)"),
        ({"start": "nowhere"}, "there is no model in nowhere"),
        ({"batch": 9}, "batch must be from 1 to the 3 pictures"),
    ],
)
def test_wrong_input_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], message: str
) -> None:
    assert train(data, tmp_path / "out", **options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_another_training_does_not_take_the_folder_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "out") == 0
    before = load_file(tmp_path / "out" / WEIGHTS)
    assert train(data, tmp_path / "out", lr=0.5) == 2
    assert "has lr 0.0005, got 0.5; choose another output" in capsys.readouterr().err
    after = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before)
