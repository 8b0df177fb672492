"""`guidance train` as its user meets it: alone and in two processes, killed and resumed, evaluated, wrong."""

import csv
import hashlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
import two_processes_train
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torchrun import torchrun

import guidance as g
from guidance import cli, training

STEPS = 6
COLOURS = ["red", "green", "blue", "yellow", "black", "orange"]
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 300, "width": 16, "heads": 2, "layers": 2},
}
#: The losses that need most beside the model: a bias, two views of both, a language model's head.
LOSSES = ["--contrast=siglip", "--multiview=0.1", "--masked-language=0.05"]

Train = Callable[..., list[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve coloured shapes with their names, of which two are held out."""
    folder = tmp_path_factory.mktemp("shapes")
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "split"])
        for colour in COLOURS:
            for shape in ("square", "disc"):
                picture = Image.new("RGB", (40, 40), "white")
                draw = ImageDraw.Draw(picture)
                (draw.rectangle if shape == "square" else draw.ellipse)((8, 8, 32, 32), fill=colour)
                picture.save(folder / f"{colour} {shape}.png")
                split = "val" if colour == "orange" else "train"
                writer.writerow([f"{colour} {shape}.png", f"a {colour} {shape}", split])
    (folder / "vit.json").write_text(json.dumps(ARCHITECTURE))
    return folder


@pytest.fixture(scope="module")
def words(data: Path) -> Train:
    """The words of a small training's command line."""

    def make(output: Path, *more: str, losses: list[str] = LOSSES) -> list[str]:
        small = ["--vocabulary=300", f"--steps={STEPS}", "--batch=8", "--micro-batch=3", "--evaluate=3"]
        named = [f"--architecture={data / 'vit.json'}", f"--output={output}", "--device=cpu"]
        # Of options that are given twice the later one counts.
        options = dict(word.split("=", 1) for word in [*named, *small, *losses, *more])
        return ["train", str(data), *(f"{name}={value}" for name, value in options.items())]

    return make


def start(folder: Path, name: str, runs: list[dict], processes: int = 2) -> subprocess.CompletedProcess[str]:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(runs))
    return torchrun(two_processes_train.__file__, str(file), processes=processes)


def codes(folder: Path, name: str, rank: int) -> list[int]:
    return json.loads((folder / f"{name}.{rank}").read_text())


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, words: Train, data: Path) -> tuple[Path, str]:
    """What two processes did one after the other, the last time until one of them was killed; and stderr."""
    folder = tmp_path_factory.mktemp("together")
    # Each rank is given another folder, of which the second's is not there.
    wrong = ["train", f"{folder}/data-RANK", *words(folder / "a")[2:]]
    runs = [
        {"words": words(folder / "ddp")},
        {"words": words(folder / "fsdp", "--sharding=fsdp")},
        {"words": words(folder / "a", "--batch=7")},
        {"words": wrong},
        {"words": words(folder / "killed"), "save": 0, "kill": [1, 3]},
    ]
    copytree(data, folder / "data-0")
    done = start(folder, "runs", runs)
    assert done.returncode != 0
    copytree(folder / "killed", folder / "sharded")
    goes_on = [
        {"words": words(folder / "killed")},
        {"words": words(folder / "sharded", "--sharding=fsdp")},
    ]
    again = start(folder, "again", goes_on)
    assert again.returncode == 0, again.stderr
    return folder, done.stderr


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, words: Train) -> tuple[Path, str]:
    """What one process did: nothing befell `whole`; it was killed twice, and signalled; and stderr."""
    folder = tmp_path_factory.mktemp("single")
    saved, lost, stopped = (words(folder / name) for name in ("saved", "lost", "stopped"))
    first = [{"words": words(folder / "whole")}, {"words": saved, "save": 0, "kill": [0, 4]}]
    second = [{"words": saved}, {"words": lost, "kill": [0, 4]}]
    third = [
        {"words": lost},
        {"words": stopped, "sent": [signal.SIGTERM, 1]},
        {"words": stopped, "sent": [signal.SIGINT, 3]},
        {"words": stopped},
    ]
    assert start(folder, "first", first, 1).returncode == -signal.SIGKILL
    assert (folder / "saved/open_clip_model.safetensors").exists()
    assert start(folder, "second", second, 1).returncode == -signal.SIGKILL
    assert not (folder / "lost/open_clip_model.safetensors").exists()
    done = start(folder, "third", third, 1)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.fixture(scope="module")
def alone(single: tuple[Path, str]) -> Path:
    return single[0] / "whole"


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "open_clip_model.safetensors").read_bytes()).hexdigest()


