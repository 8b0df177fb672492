"""Train a CLIP of any architecture on pictures and captions, on one machine or many."""

import sys
from copy import deepcopy
from math import inf
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import options, training
from guidance.clip import model_folder
from guidance.clip.architecture import Towers, new_model
from guidance.clip.datasets import Augmentation, Batches, Source, open_sources
from guidance.clip.encoder import Clip
from guidance.clip.examination import examination
from guidance.clip.locking import lock as lock_tower
from guidance.clip.names import MODELS
from guidance.clip.objective import Contrast, Objective
from guidance.clip.parallel import Sharding
from guidance.clip.pretrain import (
    SAMPLE,
    Pupil,
    adamw,
    chance,
    fingerprint,
    pretrain,
    sample_captions,
    warn_of_chance,
)
from guidance.clip.tokenize import words
from guidance.clip.towers import checkpoint_activations
from guidance.distributed import process_group, rank, together
from guidance.evaluation import read_distractors

#: Where pictures, shards and rows that come over the network are kept.
CACHE = Path("outputs/cache")
TINY = MODELS / "tiny" / "open_clip_config.json"
#: What may be another when a training goes on; the last three change no more than its rounding.
FREE = {
    *("output", "device", "evaluate", "validation", "classify", "templates", "canary", "most_broken"),
    *("tensorboard", "sharding", "checkpointing", "chunk"),
}


