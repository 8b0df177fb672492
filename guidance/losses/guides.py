"""The models that guide: one CLIP or several at once, each with its weight and with views of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip import Clip, load
from guidance.clip.encoder import Precision
from guidance.clip.names import resolve
from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses.clip import ClipLoss, Distance, Encoder, clip_score, cosine_distance
from guidance.prompts import Prompt, parse_weighted


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
    return {
        name: (weights[name] / total, load(name, device=device, precision=precision))
        for name in sorted(weights)
    }


def clip_losses(
    guides: Mapping[str, tuple[float, Encoder]],
    prompts: Sequence[Prompt],
    views: Crops,
    distance: Distance = cosine_distance,
) -> dict[str, tuple[float, ClipLoss]]:
    """The losses of all guides with their shares, as `optimize` takes them.

    One guide's is called "clip" and sees the views as they are; of several, each is called "clip/NAME" and
    draws its own. Raises InputError as `ClipLoss` does.
    """
    if len(guides) == 1:
        ((share, clip),) = guides.values()
        return {"clip": (share, ClipLoss(clip, prompts, views, distance))}
    return {
        f"clip/{name}": (
            share,
            ClipLoss(clip, prompts, replace(views, stream=f"{views.stream}/{name}"), distance),
        )
        for name, (share, clip) in sorted(guides.items())
    }


def guide_score(
    guides: Mapping[str, tuple[float, Encoder]], prompts: Sequence[Prompt], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """The mean of the guides' `clip_score` by their shares, in [-1, 1]; higher is better."""
    scores = [share * clip_score(clip, prompts, images) for _, (share, clip) in sorted(guides.items())]
    return torch.stack(scores).sum(0)