def lines(folder: Path) -> list[dict]:
    """The metrics but for the speed, which is never the same."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if n != "pictures_per_second"} for line in found]


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "sharded"])
def test_two_processes_are_one_with_the_whole_batch(
    kind: str, together: tuple[Path, str], alone: Path
) -> None:
    folder = together[0] / kind
    ours, theirs = lines(alone), lines(folder)
    assert [line["step"] for line in theirs] == [1, 2, 3, 3, 4, 5, 6, 6]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    first, second = (
        load_file(alone / "checkpoint/state.safetensors"),
        load_file(folder / "checkpoint/state.safetensors"),
    )
    assert first.keys() == second.keys()
    for name, tensor in load_file(alone / "open_clip_model.safetensors").items():
        torch.testing.assert_close(
            load_file(folder / "open_clip_model.safetensors")[name], tensor, atol=2e-5, rtol=1e-4
        )


def test_two_processes_of_which_one_was_killed_go_on_bit_for_bit(together: tuple[Path, str]) -> None:
    folder, _ = together
    assert weights(folder / "killed") == weights(folder / "ddp")
    assert lines(folder / "killed") == lines(folder / "ddp")


def test_what_is_wrong_is_told_once_and_ends_every_rank(together: tuple[Path, str]) -> None:
    folder, told = together
    assert [codes(folder, "runs", rank)[:4] for rank in (0, 1)] == [[0, 0, 2, 2]] * 2
    said = [line for line in told.splitlines() if line.startswith("guidance: ")]
    assert "must be a multiple of the number of processes, 2, got 7" in said[0]
    assert "data-1" in said[1]
    # The last run's other process may have found that this one was killed before torchrun ended it, too.
    assert [line for line in said[2:] if "rank 0 of 2" not in line or "missing: 1" not in line] == []
    assert len(said) <= 3
    assert not (folder / "a" / "checkpoint").exists()


@pytest.mark.parametrize("name", ["saved", "lost", "stopped"])
def test_a_training_that_was_ended_goes_on_bit_for_bit(name: str, single: tuple[Path, str]) -> None:
    folder, _ = single
    assert weights(folder / name) == weights(folder / "whole")
    assert lines(folder / name) == lines(folder / "whole")


def test_ctrl_c_and_sigterm_save_first(single: tuple[Path, str]) -> None:
    folder, told = single
    assert codes(folder, "third", 0) == [0, 143, 130, 0]
    assert "stopped after step 2; the same command goes on" in told
    assert "stopped after step 4; the same command goes on" in told


def test_means_over_windows_survive_a_stop(
    tmp_path: Path, words: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "WINDOW", 4)
    plain = ["--micro-batch=8"]
    assert cli.main(words(tmp_path / "whole", *plain, losses=[])) == 0
    sent = [signal.SIGINT, 2]
    assert two_processes_train.run(words(tmp_path / "out", *plain, losses=[]), sent=sent) == 130
    assert not any("loss" in line for line in lines(tmp_path / "out"))
    assert cli.main(words(tmp_path / "out", *plain, losses=[])) == 0
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")


def test_the_folder_is_a_guide(alone: Path) -> None:
    clip = g.load(f"local-dir:{alone}")
    image = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    loss = g.ClipLoss(clip, g.parse("a red disc"), g.Crops.calm(g.Clock()))(image)
    loss.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert "image_to_text_R@1" in lines(alone)[-1]
    settings = json.loads((alone / "settings.json").read_text())
    assert settings["contrast"] == "siglip"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch=0"], "batch must be at least 1, got 0"),
        (["--micro-batch=0"], "micro_batch must be at least 1, got 0"),
        (["--steps=0"], "steps must be at least 1, got 0"),
        (["--epochs=-1"], "epochs must be"),
        (["--lr=-1"], "lr must be finite and at least 0, got -1"),
        (["--ema=1"], "ema must be"),
        (["--architecture=ViT-B-33"], "did you mean ViT-B-32"),
        (["--start=nowhere"], "nowhere"),
        (["--multiview=1"], "auxiliary weights must be positive and sum to less than 1, got 1"),
        (["--contrast=clip"], "--contrast"),
        (["--take=image"], "there are no weights to take"),
        (["--device=gpu"], "unknown device 'gpu'"),
        (["--lock=image", "--unlocked=-1"], "-1"),
    ],
)
def test_wrong_input_is_one_line(
    more: list[str], message: str, tmp_path: Path, words: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(tmp_path / "out", *more, losses=[])) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out/open_clip_model.safetensors").exists()


def test_what_is_left_out_is_told(
    tmp_path: Path, words: Train, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copytree(data, tmp_path / "data")
    with (folder / "captions.csv").open("a") as table:
        table.write("nameless.png,,\n")
    network = ARCHITECTURE | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    (folder / "resnet.json").write_text(json.dumps(network))
    options = [f"--architecture={folder / 'resnet.json'}", "--checkpointing=true"]
    made = words(tmp_path / "out", *options, losses=[])
    assert cli.main(["train", str(folder), *made[2:]]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith(f"1 left out: 1 × no caption ({folder / 'nameless.png'})")
    assert "a ModifiedResNet cannot checkpoint activations" in told[1]


def test_a_missing_tensorboard_is_one_line(
    tmp_path: Path, words: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    assert cli.main(words(tmp_path / "out", "--tensorboard=true")) == 2
    assert "pip install 'clip-guidance[train]'" in capsys.readouterr().err


def test_another_training_does_not_take_the_folder_over(
    tmp_path: Path, words: Train, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights(alone)
    assert cli.main(words(alone, "--seed=1")) == 2
    assert "has seed 0, got 1; choose another output" in capsys.readouterr().err
    # What does not change the result may change.
    assert cli.main(words(alone, "--evaluate=2")) == 0
    assert weights(alone) == before
