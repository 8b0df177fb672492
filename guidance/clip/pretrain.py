"""Training a CLIP on pictures and their captions, in one process or in many: a generator of steps.

Batch i is a function of the data, the seed and i, and so is every draw; a training is where its clock is.
"""

import hashlib
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import Any, final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from guidance.clip.averaging import average_
from guidance.clip.caching import cached_backward
from guidance.clip.contrastive import clamp_scale_
from guidance.clip.datasets import Batch, Source
from guidance.clip.objective import Objective
from guidance.clip.parallel import (
    Parallel,
    Sharding,
    finish_gradients_,
    parallel,
    rows_of_rank,
    shard,
    synchronise_batch_norm_,
)
from guidance.clock import Clock, cosine, warm_up
from guidance.distributed import gather, rank, whole, world

#: For so many steps the loss must be what guessing gives before that is told.
PATIENCE = 200
#: A tokenizer is trained on the captions of so many pictures of a source.
SAMPLE = 200_000


class ChanceWarning(UserWarning):
    """Nothing is learned: the loss is what guessing gives."""


@final
class Pupil(nn.Module):
    """A model in training with what its losses need beside it, and the running mean of its weights.

    `preprocess` is open_clip's: mean and std of what the image tower sees.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(self, objective: Objective, preprocess: dict[str, Any], *, average: bool) -> None:
        super().__init__()
        self.objective = objective.train()
        self.average = deepcopy(objective.model).requires_grad_(False).eval() if average else None
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(-1, 1, 1), persistent=False)

    def spread(self, sharding: Sharding, *, several: bool) -> Parallel:
        """Make the processes train it together (`parallel`); it must be on its device."""
        synchronise_batch_norm_(self.objective, self.mean.device)
        together = parallel(self.objective, sharding, several)
        if self.average is not None and sharding == "fsdp" and world() > 1:
            shard(self.average)
        return together

    def weights(self) -> dict[str, Tensor]:
        """The running mean of the model's weights, if there is one, or the weights; every rank must ask."""
        model = self.objective.model if self.average is None else self.average
        return {name: whole(tensor).detach() for name, tensor in model.state_dict().items()}

    def normalised(self, images: UInt8[Tensor, "v n 3 s s"]) -> Float[Tensor, "v n 3 s s"]:
        """Pictures as the image tower takes them, channels last, on its device."""
        views = images.to(self.mean.device, non_blocking=True).flatten(0, 1)
        views = views.contiguous(memory_format=torch.channels_last)
        return ((views / 255 - self.mean) / self.std).unflatten(0, images.shape[:2])


