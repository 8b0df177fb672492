"""The models that guide: one CLIP or several at once, each with its weight and with views of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import copysign, inf

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip import Clip, load
from guidance.clip.encoder import Precision
from guidance.clip.names import resolve
from guidance.clock import Schedule
from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses.clip import ClipLoss, Distance, Encoder, clip_score, cosine_distance
from guidance.prompts import Prompt, normalized_weights, parse_weighted


def load_guides(
    names: str, *, device: str | torch.device = "cpu", precision: Precision = "float32"
) -> dict[str, tuple[float, Clip]]:
    """Models by the names that `load` takes, written like prompts: `"tiny | ViT-B/32:0.5"`.

    Each has its share, its weight over the sum of all. They are in the order of their names, so that nothing
    depends on the order in which they are written. Raises InputError for a model that is there twice, for a
    weight that is not positive, and as `load` does.
    """
    weights: dict[str, float] = {}
    for name, weight in parse_weighted(names):
        if name in weights:
            raise InputError(f"a model guides once, got {name!r} twice in {names!r}; give it one weight")
        resolve(name)  # a misspelt name is told before the others are loaded
        weights[name] = weight
    total = sum(sorted(weights.values()))
    guides = {
        name: (weights[name] / total, load(name, device=device, precision=precision))
        for name in sorted(weights)
    }
    if len({clip.fingerprint for _, clip in guides.values()}) < len(guides):
        raise InputError(f"a model guides once, got two names of one in {names!r}; give it one weight")
    return guides


def clip_losses(
    guides: Mapping[str, tuple[float, Encoder]],
    prompts: Sequence[Prompt],
    views: Crops,
    distance: Distance = cosine_distance,
    *,
    separate: bool = False,
) -> dict[str, tuple[Schedule, ClipLoss]]:
    """The losses of all guides with their shares, as `optimize` takes them.

    One guide's is called "clip" and sees the views as they are; of several, each is called "clip/NAME" and
    draws its own. With `separate` every prompt is a loss, "clip/1 a fox", so that `optimize` can report each
    one's gradient; their weighted sum is the same, for the time of as many. Raises InputError as `ClipLoss`
    does.
    """
    losses: dict[str, tuple[Schedule, ClipLoss]] = {}
    for name, (share, clip) in sorted(guides.items()):
        key, own = "clip", views
        if len(guides) > 1:
            key, own = f"clip/{name}", replace(views, stream=f"{views.stream}/{name}")
        if not separate:
            losses[key] = (share, ClipLoss(clip, prompts, own, distance))
            continue
        for row, prompt in enumerate(prompts):
            one = replace(prompt, weight=copysign(1.0, prompt.weight), fade=1.0)
            aim = replace(prompt, weight=1.0, stop=-inf)
            weight = partial(_weight, prompts, row, share)
            losses[f"{key}/{row + 1} {aim}"] = (weight, ClipLoss(clip, [one], own, distance))
    return losses


def _weight(prompts: Sequence[Prompt], row: int, share: float, progress: float) -> float:
    return share * abs(normalized_weights(prompts, progress)[row])


def guide_score(
    guides: Mapping[str, tuple[float, Encoder]], prompts: Sequence[Prompt], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """The mean of the guides' `clip_score` by their shares, in [-1, 1]; higher is better."""
    scores = [share * clip_score(clip, prompts, images) for _, (share, clip) in sorted(guides.items())]
    return torch.stack(scores).sum(0)
