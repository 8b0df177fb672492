"""What a model in training knows: retrieval and classification of pictures that it does not learn from, and
whether it still knows what it knew before.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from guidance.clip.datasets import HeldOut
from guidance.clip.embed import embed_images
from guidance.clip.encoder import Clip
from guidance.clip.labels import look_labelled
from guidance.clip.pictures import Unusable, ahead, fitting, prepare
from guidance.clip.retrieval import ranks, recall, retrieval
from guidance.clip.sources import Found, read
from guidance.clip.templates import PLAIN
from guidance.clip.zero_shot import classifier, evaluate
from guidance.errors import InputError

#: A language with fewer captions is not told on its own: one of ten is 10 %.
FEW = 10
#: How many nearest names make up what a model thinks of a name.
NEIGHBOURS = 10
#: The share of what a model knew below which a warning says that it forgets.
KEPT = 0.8


class ForgettingWarning(UserWarning):
    """Training destroys what a model knew."""


def measure(clip: Clip, held: HeldOut) -> dict[str, float]:
    """Recall and median rank both ways of held-out pictures and their captions, by open_clip's names.

    `image_to_text_R@1`, … of all captions; where they are in several languages, of each on its own as well:
    `de/image_to_text_R@1`, … with the pictures and texts that there are in it. A text is one, of however many
    pictures and languages it is. Raises InputError where there is no caption.
    """
    said = [(i, caption) for i, captions in enumerate(held.captions) for caption in captions]
    if not said:
        raise InputError("no held-out picture has a caption; there is nothing to measure with")
    texts = sorted({caption.text for _, caption in said})
    number = {text: i for i, text in enumerate(texts)}
    right = torch.tensor([[i, number[caption.text]] for i, caption in said])
    images = _embed(clip, held.images)
    encoded = clip.encode_many(texts).cpu()
    found = retrieval(images, encoded, right)
    languages = sorted({caption.language for _, caption in said})
    if len(languages) > 1:
        for language in languages:
            own = right[torch.tensor([caption.language == language for _, caption in said])]
            if language and len(own) >= FEW:
                told = retrieval(*_only(images, encoded, own))
                found |= {f"{language}/{name}": value for name, value in told.items()}
    return found


@dataclass(frozen=True)
class Labelled:
    """Pictures as a model sees them, sRGB in 0..255, with the number of each one's label."""

    images: UInt8[Tensor, "n 3 s s"]
    labels: list[str]
    truth: list[int]


def read_labelled(folder: Path, clip: Clip, most: int = 10_000) -> Labelled:
    """Pictures in folders that are named like labels, or in captions.csv; every k-th where there are over
    `most`. Those that cannot be read are left out.

    Raises InputError when there are none, and as `look_labelled` does.
    """
    fit, size = fitting(clip), clip.image_size
    found = [item for item in look_labelled(folder) if isinstance(item, Found) and item.caption]
    found = found[:: -(-len(found) // most) or 1]

    def see(item: Found) -> np.ndarray:
        return prepare(read(item.file, item.offset, item.length).data, size, fit).pixels

    seen = [(item, made) for item, made in ahead(found, see, 64) if not isinstance(made, Unusable)]
    if not seen:
        raise InputError(f"{folder} has no pictures with labels that can be read; name another folder")
    labels = sorted({str(item.caption) for item, _ in seen})
    images = torch.from_numpy(np.stack([made for _, made in seen])).permute(0, 3, 1, 2)
    return Labelled(images.contiguous(), labels, [labels.index(str(item.caption)) for item, _ in seen])


def classify(clip: Clip, labelled: Labelled, templates: Sequence[str] = PLAIN) -> dict[str, float]:
    """Zero-shot accuracy: `top1` and `top5`, the shares whose label is the first, or among the first five."""
    scores = _embed(clip, labelled.images) @ classifier(clip, labelled.labels, templates).cpu().T
    found = evaluate(scores, labelled.truth)
    return {"top1": found.top1, "top5": found.top5}


@final
class Canary:
    """Tells how much of what a model knew is left, as the share of it: 1 before training.

    With captioned pictures that the model knew, what is left of their text-to-image R@1. Without, what is
    left of each name's ten nearest names, for a list of names: it needs no pictures, and sees the text tower
    only. Warns (ForgettingWarning) below 80 %, where the difference is larger than chance makes it (two
    standard errors). Raises InputError for 20 names or fewer, most of which would always be nearest.
    """

    def __init__(self, before: Clip, known: HeldOut | Sequence[str]) -> None:
        if not isinstance(known, HeldOut) and len(known) <= 2 * NEIGHBOURS:
            raise InputError(f"a canary needs more than {2 * NEIGHBOURS} names, got {len(known)}; add some")
        self._known = known
        self._before = self._knowledge(before)

    def __call__(self, clip: Clip) -> float:
        now = self._knowledge(clip)
        if isinstance(self._known, HeldOut):
            then, left = (recall(places).first for places in (self._before, now))
            if then == 0:  # nothing to lose
                return 1.0
            share = left / then
            noise = sqrt((then * (1 - then) + left * (1 - left)) / len(now)) / then
        else:
            same = (now[:, :, None] == self._before[:, None]).any(2).double().mean(1)
            share, noise = same.mean().item(), same.std().item() / sqrt(len(same))
        if share < KEPT - 2 * noise:
            warnings.warn(
                f"{1 - share:.0%} of what the model knew before this training is gone; "
                "a lower --lr, a locked tower (--lock) or fewer steps keep more",
                ForgettingWarning,
                stacklevel=2,
            )
        return share

    def _knowledge(self, clip: Clip) -> Int[Tensor, "n ..."]:
        """The rank of each caption's picture, or the numbers of each name's nearest names."""
        if isinstance(self._known, HeldOut):
            pairs = [(caption.text, i) for i, own in enumerate(self._known.captions) for caption in own]
            texts = list(dict.fromkeys(text for text, _ in pairs))
            number = {text: i for i, text in enumerate(texts)}
            right = torch.tensor([[number[text], i] for text, i in pairs])
            return ranks(clip.encode_many(texts).cpu(), _embed(clip, self._known.images), right)
        names = clip.encode_many(list(self._known)).cpu()
        return (names @ names.T).fill_diagonal_(-2).topk(NEIGHBOURS).indices


def _embed(clip: Clip, images: UInt8[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
    return embed_images(clip, images.permute(0, 2, 3, 1).numpy())


def _only(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "n d"], right: Int[Tensor, "k 2"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The pictures and texts that are in pairs, and the pairs by their numbers among these."""
    pictures, picture = right[:, 0].unique(return_inverse=True)
    captions, caption = right[:, 1].unique(return_inverse=True)
    return images[pictures], texts[captions], torch.stack([picture, caption], 1)
