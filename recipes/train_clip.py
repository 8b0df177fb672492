"""Train a small multilingual CLIP that is a good guide, such as the embedded `tiny`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from open_clip.model import CLIP
from safetensors.torch import load_file

import guidance as g
from guidance import checkpoint
from guidance.clip.bpe import train_tokenizer
from guidance.clip.data import CaptionedPictures, Placement, place, read_captioned
from guidance.clip.train import Trainee, ranks, save_model, train


def main(
    data: Path,
    *,
    steps: int = 5000,
    image_size: int = 64,
    image_model: str = "convnext_zepto_rms_ols",
    batch: int = 96,
    sketches: int = 48,
    lr: float = 1e-3,
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs/train_clip"),
) -> Path:
    """Train a CLIP on captioned pictures; the same command again goes on where it was stopped.

    Args:
        data: A folder with captions.csv (filepath, title) and, where there is one, captions_multilingual.csv.
        steps: How many batches are learned from.
        image_size: Side of the pictures that the model sees, in pixels.
        image_model: The image tower, by its name in timm.
        batch: Pictures a step, contrastively.
        sketches: Unfinished drawings a step, whose gradients are trained.
        lr: Highest learning rate of AdamW.
        start: A trained folder to start from; it may have been trained at another image size.
        seed: Another number gives another model.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the towers' arithmetic: float32, or bfloat16.
        output: The folder of the model and its checkpoint.
    """
    where = g.device(device)
    clock = g.Clock(steps, seed)
    pictures = read_captioned(data, 80)
    texts = [text for captions in pictures.captions for text in captions]
    tokenizer = train_tokenizer(texts, 16384)
    config = {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": {
                "image_size": image_size,
                "timm_model_name": image_model,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": tokenizer.get_vocab_size(),
                "hf_tokenizer_name": "tiny",
                "width": 128,
                "heads": 4,
                "layers": 3,
            },
        },
        "preprocess_cfg": {
            "size": image_size,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    torch.manual_seed(seed)  # open_clip initialises from the global generator
    model = CLIP(**config["model_cfg"])
    if start is not None:
        model.load_state_dict(load_file(start / "open_clip_model.safetensors"))
    model.visual.to(memory_format=torch.channels_last)
    trainee = Trainee(model, image_size, 1024).to(where)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    state = output / "checkpoint" / "state.safetensors"
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        checkpoint.load(state, trainee, optimizer, clock)

    strokes = g.Strokes(
        1, image_size, clock, b=1024, width=(2, image_size / 5), width_limits=(1, image_size)
    ).to(where)
    with torch.no_grad():
        black = replace(
            strokes.scene(), colours=strokes.colours[..., :3] * 0, opacity=strokes.colours[..., 3] * 0 + 1
        )
        brushes = 1 - g.rasterize(black, image_size)[:, 0]

    began = saved = time.monotonic()
    first, means = clock.index, torch.zeros(3)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    for step in train(
        trainee,
        pictures,
        tokenizer,
        clock,
        optimizer,
        batch=batch,
        sketches=sketches,
        lr=lr,
        brushes=brushes,
        precision=dtype,
    ):
        means += torch.tensor([step.contrastive, step.accuracy, step.alignment])
        if clock.index % 50 == 0 or clock.index == steps:
            speed = (clock.index - first) * (batch + sketches) / (time.monotonic() - began)
            loss, accuracy, alignment = (means / (clock.index % 50 or 50)).tolist()
            means.zero_()
            facts = {"step": clock.index, "contrastive": round(loss, 3), "accuracy": round(accuracy, 3)} | {
                "alignment": round(alignment, 4),
                "pictures_per_second": round(speed),
            }
            with (output / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(facts) + "\n")
            print(*(f"{name} {value}" for name, value in facts.items()), flush=True)
        if time.monotonic() - saved > 120 or clock.index == steps:
            save_model(output, trainee.mean_model, config, tokenizer, texts)
            checkpoint.save(state, trainee, optimizer, clock, time.monotonic() - began)
            saved = time.monotonic()
    print(
        *(f"{name} {value:.1%}" for name, value in retrieval(g.load(f"local-dir:{output}"), pictures).items())
    )
    return output


@torch.no_grad()
def retrieval(clip: "g.Clip", pictures: CaptionedPictures) -> dict[str, float]:
    """How often a picture ranks its own English name first, and in the first ten, of the names of all."""
    n = len(pictures.rgba)
    plain = Placement(torch.full((n,), 0.9), torch.zeros(n), torch.zeros(n, 2), torch.ones(n, 3))
    views = place(pictures.rgba, plain, clip.image_size).split(256)
    images = torch.cat([clip.encode_image(view.to(clip.device)) for view in views])
    place_of = ranks(images, clip.encode_text([captions[0] for captions in pictures.captions]))
    unseen = place_of[pictures.held_out]
    return {
        "first": (place_of < 1).float().mean().item(),
        "first of ten": (place_of < 10).float().mean().item(),
        "held-out first": (unseen < 1).float().mean().item(),
        "held-out first of ten": (unseen < 10).float().mean().item(),
    }
