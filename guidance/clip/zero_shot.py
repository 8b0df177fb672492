"""Zero-shot classification: which of some labels, in words, fits an image best (Radford et al. 2021)."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from guidance.clip.embed import embed_images
from guidance.clip.encoder import Clip
from guidance.clip.templates import PLAIN, fill
from guidance.clip.templates import check as check_templates
from guidance.clip.tokenize import PromptWarning, overflow, warn
from guidance.errors import InputError


def zero_shot(
    clip: Clip,
    images: Float[Tensor, "n 3 h w"] | UInt8[np.ndarray, "n h w 3"] | Sequence[Path | str],
    labels: list[str],
    templates: Sequence[str] = PLAIN,
) -> Float[Tensor, "n labels"]:
    """The probability of each label for each image, with the temperature that the model learned; on the CPU.

    Images are given as to `embed_images`. For a gradient, give `probabilities` the result of
    `Clip.encode_image`. Raises InputError as `classifier` and `embed_images` do.
    """
    weights = classifier(clip, labels, templates).cpu()
    return probabilities(clip, embed_images(clip, images), weights)


def classifier(clip: Clip, labels: list[str], templates: Sequence[str] = PLAIN) -> Float[Tensor, "labels d"]:
    """A unit vector for each label: the mean of its embeddings in all templates, each of length 1 before.

    This is OpenAI's ensemble (Radford et al. 2021, section 3.1.4), over embeddings, not over probabilities.
    Warns (PromptWarning) about labels with words that the model was never trained on, where that is known,
    and about those that do not fit into its context, alone or in the longest template.
    Raises InputError for labels that are empty, twice there or fewer than two; for templates without one {}.
    """
    check(labels)
    check_templates(templates)
    for label in labels:
        warn(label, clip._tokenizer, clip._vocabulary, clip.name, stacklevel=2)
    longest = max(templates, key=len)
    if cut := [label for label in labels if overflow(clip._tokenizer, fill(longest, label))]:
        warnings.warn(
            f"the model {clip.name!r} ({clip._tokenizer.context_length} tokens) does not see all of "
            f"{longest!r} with {len(cut)} of {len(labels)} labels, such as {cut[0]!r}; shorten them",
            PromptWarning,
            stacklevel=2,
        )
    rows = []
    at_once = max(1, 1024 // len(templates))
    for i in range(0, len(labels), at_once):
        batch = labels[i : i + at_once]
        texts = [fill(template, label) for label in batch for template in templates]
        rows.append(clip.encode_many(texts).unflatten(0, (len(batch), len(templates))).mean(dim=1))
    return F.normalize(torch.cat(rows), dim=-1)


def probabilities(
    clip: Clip, embeddings: Float[Tensor, "n d"], weights: Float[Tensor, "labels d"]
) -> Float[Tensor, "n labels"]:
    """Softmax over the labels of `classifier` for embeddings of images; rows sum to 1."""
    return (clip.logit_scale * embeddings @ weights.T).softmax(dim=-1)


def check(labels: Sequence[str]) -> None:
    """Raises InputError for labels that are empty, twice there, or fewer than two."""
    if wrong := [label for label in labels if label != label.encode(errors="replace").decode()]:
        raise InputError(f"a label must be Unicode, got {wrong[0]!r}; type it again")
    if any(not label.strip() for label in labels):
        raise InputError(f"a label must not be empty, got one among {len(labels)}; delete it")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise InputError(f"every label must be there once, got {', '.join(map(repr, twice[:5]))} again")
    if len(labels) < 2:
        raise InputError(f"at least two labels are needed to choose from, got {list(labels)}")


@dataclass(frozen=True)
class Evaluation:
    """How often a classifier was right.

    `top1`, `top5`: shares of the images whose label was the first, or among the first five. `counts` and
    `recall`: of each label, how many images have it, and the share of those that were recognised (None where
    there are none). `confusions`: (label, what it was taken for, how often), the most frequent first.
    """

    top1: float
    top5: float
    counts: list[int]
    recall: list[float | None]
    confusions: list[tuple[int, int, int]]

    def facts(self, labels: Sequence[str]) -> dict[str, Any]:
        """Everything by the names of the labels, as JSON takes it."""
        counted = zip(labels, self.counts, self.recall, strict=True)
        return {
            "count": sum(self.counts),
            "top1": self.top1,
            "top5": self.top5,
            "labels": {label: {"pictures": count, "recall": recall} for label, count, recall in counted},
            "confusions": [
                {"label": labels[label], "taken_for": labels[taken], "times": times}
                for label, taken, times in self.confusions
            ],
        }


def evaluate(scores: Float[Tensor, "n labels"], truth: Sequence[int]) -> Evaluation:
    """Compare scores, of which the highest is the guess, with the number of the right label for each image.

    Similarities are better than probabilities here: those of unlikely labels are all rounded to zero.
    """
    first = scores.topk(min(5, scores.shape[1]), dim=1).indices
    right = first == torch.tensor(truth, device=scores.device)[:, None]
    pairs = Counter(zip(truth, first[:, 0].tolist(), strict=True))
    images = Counter(truth)
    counts = [images[i] for i in range(scores.shape[1])]
    return Evaluation(
        top1=right[:, 0].float().mean().item(),
        top5=right.any(dim=1).float().mean().item(),
        counts=counts,
        recall=[pairs[i, i] / count if count else None for i, count in enumerate(counts)],
        confusions=[(a, b, count) for (a, b), count in pairs.most_common() if a != b],
    )
