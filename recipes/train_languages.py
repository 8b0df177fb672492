"""Teach a CLIP's text tower that a thing's names in all languages mean what the English one does."""

from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import training
from guidance.clip.architecture import new_model
from guidance.clip.bpe import read_tokenizer
from guidance.clip.data import read_captioned
from guidance.clip.locking import lock
from guidance.clip.scratch import adamw
from guidance.clip.tokenize import read_words
from guidance.clip.train import Trainee, save_model
from guidance.clip.translations import teach_translations
from guidance.distributed import process_group, rank, together, world

#: What describes train-clip's text towers; one that needs more is read in another way.
TEXT_TOWER = {"context_length", "vocab_size", "hf_tokenizer_name", "width", "heads", "layers"}


def main(
    data: Path,
    start: Path,
    *,
    steps: int = 4000,
    batch: int = 512,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs/train_languages"),
) -> Path | None:
    """Teach a small CLIP's other languages; the same command again goes on where it was stopped.

    Contrastive training sees each translation seldom. Here names alone are learned from, many a second, and
    mean what the English name meant before; the image tower stays as it is. torchrun works as in train-clip;
    `guidance languages` measures what came of it.

    Args:
        data: A folder with captions.csv (filepath, title) and captions_multilingual.csv.
        start: A folder that train-clip has made.
        steps: How many batches are learned from.
        batch: Names a step, of all processes together.
        lr: Highest learning rate of AdamW.
        seed: Another number gives another model.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the tower's arithmetic: float32, or bfloat16.
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    with process_group(g.device(device)) as where:
        with together():
            if batch % world():
                raise g.InputError(
                    f"batch must be a multiple of the number of processes, {world()}, got {batch}"
                )
            clock = g.Clock(steps, seed)
            tokenizer = read_tokenizer(start)
            teacher = g.load(f"local-dir:{start}", device=where)
            model, config, _ = new_model(None, seed=seed, start=str(start))
            config["preprocess_cfg"]["size"] = teacher.image_size
            if not TEXT_TOWER.issuperset(config["model_cfg"]["text_cfg"]):
                raise g.InputError(f"{start} has no text tower of train-clip's kind; start from one that has")
            pictures = read_captioned(data, teacher.image_size * 5 // 4)
            training.check_batch(batch, int((~pictures.held_out).sum()))
            learned = [
                texts for texts, out in zip(pictures.captions, pictures.held_out, strict=True) if not out
            ]
            if max(map(len, learned)) == 1:
                raise g.InputError(
                    f"{data} has no captions_multilingual.csv, so there is nothing to translate"
                )
            lock(model, "image")
        goals = teacher.encode_many([captions[0] for captions in pictures.captions]).to(where)
        trainee = Trainee(model, config["preprocess_cfg"], sketches=0).to(where)
        optimizer = adamw(model)
        training.open_folder(output, settings)
        taught = teach_translations(
            trainee,
            pictures,
            tokenizer,
            clock,
            optimizer,
            goals=goals,
            batch=batch,
            lr=lr,
            precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        )
        known = [*(text for texts in learned for text in texts), *(read_words(start) or ())]

        def save() -> None:
            if rank() == 0:
                save_model(output, trainee.mean_model, config, tokenizer, known)

        training.record(taught, output, trainee, optimizer, clock, save)
        return output if rank() == 0 else None
