"""Train a small multilingual CLIP that is a good guide, such as the embedded `tiny`."""

from pathlib import Path
from typing import Literal

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import guidance as g
from guidance import training
from guidance.canvas.brushes import brushes
from guidance.clip.bpe import read_tokenizer, train_tokenizer
from guidance.clip.data import read_captioned
from guidance.clip.locking import lock
from guidance.clip.scratch import adamw, new_model, retrieval
from guidance.clip.train import Trainee, save_model, train
from guidance.distributed import broadcast_, process_group, rank, together, world

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
    lock_text: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs/train_clip"),
) -> Path | None:
    """Train a small CLIP whose gradient draws; the same command again goes on where it was stopped.

    torchrun --nproc-per-node 2 -m -- guidance train-clip … trains on two GPUs, or faster on two cores.

    Args:
        data: A folder with captions.csv (filepath, title) and, if there is one, captions_multilingual.csv.
        steps: How many batches are learned from.
        image_size: Side of the pictures that the model sees, in pixels.
        image_model: The image tower, by its name in timm.
        batch: Pictures a step, contrastively, of all processes together.
        sketches: Unfinished drawings a step, whose gradients are trained, of all together.
        lr: Highest learning rate of AdamW.
        start: A trained folder to start from, with its tokenizer; it may have been trained at another image
            size.
        lock_text: Whether the text tower of start stays as it is, so that what listens to it, such as a
            diffusion model, need not be trained anew.
        seed: Another number gives another model.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the towers' arithmetic: float32, or bfloat16.
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    with process_group(g.device(device)) as where:
        with together():
            if not 1 <= sketches <= SKETCHBOOK:
                raise g.InputError(f"sketches must be from 1 to {SKETCHBOOK}, got {sketches}")
            if lock_text and start is None:
                raise g.InputError(
                    "lock_text keeps the text tower of a trained folder; name that with --start"
                )
            for name, count in {"batch": batch, "sketches": sketches}.items():
                if count % world():
                    raise g.InputError(
                        f"{name} must be a multiple of the number of processes, {world()}, got {count}"
                    )
            clock = g.Clock(steps, seed)
            # A little larger than what the model sees, since views enlarge as well.
            pictures = read_captioned(data, image_size * 5 // 4)
            training.check_batch(batch, int((~pictures.held_out).sum()))
            if start is not None:
                tokenizer = read_tokenizer(start)  # of other captions as many tokens would be others
            else:
                # Of held-out pictures the spelling of their names is used, and nothing else.
                tokenizer = train_tokenizer(
                    [text for texts in pictures.captions for text in texts], VOCABULARY
                )
            known = zip(pictures.captions, pictures.held_out.tolist(), strict=True)
            texts = [text for captions, held_out in known if not held_out for text in captions]
            model, config = new_model(image_model, image_size, tokenizer.get_vocab_size(), seed)
            if start is not None:
                model.load_state_dict(read_weights(start, model))
            if lock_text:
                lock(model, "text")
        broadcast_(model.to(where).state_dict().values())  # another machine may draw other first weights
        trainee = Trainee(model, config["preprocess_cfg"], SKETCHBOOK).to(where)
        optimizer = adamw(model)
        training.open_folder(output, settings)
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
            precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        )

        def save() -> None:
            if rank() == 0:
                save_model(output, trainee.mean_model, config, tokenizer, texts)

        training.record(taught, output, trainee, optimizer, clock, save)
        first = rank() == 0
    if not first:
        return None
    shares = retrieval(g.load(f"local-dir:{output}", device=where), pictures)
    print(", ".join(f"{name}: {share:.1%}" for name, share in shares.items()))
    return output


def read_weights(folder: Path, model: CLIP) -> dict[str, Tensor]:
    """The weights of a trained folder, which must be of the same model."""
    path = folder / "open_clip_model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise g.InputError(f"{path} is broken ({error}); start from another") from error
    if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in model.state_dict().items()}:
        raise g.InputError(f"{path} is another model; start from one with the same image model")
    return weights
