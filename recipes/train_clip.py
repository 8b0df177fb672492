"""Train a small multilingual CLIP that is a good guide, such as the embedded `tiny`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import timm
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor

import guidance as g
from guidance import checkpoint
from guidance.clip.bpe import train_tokenizer
from guidance.clip.data import CaptionedPictures, Placement, place, read_captioned
from guidance.clip.train import Trainee, ranks, save_model, train
from guidance.errors import suggest
from guidance.media import write_text

VOCABULARY = 16384
#: Unfinished drawings that are kept in the sketchbook.
SKETCHBOOK = 1024


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
        data: A folder with captions.csv (filepath, title) and, if there is one, captions_multilingual.csv.
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
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: str(value) for name, value in locals().items() if name not in ("output", "device")}
    where = g.device(device)
    clock = g.Clock(steps, seed)
    if image_model not in timm.list_models():
        raise g.InputError(f"timm has no model {image_model!r}{suggest(image_model, timm.list_models())}")
    # A little larger than what the model sees, since views enlarge as well.
    pictures = read_captioned(data, image_size * 5 // 4)
    # Of held-out pictures the spelling of their names is used, and nothing else.
    tokenizer = train_tokenizer([text for texts in pictures.captions for text in texts], VOCABULARY)
    known = zip(pictures.captions, pictures.held_out.tolist(), strict=True)
    texts = [text for captions, held_out in known if not held_out for text in captions]
    config = model_config(image_model, image_size, tokenizer.get_vocab_size())

    torch.manual_seed(seed)  # open_clip initialises from the global generator
    model = CLIP(**config["model_cfg"])
    if start is not None:
        model.load_state_dict(read_weights(start, model))
    model.visual.to(memory_format=torch.channels_last)
    trainee = Trainee(model, config["preprocess_cfg"], SKETCHBOOK).to(where)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    # Not fused: that takes the moments for channels-last like the weights, which they are not after a resume.
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))

    state, metrics = output / "checkpoint" / "state.safetensors", output / "metrics.jsonl"
    open_output(output, settings)
    before = 0.0
    if state.exists():
        before = checkpoint.load(state, trainee, optimizer, clock)
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= clock.index]
        write_text(metrics, "".join(line + "\n" for line in kept))

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    taught = train(
        trainee,
        pictures,
        tokenizer,
        clock,
        optimizer,
        batch=batch,
        sketches=sketches,
        lr=lr,
        brushes=brushes(image_size, clock).to(where),
        precision=dtype,
    )
    began = saved = time.monotonic()
    recent: list[list[float]] = []
    for step in taught:
        recent.append([step.contrastive, step.accuracy, step.alignment])
        now = time.monotonic()
        if clock.index % 50 == 0 or clock.index == steps:
            means = torch.tensor(recent).mean(0).tolist()
            names = ("contrastive", "accuracy", "alignment")
            facts = {"step": clock.index} | {n: round(v, 4) for n, v in zip(names, means, strict=True)}
            with metrics.open("a") as file:
                file.write(json.dumps(facts) + "\n")
            left = (now - began + before) / clock.index * (steps - clock.index) / 60
            print(*(f"{name} {value}" for name, value in facts.items()), f"{left:.0f} min left", flush=True)
            recent.clear()
        if now - saved > 120 or clock.index == steps:
            save_model(output, trainee.mean_model, config, tokenizer, texts)
            checkpoint.save(state, trainee, optimizer, clock, now - began + before)
            saved = now
    shares = retrieval(g.load(f"local-dir:{output}", device=where), pictures)
    print(", ".join(f"{name}: {share:.1%}" for name, share in shares.items()))
    return output


def model_config(image_model: str, image_size: int, vocabulary: int) -> dict:
    """The model in open_clip's words."""
    image_tower = {"timm_model_name": image_model, "timm_model_pretrained": False, "timm_pool": "avg"}
    text_tower = {"context_length": 32, "vocab_size": vocabulary, "hf_tokenizer_name": "tokenizer.json"}
    return {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": image_tower | {"timm_proj": "linear", "image_size": image_size},
            "text_cfg": text_tower | {"width": 128, "heads": 4, "layers": 3},
        },
        "preprocess_cfg": {"size": image_size, "mean": [0.5] * 3, "std": [0.25] * 3}
        | {"interpolation": "bicubic", "resize_mode": "squash"},
    }


def read_weights(folder: Path, model: CLIP) -> dict[str, Tensor]:
    """The weights of a trained folder, which must be of the same model."""
    path = folder / "open_clip_model.safetensors"
    if not path.is_file():
        raise g.InputError(f"there is no trained model in {folder}: {path.name} is missing")
    weights = load_file(path)
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in model.state_dict().items()}:
        raise g.InputError(f"{path} is another model; start from one with the same image model and data")
    return weights


def open_output(output: Path, settings: dict[str, str]) -> None:
    """Make the folder, or see that it is this very training's."""
    path = output / "settings.json"
    if path.exists():
        then = json.loads(path.read_text())
        for name, value in settings.items():
            if then.get(name) != value:
                raise g.InputError(
                    f"{output} has {name} {then.get(name)}, got {value}; choose another output"
                )
    try:
        (output / "checkpoint").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise g.InputError(f"cannot write to {output} ({error.strerror}); choose another output") from error
    write_text(path, json.dumps(settings, indent=2) + "\n")
    (output / "metrics.jsonl").touch()


@torch.no_grad()
def brushes(size: int, clock: g.Clock) -> Tensor:
    """What each of many random strokes covers, `[k, size, size]`."""
    strokes = g.Strokes(1, size, clock, b=1024, width=(2, size / 5), width_limits=(1, size)).scene()
    black = replace(strokes, colours=strokes.colours * 0, opacity=strokes.opacity * 0 + 1)
    return 1 - g.rasterize(black, size)[:, 0]


@torch.no_grad()
def retrieval(clip: g.Clip, pictures: CaptionedPictures) -> dict[str, float]:
    """How often a picture ranks its own English name first, and in the first ten, of the names of all."""
    n = len(pictures.rgba)
    plain = Placement(torch.full((n,), 0.9), torch.zeros(n), torch.zeros(n, 2), torch.ones(n, 3))
    views = place(pictures.rgba, plain, clip.image_size).split(256)
    images = torch.cat([clip.encode_image(view.to(clip.device)) for view in views])
    place_of = ranks(images, clip.encode_text([captions[0] for captions in pictures.captions])).cpu()
    unseen = place_of[pictures.held_out]
    shares = {"first": place_of < 1, "in the first ten": place_of < 10}
    if len(unseen):
        shares |= {"held-out first": unseen < 1, "held-out in the first ten": unseen < 10}
    return {name: hits.float().mean().item() for name, hits in shares.items()}
