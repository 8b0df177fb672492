"""The training recipe as its user meets it: it goes on where it stopped; one line for everything wrong."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from guidance import cli
from guidance.clip.bpe import train_tokenizer, write_tokenizer
from guidance.shipped import recipes


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


def train(data: Path, output: Path, *options: object) -> int:
    small = {"--image-size": 32, "--batch": 3, "--sketches": 2, "--steps": 4, "--output": output}
    settings = small | dict(zip(options[::2], options[1::2], strict=True))
    return cli.main(["train-clip", str(data), *(f"{name}={value}" for name, value in settings.items())])


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "open_clip_model.safetensors")


def test_the_same_command_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at_second_save: Callable[[], None]
) -> None:
    monkeypatch.setattr("guidance.training.WINDOW", 1)
    assert train(data, tmp_path / "whole") == 0

    # Every step is saved, and the second training is killed after its second one.
    times = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    kill_at_second_save()
    assert train(data, tmp_path / "died") == 130
    assert train(data, tmp_path / "died") == 0
    whole, died = weights(tmp_path / "whole"), weights(tmp_path / "died")
    assert all(torch.equal(whole[name], died[name]) for name in whole)
    lines = (tmp_path / "died" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_locked_text_tower_stays(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "first") == 0
    locked = ("--start", tmp_path / "first", "--lock-text", "true")
    assert train(data, tmp_path / "second", *locked) == 0
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    towers = {name: torch.equal(first[name], second[name]) for name in first}
    assert all(same for name, same in towers.items() if not name.startswith(("visual.", "logit_scale")))
    assert not any(same for name, same in towers.items() if name.startswith("visual.") and "weight" in name)


def test_another_start_gives_its_own_tokenizer(data: Path, tmp_path: Path) -> None:
    """Of other captions as many tokens would be learned, but others, with no weight out of shape."""
    assert train(data, tmp_path / "first") == 0
    captions = data / "captions.csv"
    spelt = captions.read_text().translate(str.maketrans("redgnblyow", "xyzqjkvpfm"))
    captions.write_text(
        "filepath,title,split"
        + "".join(f"\n{i}.png,{line.split(',')[1]},train" for i, line in enumerate(spelt.splitlines()[1:]))
    )
    second = tmp_path / "second"
    assert train(data, second, "--start", tmp_path / "first") == 0
    tokenizers = [
        json.loads((f / "tokenizer.json").read_text())["model"] for f in (tmp_path / "first", second)
    ]
    assert tokenizers[0] == tokenizers[1]


def test_another_training_does_not_take_the_folder_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "out") == 0
    before = weights(tmp_path / "out")
    capsys.readouterr()
    assert train(data, tmp_path / "out", "--lr", 0.5) == 2
    assert "has lr 0.001, got 0.5; choose another output" in capsys.readouterr().err
    after = weights(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-model", "convnext_zepto"], "did you mean convnext_zepto_rms"),
        (["--start", "nowhere"], "no trained model in nowhere"),
        (["--start", "x" * 300], "no trained model in xxx"),
        (["--start", "wordless"], "tokenizer.json is broken"),
        (["--start", "half"], "open_clip_model.safetensors is broken (No such file"),
        (["--lock-text", "true"], "name that with --start"),
        (["--start", "broken"], "open_clip_model.safetensors is broken"),
        (["--batch", "9"], "batch must be from 1 to the 3 pictures"),
        (["--sketches", "0"], "sketches must be from 1 to 1024, got 0"),
        (["--seed", "x"], "--seed"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_wrong_input_is_one_line(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("broken", "half", "wordless"):
        Path(folder).mkdir()
    Path("broken", "open_clip_model.safetensors").write_bytes(b"nothing")
    for folder in ("broken", "half"):
        write_tokenizer(Path(folder), train_tokenizer(["a heart"], 300), 32)
    Path("wordless", "tokenizer.json").write_text("{}")
    assert train(data, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["none", "x" * 300])
def test_no_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / name, tmp_path / "out") == 2
    assert "give a folder with captions.csv" in capsys.readouterr().err


def test_the_recipe_is_shipped() -> None:
    assert "train_clip" in recipes()