def adamw(module: nn.Module, weight_decay: float = 0.2) -> torch.optim.AdamW:
    """AdamW as open_clip has it: matrices and filters decay; gains, biases, also tables of them, do not.

    Its betas and eps are those for transformers, which suit small convolutional towers as well.
    """
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    decaying = {
        name for name, p in learned.items() if p.ndim > 1 and not re.search("bn|ln|bias|logit_scale", name)
    }
    kept = [p for name, p in learned.items() if name not in decaying]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in learned.items() if name in decaying], "weight_decay": weight_decay},
        {"params": [p for p in kept if p.ndim], "weight_decay": 0.0},
        # Alone, since FSDP2 leaves them whole, and loops over many tensors at once want one kind.
        {"params": [p for p in kept if not p.ndim], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Not fused: that takes the moments for channels-last like the weights, which they are not after a resume.
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


@dataclass(frozen=True)
class Pretrained:
    """What one step saw: the loss, its parts by name before their weights, the norm of the gradient before
    it was shortened, what cosines are multiplied by, and the learning rate; of all ranks together."""

    index: int
    loss: float
    parts: dict[str, float]
    gradient_norm: float
    scale: float
    lr: float


def pretrain(
    pupil: Pupil,
    batches: Callable[[int, int], Iterator[Batch]],
    tokenize: Callable[[list[str]], Int[Tensor, "n t"]],
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    together: Parallel,
    *,
    lr: float,
    warm_up_share: float = 0.02,
    micro_batch: int | None = None,
    longest_gradient: float = 1.0,
    decay: float = 0.999,
    precision: torch.dtype = torch.float32,
) -> Iterator[Pretrained]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock.

    `batches(first, last)` yields this rank's rows of those batches. `together`: what `pupil.spread` gave.
    `lr`: the highest, after `warm_up_share` of the run; it falls along a cosine. `micro_batch`: how many rows
    are encoded at a time; the gradients are those of the whole batch (see `caching`). `longest_gradient`:
    longer ones are shortened to this. `decay`: of the running mean of the weights.
    """
    objective, device = pupil.objective, pupil.mean.device
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    rate = warm_up(cosine(lr, 0.0), warm_up_share)
    for batch in batches(clock.index, clock.steps):
        n = len(batch.ids)
        tokens = torch.stack([tokenize(texts) for texts in batch.captions])
        generator = clock.generator("pretrain/tokens")
        draws = torch.rand(n * world(), tokens.shape[2], 2, generator=generator)[rows_of_rank(n)]
        ids = batch.ids.to(device)
        parts: dict[str, Tensor] = {}

        def encode(rows: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
            images, texts, chances = rows
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                return together.call(pupil.normalised(images), texts.to(device), chances.to(device))

        def loss(*encoded: Tensor, ids: Tensor = ids, parts: dict[str, Tensor] = parts) -> Tensor:
            total, by_name = objective.loss(encoded, ids)
            parts |= {name: value.detach() for name, value in by_name.items()}
            return total

        size = micro_batch or n
        rows = list(zip(batch.images.split(size, 1), tokens.split(size, 1), draws.split(size), strict=True))
        numbers = range(rank() * len(rows), (rank() + 1) * len(rows))
        seeds = [clock.generator("pretrain/towers", number).initial_seed() for number in numbers]
        for group in optimizer.param_groups:
            group["lr"] = rate(clock.progress)
        optimizer.zero_grad()
        total = cached_backward(encode, rows, loss, seeds=seeds, no_sync=together.no_sync)
        norm = finish_gradients_(parameters, longest_gradient)
        optimizer.step()
        clamp_scale_(objective.model.logit_scale)
        if pupil.average is not None:
            average_(pupil.average, objective.model, decay, clock)
        clock.index += 1
        scale = objective.model.logit_scale.detach().exp()
        told = torch.stack(
            [total, norm.to(total), scale.to(total), *(value.to(total) for value in parts.values())]
        )
        mean, length, factor, *values = gather(told[None]).mean(0).tolist()
        named = dict(zip(parts, values, strict=True))
        yield Pretrained(clock.index - 1, mean, named, length, factor, rate((clock.index - 1) / clock.steps))


def sample_captions(sources: Sequence[tuple[float, Source]], most: int = SAMPLE) -> list[str]:
    """Captions of the rows for training, of `most` at most of each source, to train a tokenizer on."""
    found = []
    for _, source in sources:
        # Where neighbours come together, jumps would read everything.
        stride = 1 if source.train.block else max(1, len(source.train) // most)
        for number in range(0, len(source.train), stride)[:most]:
            found += [caption.text for caption in source.train[number].captions]
    return found


def fingerprint(texts: Iterable[str]) -> str:
    """A hash of texts, so that a training goes on with its own data only."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def chance(contrast: str, batch: int, decoupled: bool = False) -> float:
    """The lowest contrastive loss of a model that guesses, which finds nothing of a pair in its other half.

    ln(batch), or ln(batch - 1) where the right answer is left out of the denominator; for SigLIP
    ln(batch) + (batch - 1) ln(batch / (batch - 1)). These two are for batches in which no pair repeats.
    """
    if contrast == "siglip":
        return log(batch) + (batch - 1) * log(batch / (batch - 1)) if batch > 1 else 0.0
    return log(max(1, batch - decoupled))


def warn_of_chance(steps: Iterator[Pretrained], level: float, part: str = "contrast") -> Iterator[Pretrained]:
    """The same steps; once, a ChanceWarning when the loss sits at the level of guessing."""
    recent: deque[float] = deque(maxlen=PATIENCE)
    for step in steps:
        recent.append(step.parts[part])
        if len(recent) == PATIENCE and abs(sum(recent) / PATIENCE - level) < 0.01 * level and rank() == 0:
            warnings.warn(
                f"for {PATIENCE} steps the loss has been {level:.2f}, as for one who guesses: nothing is "
                "learned; try another --lr, and look whether the captions belong to the pictures",
                ChanceWarning,
                stacklevel=2,
            )
            recent = deque(maxlen=0)
        yield step
