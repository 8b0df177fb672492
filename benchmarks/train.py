"""`guidance train` against open_clip's trainer: the same model, pictures, batch and precision.

    python benchmarks/train.py DATA              # a folder with captions.csv; needs pandas and webdataset
    python benchmarks/train.py DATA --memory     # peak memory at batch 4,096, plain and with cached gradients

Speed is that of epochs after the first: each trainer runs for two lengths in processes of their own, in turn,
and what the longer one takes more is what its further epochs cost; starting up and compiling do not count.
Then both models look for the held-out pictures of held-out names.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import torch
from PIL import Image

from guidance import load
from guidance.clip import model_folder
from guidance.clip.architecture import new_model
from guidance.clip.datasets import held_out, open_sources
from guidance.clip.measures import measure
from guidance.clip.names import MODELS
from guidance.clip.pictures import fitting

LR, WARM_UP, SEED = 1e-3, 0.02, 0


def prepare(data: Path, folder: Path) -> int:
    """Pictures on white, as both trainers then see them, and tables of those to train on and held out."""
    rows = list(csv.DictReader((data / "captions.csv").open(encoding="utf-8")))
    parts: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    for number, row in enumerate(rows):
        picture = Image.open(data / row["filepath"]).convert("RGBA")
        path = folder / f"{number}.png"
        white = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(white, picture).convert("RGB").save(path)
        unseen = row.get("split") == "val"
        parts[unseen].append((str(path), row["title"], "val" if unseen else "train"))
    for unseen, name in ((False, "train.csv"), (True, "val.csv")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("filepath", "title", "split"), *parts[unseen]])
    return len(parts[False])


def theirs(folder: Path, epochs: int, batch: int, pictures: int, bf16: bool) -> list[str]:
    steps = epochs * (pictures // batch)
    return [
        *(sys.executable, "-m", "open_clip_train.main", "--model", f"local-dir:{folder / 'model'}"),
        *("--train-data", str(folder / "train.csv"), "--dataset-type", "csv", "--csv-separator", ","),
        *("--csv-img-key", "filepath", "--csv-caption-key", "title", "--workers", str(os.cpu_count())),
        *("--batch-size", str(batch), "--epochs", str(epochs), "--lr", str(LR), "--seed", str(SEED)),
        *(
            "--warmup",
            str(round(WARM_UP * steps)),
            "--beta2",
            "0.98",
            "--eps",
            "1e-6",
            "--grad-clip-norm",
            "1",
        ),
        *("--precision", "amp_bf16" if bf16 else "fp32", "--logs", str(folder / "theirs")),
        *("--name", f"{epochs}", "--save-frequency", str(epochs), "--log-every-n-steps", "1000"),
    ]


def ours(folder: Path, epochs: int, batch: int, pictures: int, bf16: bool) -> list[str]:
    return [
        *(sys.executable, "-m", "guidance", "train", str(folder / "train.csv"), "--start"),
        *(
            f"local-dir:{folder / 'model'}",
            "--batch",
            str(batch),
            "--steps",
            str(epochs * (pictures // batch)),
        ),
        *("--lr", str(LR), "--warm-up", str(WARM_UP), "--seed", str(SEED), "--ema", "0"),
        *("--precision", "bfloat16" if bf16 else "float32", "--output", str(folder / "ours" / f"{epochs}")),
    ]


def timed(command: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return time.monotonic() - began


def speed(data: Path, batch: int, epochs: int, bf16: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = prepare(data, folder)
        texts = [row["title"] for row in csv.DictReader((folder / "train.csv").open(encoding="utf-8"))]
        tiny = str(MODELS / "tiny" / "open_clip_config.json")
        model, config, tokenizer = new_model(tiny, seed=SEED, captions=texts, vocabulary=4096)
        (folder / "model").mkdir()
        model_folder.save(folder / "model", model, config, tokenizer, texts)
        pictures -= pictures % batch
        rates = {}
        for what, trainer in (("open_clip_train", theirs), ("guidance train", ours)):
            short, long = (timed(trainer(folder, n, batch, pictures, bf16)) for n in (1, epochs))
            rates[what] = (epochs - 1) * pictures / (long - short)
            print(f"{what}: {rates[what]:.0f} pictures/s", flush=True)
        print(f"ratio {rates['guidance train'] / rates['open_clip_train']:.2f}")
        shutil.copytree(folder / "model", folder / "trained")
        state = torch.load(
            folder / "theirs" / f"{epochs}" / "checkpoints" / f"epoch_{epochs}.pt", weights_only=True
        )["state_dict"]
        model.load_state_dict(state)
        model_folder.save(folder / "trained", model, config, tokenizer, texts)
        for what, where in (
            ("open_clip_train", folder / "trained"),
            ("guidance train", folder / "ours" / f"{epochs}"),
        ):
            clip = load(f"local-dir:{where}")
            for part, everything in (("train.csv", True), ("val.csv", False)):
                seen = held_out(
                    open_sources([str(folder / part)], cache=folder),
                    clip.image_size,
                    fitting(clip),
                    everything=everything,
                )
                found = measure(clip, seen)
                print(what, part, *(f"{key} {found[f'text_to_image_{key}']:.3f}" for key in ("R@1", "R@10")))


def memory(data: Path, batch: int, bf16: bool) -> None:
    """Peak resident memory of two steps, all of the process, for each of the ways in one of its own."""
    # The system only tells the most of all children so far: the smaller one must come first.
    for what, options in (("cached", ["--micro-batch", "64"]), ("plain", [])):
        with tempfile.TemporaryDirectory() as name:
            command = [
                *(sys.executable, "-m", "guidance", "train", str(data / "captions.csv"), "--steps", "2"),
                *("--batch", str(batch), "--ema", "0", "--output", name, *options),
                *("--precision", "bfloat16" if bf16 else "float32"),
            ]
            seconds = timed(command)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{what}: {peak:.0f} MiB, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    if given.memory:
        memory(given.data, given.batch or 4096, not given.float32)
    else:
        speed(given.data, given.batch or 128, given.epochs, not given.float32)


if __name__ == "__main__":
    main()
