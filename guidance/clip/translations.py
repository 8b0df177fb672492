"""Teaching a text tower its other languages: a name in any of them shall mean what the English one does.

A batch of contrastive training holds few names of each language, so that a small tower knows English best by
far, and a guide draws what it is told in English only. The names alone are quick to learn from, without
pictures: the embedding of a translation is moved to the one that the English name had before (Reimers &
Gurevych 2020, eq. 1: the squared distance), and so are those of the English name, lest it drift, and of "a
drawing of" it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from guidance.clip.data import CaptionedPictures, choose
from guidance.clip.parallel import rows_of_rank
from guidance.clip.train import Captions, Trainee, learn
from guidance.clock import Clock
from guidance.distributed import gather, world

#: The least share of English names: a language that is not repeated is forgotten.
ENGLISH = 0.25


@dataclass(frozen=True)
class Taught:
    """What a step saw: the mean cosine between the names, in any language, and what they shall mean."""

    index: int
    cosine: float


def teach_translations(
    trainee: Trainee,
    pictures: CaptionedPictures,
    tokenizer: Tokenizer,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    goals: Float[Tensor, "n d"],
    batch: int,
    lr: float,
    precision: torch.dtype = torch.float32,
) -> Iterator[Taught]:
    """Train the text tower from step `clock.index` to `clock.steps`, yielding every step.

    `goals`: the unit vector that the names of each picture shall have. Names of held-out pictures are left
    out. In a distributed run `batch` is that of all ranks, a multiple of their number.
    """
    device, own = goals.device, rows_of_rank(batch // world())
    names = Captions(pictures.captions, tokenizer, trainee.model.context_length, english=ENGLISH)
    # As for drawings: variants (": medium skin tone") are many, and alike.
    plain = torch.tensor([":" not in captions[0] for captions in pictures.captions])
    weights = (~pictures.held_out) * torch.where(plain, 1.0, 0.15)
    while clock.index < clock.steps:
        generator = clock.generator("translations")
        rows = choose(weights, batch, generator)
        tokens = names.choose(rows, generator)[own].to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            meant = _encode(trainee, tokens)
        cosine = (meant * goals[rows[own].to(device)]).sum(1).mean()
        learn(trainee, optimizer, 2 * (1 - cosine), clock, lr)  # = the mean squared distance of unit vectors
        clock.index += 1
        yield Taught(clock.index - 1, gather(cosine.detach()[None]).mean().item())


def _encode(trainee: Trainee, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n d"]:
    """As the trainee does, but shorter names apart from longer ones, lest all be as long as the longest."""
    ends = tokens.argmax(1)
    order = ends.argsort()
    parts = [trainee.encode_text(tokens[part, : int(ends[part].max()) + 1]) for part in order.chunk(8)]
    return torch.cat(parts)[order.argsort()]
