"""Teaching languages: a translation comes to mean what the English name meant; guides in two processes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
import two_processes_train
from PIL import Image
from safetensors.torch import load_file
from torchrun import torchrun

import guidance as g
from guidance import cli

GERMAN = {"red square": "roter Kasten", "green square": "grüner Kasten", "blue square": "blauer Kasten"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "captions.csv", ["title", "split"], [[name, "train"] for name in GERMAN])
    write(folder / "captions_multilingual.csv", ["title", "language"], [[n, "de"] for n in GERMAN.values()])
    for name in GERMAN:
        Image.new("RGB", (24, 24), name.split()[0]).save(folder / f"{name}.png")
    return folder


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", *columns])
        writer.writerows([f"{name}.png", *row] for name, row in zip(GERMAN, rows, strict=True))


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guide that has learned nothing yet: two steps."""
    output = tmp_path_factory.mktemp("start") / "model"
    small = ["--image-size=32", "--batch=3", "--sketches=2", "--steps=2", f"--output={output}"]
    assert cli.main(["train-clip", str(data), *small]) == 0
    return output


@pytest.fixture(scope="module")
def teach(data: Path, start: Path) -> Callable[..., int]:
    def run(output: Path, steps: int) -> int:
        small = [f"--steps={steps}", "--batch=3", f"--output={output}"]
        return cli.main(["train-languages", str(data), str(start), *small])

    return run


def test_translations_come_to_mean_what_the_english_names_meant(
    teach: Callable[..., int], start: Path, tmp_path: Path
) -> None:
    assert teach(tmp_path / "out", 100) == 0
    before, after = (g.load(f"local-dir:{folder}") for folder in (start, tmp_path / "out"))
    meant = before.encode_many(list(GERMAN))
    german, german_before = (clip.encode_many(list(GERMAN.values())) for clip in (after, before))
    assert (german @ meant.T).argmax(1).tolist() == [0, 1, 2]
    assert (german - meant).norm(dim=1).max() < 0.5 * (german_before - meant).norm(dim=1).min()
    assert (after.encode_many(list(GERMAN)) - meant).norm(dim=1).max() < 0.2
    old, new = (load_file(folder / "open_clip_model.safetensors") for folder in (start, tmp_path / "out"))
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert "token_embedding" in changed
    assert not changed & {"visual", "logit_scale"}


def test_the_same_command_goes_on(
    teach: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at_second_save: Callable[[], None],
) -> None:
    monkeypatch.setattr("guidance.training.WINDOW", 1)
    monkeypatch.setattr("guidance.training.SAVE_SECONDS", 0.0)
    assert teach(tmp_path / "whole", 4) == 0
    kill_at_second_save()
    assert teach(tmp_path / "died", 4) == 130
    assert teach(tmp_path / "died", 4) == 0
    whole, died = (load_file(tmp_path / n / "open_clip_model.safetensors") for n in ("whole", "died"))
    assert all(torch.equal(whole[name], died[name]) for name in whole)
    lines = (tmp_path / "died" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def together(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one process did, and what two did together, of whom the first thing was wrong; what they said."""
    folder = tmp_path_factory.mktemp("together")

    def runs(processes: str) -> list[list[str]]:
        clip, languages = (f"--output={folder / processes / name}" for name in ("clip", "languages"))
        small = ["--image-size=32", "--batch=2", "--sketches=8", "--steps=4"]
        return [
            ["train-clip", str(data), *small, clip],
            ["train-languages", str(data), str(start), "--batch=2", "--steps=4", languages],
        ]

    odd = [word.replace("--batch=2", "--batch=3") for word in runs("odd")[0]]
    file = folder / "runs.json"
    file.write_text(json.dumps([{"words": words} for words in [odd, *runs("two")]]))
    done = torchrun(two_processes_train.__file__, str(file))
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("guidance.training.WINDOW", 1)
        assert [cli.main(words) for words in runs("one")] == [0, 0]
    return folder, done.stderr


@pytest.mark.parametrize("recipe", ["clip", "languages"])
def test_two_processes_are_one_with_the_whole_batch(recipe: str, together: tuple[Path, str]) -> None:
    folders = [together[0] / processes / recipe for processes in ("one", "two")]
    one, two = (load_file(folder / "checkpoint" / "state.safetensors") for folder in folders)
    # AdamW takes a whole step of 1e-3 even where, as for a key's bias, the gradient is rounding alone; so not
    # every number is the same, but on average they are.
    for name in (name for name in one if name.startswith("module.") and one[name].numel()):
        assert (two[name].double() - one[name].double()).abs().mean() < 2e-5, name
    told = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    assert len(told[0]) == 4
    assert told[1] == [pytest.approx(line, rel=1e-4) for line in told[0]]


def test_a_batch_that_the_processes_cannot_share_is_one_line(together: tuple[Path, str]) -> None:
    said = [line for line in together[1].splitlines() if line.startswith("guidance: ")]
    assert said == ["guidance: batch must be a multiple of the number of processes, 2, got 3"]
    assert not (together[0] / "odd").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "nowhere"}, "no trained model in nowhere"),
        ({"start": "wide"}, "wide has no text tower of train-clip's kind"),
        ({"start": "broken"}, "'local-dir:broken' cannot be loaded"),
        ({"data": "empty"}, "give a folder with captions.csv"),
        ({"data": "english"}, "has no captions_multilingual.csv"),
        ({"--batch": "9"}, "batch must be from 1 to the 3 pictures, got 9"),
        ({"--lr": "-1"}, "lr must be finite and at least 0, got -1"),
    ],
)
def test_wrong_input_is_one_line(
    data: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "english"):
        Path(folder).mkdir()
    for folder in ("wide", "broken"):
        copytree(start, folder)
    config = json.loads(Path("wide", "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    Path("wide", "open_clip_config.json").write_text(json.dumps(config))
    Path("broken", "open_clip_model.safetensors").write_bytes(b"nothing")
    for file in data.iterdir():
        if file.name != "captions_multilingual.csv":
            (Path("english") / file.name).write_bytes(file.read_bytes())
    words = {"data": str(data), "start": str(start), "--batch": "2", "--output": "out"} | change
    options = [f"{name}={value}" for name, value in words.items() if name.startswith("--")]
    assert cli.main(["train-languages", words["data"], words["start"], *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("out").exists()
