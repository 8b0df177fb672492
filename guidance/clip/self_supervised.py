"""What CLIP training learns from images alone and from texts alone, beside its contrastive loss.

In a distributed run each rank gives its own rows, and the mean of the ranks' losses is that of the whole
batch, as in `contrastive`. Batch norm in `projector` and `predictor` sees the whole batch once they went
through `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from guidance.clip.contrastive import exact
from guidance.distributed import gather, rank, world


def mask_tokens(
    tokens: Int[Tensor, "n t"],
    draws: Float[Tensor, "n t 2"],
    *,
    mask_id: int,
    special: Sequence[int],
    vocabulary: int,
    share: float = 0.15,
    replaced: float = 0.8,
    random: float = 0.1,
) -> tuple[Int[Tensor, "n t"], Bool[Tensor, "n t"]]:
    """Texts with some tokens hidden, and which were chosen (BERT, Devlin et al. 2019).

    Of each text's tokens that are not `special` (padding, start, end) `share` are chosen, rounded up. Of
    these `replaced` become `mask_id`, `random` any token below `vocabulary`, and the others stay. `draws` are
    uniform in [0, 1): they are an argument so that a text has the same ones on any number of ranks.
    """
    ordinary = ~torch.isin(tokens, tokens.new_tensor(list(special)))
    places = draws[..., 0].masked_fill(~ordinary, 2).argsort(1).argsort(1)
    chosen = places < (share * ordinary.sum(1, keepdim=True)).ceil()
    fate = draws[..., 1]
    # What is left of the draw, stretched to [0, 1), is a draw as well.
    other = (
        (((fate - replaced) / max(random, 1e-9)).clamp(0, 1) * vocabulary).long().clamp(max=vocabulary - 1)
    )
    hidden = torch.where(fate < replaced, mask_id, torch.where(fate < replaced + random, other, tokens))
    return torch.where(chosen, hidden, tokens), chosen


def masked_language(
    logits: Float[Tensor, "n t v"], tokens: Int[Tensor, "n t"], chosen: Bool[Tensor, "n t"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the tokens that were chosen; zero where none was."""
    # Ranks choose different numbers of tokens; the mean is over those of all.
    count = gather(chosen.sum()[None]).sum().clamp(min=1) / world()
    return functional.cross_entropy(exact(logits[chosen]), tokens[chosen], reduction="sum") / count


def simsiam(
    predictions: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
    projections: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
) -> Float[Tensor, ""]:
    """1 - cosine between what is predicted from one view and the projection of the other, both ways.

    SimSiam (Chen & He 2021, eq. 1-4, plus one); no gradient goes to the projections.
    """
    cosines = [
        functional.cosine_similarity(exact(prediction), exact(projection.detach())).mean()
        for prediction, projection in zip(predictions, reversed(projections), strict=True)
    ]
    return 1 - (cosines[0] + cosines[1]) / 2


def simclr(
    first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """The cross-entropy of finding an image's other view among all views of all images (NT-Xent).

    SimCLR (Chen et al. 2020, eq. 1); views are unit vectors.
    """
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):
        views = torch.stack([exact(first), exact(second)])
        everything = gather(views.movedim(1, 0)).flatten(0, 1)  # the two views of an image side by side
        own = 2 * (rank() * n + torch.arange(n, device=first.device))
        losses = []
        for view in (0, 1):
            logits = views[view] @ everything.T / temperature
            logits = logits.scatter(1, (own + view)[:, None], -torch.inf)
            losses.append(functional.cross_entropy(logits, own + 1 - view))
        return (losses[0] + losses[1]) / 2


def similarity_regularization(images: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The mean squared difference between how alike two images and how alike their texts are.

    Shi et al. 2023 ("Enhance audio generation controllability through representation similarity
    regularization"), as in x-clip: of all pairs but those of a thing with itself. Unit vectors.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, texts = exact(images), exact(texts)
        difference = images @ gather(images).T - texts @ gather(texts).T
        own = (rank() * len(images) + torch.arange(len(images), device=images.device))[:, None]
        squares = difference.square().scatter(1, own, 0)
        return squares.sum() / (squares.numel() - len(images))


def projector(d: int, hidden: int = 2048, out: int = 2048) -> nn.Sequential:
    """SimSiam's projection of features: three layers, batch norm on each, without gains on the last."""
    return nn.Sequential(
        nn.Linear(d, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=False),
        nn.BatchNorm1d(out, affine=False),
    )


def predictor(d: int = 2048, hidden: int = 512) -> nn.Sequential:
    """SimSiam's prediction of the other view's projection: two layers with a bottleneck."""
    return nn.Sequential(
        nn.Linear(d, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, d)
    )
