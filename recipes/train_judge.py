"""Train a judge: a CLIP that names drawings in any style, for `guidance evaluate`, and never guides."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import training
from guidance.canvas.brushes import brushes
from guidance.clip.bpe import train_tokenizer
from guidance.clip.data import read_captioned
from guidance.clip.judge import paint, train_judge
from guidance.clip.scratch import adamw, new_model, retrieval
from guidance.clip.train import Trainee, save_model

VOCABULARY = 4096


def main(
    data: Path,
    *,
    steps: int = 3000,
    image_size: int = 64,
    image_model: str = "resnet10t",
    batch: int = 96,
    lr: float = 1e-3,
    seed: int = 1,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs/train_judge"),
) -> Path:
    """Train a judge of drawings on captioned pictures; the same command again goes on where it was stopped.

    Args:
        data: A folder with captions.csv (filepath, title).
        steps: How many batches are learned from.
        image_size: Side of the pictures that the model sees, in pixels.
        image_model: The image tower, by its name in timm; of another kind than the guide's.
        batch: Pictures a step.
        lr: Highest learning rate of AdamW.
        seed: Another number gives another model.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the towers' arithmetic: float32, or bfloat16.
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    where = g.device(device)
    clock = g.Clock(steps, seed)
    # A little larger than what the model sees, since views enlarge as well.
    pictures = read_captioned(data, image_size * 5 // 4)
    training.check_batch(batch, int((~pictures.held_out).sum()))
    # It is asked for English names only; 26 languages would take a small network several times as long.
    pictures = replace(pictures, captions=[captions[:1] for captions in pictures.captions])
    texts = [name for (name,), hidden in zip(pictures.captions, pictures.held_out, strict=True) if not hidden]
    tokenizer = train_tokenizer(texts, VOCABULARY)
    model, config = new_model(image_model, image_size, tokenizer.get_vocab_size(), seed)
    trainee = Trainee(model, config["preprocess_cfg"], sketches=0).to(where)
    optimizer = adamw(model)
    masks = brushes(image_size, clock).to(where)
    masks = masks[masks.sum((1, 2)).argsort(descending=True)]
    training.open_folder(output, settings)
    taught = train_judge(
        trainee,
        pictures,
        tokenizer,
        clock,
        optimizer,
        batch=batch,
        lr=lr,
        brushes=masks,
        precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )

    def save() -> None:
        save_model(output, trainee.mean_model, config, tokenizer, texts)

    training.record(taught, output, trainee, optimizer, clock, save)
    judge = g.load(f"local-dir:{output}", device=where)

    def painted(images: torch.Tensor) -> torch.Tensor:
        return paint(images.to(where), masks, clock.generator("painted"), 128)

    results = {"clean": retrieval(judge, pictures), "painted": retrieval(judge, pictures, painted)}
    for name, shares in results.items():
        print(f"{name}:", ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))
    return output