def main(
    data: list[str],
    /,
    *,
    architecture: str | None = None,
    start: str | None = None,
    take: Towers = "both",
    lock: Literal["image", "text"] | None = None,
    unlocked: int = 0,
    vocabulary: int | None = None,
    image_size: int | None = None,
    images: Path | None = None,
    augmentation: Literal["crop", "page"] = "crop",
    epochs: float = 30.0,
    steps: int | None = None,
    batch: int = 128,
    micro_batch: int | None = None,
    contrast: Contrast = "info_nce",
    decoupled: bool = False,
    separate: bool = False,
    multiview: float = 0.0,
    masked_language: float = 0.0,
    simsiam: float = 0.0,
    simclr: float = 0.0,
    similarity: float = 0.0,
    chunk: int | None = None,
    lr: float = 1e-3,
    warm_up: float = 0.02,
    weight_decay: float = 0.2,
    ema: float = 0.99,
    patch_dropout: float | None = None,
    checkpointing: bool = False,
    sharding: Sharding = "ddp",
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    evaluate: int = 500,
    validation: str | None = None,
    classify: Path | None = None,
    templates: options.Templates = "plain",
    canary: str | None = None,
    most_broken: float = 0.1,
    tensorboard: bool = False,
    output: Path = Path("outputs/train"),
) -> Path | None:
    """Train a CLIP on captioned pictures; the same command again goes on where it was stopped.

    torchrun --nproc-per-node 2 -m -- guidance train … trains on two GPUs.

    Args:
        data: Folders, tables, shards, parquet, wit:…, hf:…; several are mixed, "a.csv:0.5" half as often.
        architecture: A name of open_clip's, or a JSON file in its format; by default tiny's, or the start's.
        start: A model to begin with: a name as --clip takes, or a training's folder.
        take: Which of its towers.
        lock: A tower that stays as it is (LiT), but for the last `unlocked` groups of layers.
        vocabulary: Tokens of a tokenizer trained on the captions; otherwise tiny alone has one.
        image_size: Pixels a side that the model sees, if not the architecture's.
        images: The folder of WIT's pictures, which are fetched otherwise.
        augmentation: crop as usual; page, whole and turned on pages, for pictures with transparency.
        epochs: How often each picture is seen.
        steps: How many batches, instead of epochs.
        batch: Pictures a step, of all processes together.
        micro_batch: Pictures that are in memory at a time; the result is that of the whole batch.
        contrast: info_nce; siglip; filip, by patches and words.
        decoupled: Leave right answers out of the denominator.
        separate: A projection each way.
        multiview: Weight of the contrast of all augmented views; of masked_language, simsiam, simclr and
            similarity likewise. x-clip's are 0.1, 0.05, 0.05, 0.05.
        chunk: Rows of the matrix of similarities that are in memory at a time.
        lr: Highest learning rate of AdamW.
        warm_up: The share of the training in which it rises.
        ema: Decay of the running mean of the weights, which is what is kept; 0 for the last weights.
        patch_dropout: The share of a ViT's patches that are left out.
        checkpointing: Keep less in memory and compute it again.
        sharding: Of several processes: ddp, or fsdp, for models that one GPU cannot hold.
        evaluate: Steps between evaluations on rows whose split is val or test.
        validation: Other data to evaluate on.
        classify: A folder of labelled folders, for zero-shot accuracy.
        canary: Data that the start knows: a warning tells when a fifth of that is forgotten.
        most_broken: The share of broken pictures that ends the training.
        tensorboard: Write for TensorBoard as well.
        output: The folder of the model, its checkpoint and its metrics.
    """
    settings = {name: value for name, value in locals().items() if name not in FREE}
    if tensorboard:
        training.check_tensorboard()
    counts = {"batch": batch, "micro_batch": micro_batch, "evaluate": evaluate, "steps": steps}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise g.InputError(f"{name} must be at least 1, got {value}")
    if not 0 <= ema < 1:
        raise g.InputError(f"ema must be at least 0 and less than 1, got {ema}")
    if not 0 < epochs < inf:
        raise g.InputError(f"epochs must be finite and more than 0, got {epochs}")
    if unlocked and lock is None:
        raise g.InputError(f"unlocked needs a lock, got {unlocked}; say which tower, --lock image or text")
    if architecture is None and start is None:
        architecture, vocabulary = str(TINY), vocabulary or 16384
    with process_group(g.device(device)) as where:
        with together():

            def opened(names: list[str]) -> list[tuple[float, Source]]:
                found = open_sources(names, cache=CACHE, images=images)
                for _, source in found:
                    if source.missed and rank() == 0:
                        print(source.left_out(), file=sys.stderr, flush=True)
                return found

            sources = opened(data)
            texts = sample_captions(sources)
            model, config, tokenizer = new_model(
                architecture,
                seed=seed,
                start=start,
                take=take,
                image_size=image_size,
                captions=texts if vocabulary else None,
                vocabulary=vocabulary or 1,
                patch_dropout=patch_dropout,
                siglip=contrast == "siglip",
            )
            plain = deepcopy(model).to(where)
            if checkpointing:
                checkpoint_activations(model)
            if lock is not None:
                lock_tower(model, lock, unlocked)
            objective = Objective(
                model,
                tokenizer,
                contrast=contrast,
                decoupled=decoupled,
                separate=separate,
                multiview=multiview,
                masked_language=masked_language,
                simsiam=simsiam,
                simclr=simclr,
                similarity=similarity,
                chunk=chunk,
                seed=seed,
            )

            def clip() -> Clip:
                width = config["model_cfg"]["embed_dim"]
                return Clip(deepcopy(plain), tokenizer, name=str(output), embed_dim=width, device=where)

            look = clip()
            batches = Batches(
                sources,
                Augmentation(look.image_size, augmentation),
                batch=batch,
                seed=seed,
                views=objective.views,
                texts=objective.texts,
                log=output / f"broken-{rank()}.jsonl",
                most_broken=most_broken,
            )
            clock = g.Clock(steps or max(1, round(epochs * batches.epoch_steps)), seed)
            ask = examination(
                look,
                sources,
                validation=opened([validation]) if validation else (),
                labelled=classify,
                templates=g.read_templates(templates),
                known=opened([canary]) if canary else (),
                # A tower that is new knows no names.
                names=read_distractors() if start is not None and take != "image" else (),
            )
        training.open_folder(output, settings | {"captions": fingerprint(texts)})
        pupil = Pupil(objective, config["preprocess_cfg"], average=ema > 0).to(where)
        parallel = pupil.spread(sharding, several=micro_batch is not None)
        optimizer = adamw(pupil.objective, weight_decay)
        seen = pretrain(
            pupil,
            batches.iterate,
            tokenizer,
            clock,
            optimizer,
            parallel,
            lr=lr,
            warm_up_share=warm_up,
            micro_batch=micro_batch,
            decay=ema,
            precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        )

        # Of a sample of the captions they would not be all.
        known = {word for text in texts for word in words(text)} if len(texts) < SAMPLE else None

        def save() -> None:
            plain.load_state_dict(pupil.weights())
            if rank() == 0:
                model_folder.save(output, plain, config, tokenizer, known)

        def evaluation() -> dict[str, float]:
            plain.load_state_dict(pupil.weights())
            return {} if ask is None else ask(clip())

        training.record(
            warn_of_chance(seen, chance(contrast, batch, decoupled)),
            output,
            pupil,
            optimizer,
            clock,
            save,
            pictures=batch,
            evaluate=None if ask is None else (evaluate, evaluation),
            tensorboard=tensorboard,
        )
        return output if rank() == 0 else None
