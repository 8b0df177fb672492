"""Pictures found by text, by picture and by blends of both, and pictures that are nearly the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from guidance.clip.embed import embed_images, embed_texts
from guidance.clip.encoder import Clip
from guidance.clip.index import Index, Row
from guidance.clip.vectors import embedding
from guidance.errors import InputError
from guidance.prompts import Prompt, normalized_weights, parse


@dataclass(frozen=True)
class Match:
    """A picture of an index and its score: a cosine, or a weighted mean of cosines, in [-1, 1]."""

    row: Row
    score: float

    def facts(self) -> dict[str, str | int | float]:
        """What there is to tell of it, as JSON takes it."""
        row = self.row
        text = {"path": row.path, "caption": row.caption}
        return {"score": round(self.score, 4), **text, "width": row.width, "height": row.height}


def search(index: Index, clip: Clip, prompts: str | Sequence[Prompt], *, top: int = 20) -> list[Match]:
    """The pictures of an index that match prompts best, the best first.

    `prompts` as in the rest of the package: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5" (`guidance.parse`). The
    score is the mean cosine, weighted by the weights over the sum of their absolute values. A picture is seen
    as those of the index were, so that it finds itself with 1.

    Raises InputError when the index was made by another model, for prompts that cancel out or cannot be read,
    and for a top below 1.
    """
    if top < 1:
        raise InputError(f"top must be at least 1, got {top}")
    index.check(clip.name, clip.fingerprint)
    return [Match(row, score) for row, score in index.nearest(_query(clip, prompts), top)]


def duplicates(index: Index, threshold: float = 0.97) -> Iterator[list[Match]]:
    """Groups of pictures that are nearly the same: a first one, and all later ones whose cosine with it is
    at least `threshold`; each picture is in one group.

    Every pair is compared: 50,000 pictures take ten seconds of a core, a million an hour. Raises InputError
    for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold must be above 0 and at most 1, got {threshold:g}")
    slots, vectors = index.vectors()
    n = len(slots)
    first = np.arange(n)  # of the group that each picture is in
    scores = np.ones(n, np.float32)
    tall, wide = 1024, 16384
    for top in range(0, n, tall):
        rows = np.arange(top, min(top + tall, n))
        block = vectors[slots[rows] - 1]
        # Within the block, one after another: afterwards it is known which of it are the first of a group.
        inner = block @ block.T
        for i in np.flatnonzero((inner >= threshold).sum(1) > 1):
            if first[top + i] == top + i:
                _join(first, scores, rows[i], rows[i + 1 :], inner[i, i + 1 :], threshold)
        leaders = np.flatnonzero(first[rows] == rows)
        for left in range(top + tall, n, wide):
            columns = np.arange(left, min(left + wide, n))
            outer = block[leaders] @ vectors[slots[columns] - 1].T
            for i in np.flatnonzero((outer >= threshold).any(1)):
                _join(first, scores, rows[leaders[i]], columns, outer[i], threshold)
    members = np.flatnonzero(np.bincount(first, minlength=n)[first] > 1)
    for leader in np.unique(first[members]):
        group = members[first[members] == leader]
        group = group[np.lexsort((group, -scores[group], group != leader))]
        known = index.rows_at(slots[group].tolist())
        yield [Match(known[slots[i]], float(scores[i])) for i in group if slots[i] in known]


def _join(
    first: np.ndarray,
    scores: np.ndarray,
    leader: np.int64,
    others: np.ndarray,
    cosines: np.ndarray,
    threshold: float,
) -> None:
    """Take those of the others that are near enough and in no group yet into the group of `leader`."""
    near = (cosines >= threshold) & (first[others] == others)
    first[others[near]] = leader
    scores[others[near]] = cosines[near]


def _query(clip: Clip, prompts: str | Sequence[Prompt]) -> Float32[np.ndarray, " d"]:
    prompts = parse(prompts) if isinstance(prompts, str) else prompts
    weights = torch.tensor(normalized_weights(prompts))
    query = (torch.cat([_embed(clip, prompt) for prompt in prompts]) * weights[:, None]).sum(0)
    if query.norm() < 1e-4:
        raise InputError("the prompts cancel each other out; change their weights")
    return query.numpy()


def _embed(clip: Clip, prompt: Prompt) -> Tensor:
    if prompt.text is not None:
        return embed_texts(clip, [prompt.text])
    if prompt.image is not None:
        return embed_images(clip, [prompt.image])
    assert prompt.embedding is not None  # what is neither text nor picture
    row = embedding(prompt.embedding, clip.embed_dim)
    return torch.nn.functional.normalize(row[None], dim=-1)
