"""Contrastive losses of images and their texts: in one process or many, whole or in chunks.

In a distributed run each rank gives its own rows, as many as every other rank, and gets the loss of its rows
against those of all. The mean of the ranks' losses is the loss of the whole batch; averaged over the ranks,
as DDP does, the gradients are those of the whole batch. A rank computes its n rows of the N × N matrix once
and for both directions: what the columns need of the other ranks is N numbers.

`chunk` is how many rows of the matrix exist at a time: they are computed again for the gradient, so that
memory grows with chunk × N + nN/chunk and no longer with n × N.

`ids`, one or more numbers a pair, tell repeated images or captions: pairs that have the same number in the
same column are right answers for each other, all alike (Khosla et al. 2020, eq. 2; UniCL, Yang et al. 2022).

Embeddings are unit vectors. All is computed in float32 at least, also under autocast, and by log-sum-exp:
finite at every scale.
"""

from collections.abc import Callable, Iterator
from math import log
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from guidance.distributed import gather, rank
from guidance.errors import InputError

R = TypeVar("R")

#: The logarithm of what cosines are multiplied by, where it starts and its bound (Radford et al. 2021).
LOG_SCALE, MAX_LOG_SCALE = log(1 / 0.07), log(100)
#: Where the logarithm of the scale and the bias start for `siglip` (Zhai et al. 2023).
SIGLIP_LOG_SCALE, SIGLIP_BIAS = log(10), -10.0

#: The logit of what does not count: no exponential, and unlike -inf no NaN in the gradient.
NOTHING = -1e30


@torch.no_grad()
def clamp_scale_(log_scale: Float[Tensor, ""], most: float = MAX_LOG_SCALE) -> None:
    """Keep a learned logarithm of the scale in [0, most]; after every step of the optimizer.

    Inside the loss, a bound would end the gradient that leads back.
    """
    log_scale.clamp_(0, most)


def exact(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A tensor in float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def info_nce(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    *,
    ids: Int[Tensor, "n k"] | None = None,
    decoupled: bool = False,
    reverse: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The symmetric cross-entropy of finding the text of an image and the image of a text.

    van den Oord et al. 2018; Radford et al. 2021. `decoupled`: the right answer is left out of the
    denominator (Yeh et al. 2022, eq. 6); a row that has no wrong answer then counts nothing. `reverse`:
    images and texts in a second projection, in which texts look for images while images look for texts in
    the first (x-clip's extra latent projection, after CLOOB, Fürst et al. 2022).
    """
    with torch.autocast(images.device.type, enabled=False):
        queries, keys = exact(images) * scale, gather(exact(texts))
        if reverse is not None:
            queries_back, keys_back = exact(reverse[0]) * scale, gather(exact(reverse[1]))

        def logits(rows: slice) -> tuple[Tensor, Tensor]:
            forth = queries[rows] @ keys.T
            return forth, forth if reverse is None else queries_back[rows] @ keys_back.T

        return _symmetric(logits, _pairs(len(images), ids, chunk, images.device), decoupled, chunk)


def siglip(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    *,
    ids: Int[Tensor, "n k"] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """A logistic regression for every image and text: do they belong together? (Zhai et al. 2023, eq. 1).

    The texts of all ranks are gathered; they are small, it is the matrix that is large.
    """
    with torch.autocast(images.device.type, enabled=False):
        queries, keys = exact(images) * scale, gather(exact(texts))

        def block(rows: slice, pairs: tuple[Tensor, Tensor]) -> Tensor:
            logits = queries[rows] @ keys.T + bias
            return functional.softplus(logits.index_put(pairs, -logits[pairs])).sum()

        pairs = _pairs(len(images), ids, chunk, images.device)
        parts = zip(_slices(len(images), chunk), pairs, strict=True)
        return torch.stack([_run(block, chunk, *part) for part in parts]).sum() / len(images)


def filip(
    image_tokens: Float[Tensor, "n p d"],
    text_tokens: Float[Tensor, "n t d"],
    mask: Bool[Tensor, "n t"],
    scale: Float[Tensor, ""],
    *,
    ids: Int[Tensor, "n k"] | None = None,
    decoupled: bool = False,
    chunk: int = 64,
) -> Float[Tensor, ""]:
    """InfoNCE of similarities by tokens, each with its best counterpart (Yao et al. 2022, eq. 3-6).

    Tokens are unit vectors; `mask` is True where a text has a token, at least once a text. An image is as
    similar to a text as its tokens on average to the text's tokens nearest to them, and the same from the
    text to the image. The similarities of tokens exist for chunk × chunk pairs at a time.
    """
    with torch.autocast(image_tokens.device.type, enabled=False):
        ours, theirs = exact(image_tokens) * scale, gather(exact(text_tokens))
        there = gather(mask)

        def tile(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
            tokens = torch.einsum("ipd,jtd->ijpt", ours[rows], theirs[columns])
            present = there[columns]
            forth = tokens.masked_fill(~present[:, None], NOTHING).amax(3).mean(2)
            back = (tokens.amax(2) * present).sum(2) / present.sum(1)
            return forth, back

        def strip(rows: slice) -> tuple[Tensor, Tensor]:
            tiles = [_run(tile, chunk, rows, columns) for columns in _slices(len(theirs), chunk)]
            forth, back = zip(*tiles, strict=True)
            return torch.cat(forth, 1), torch.cat(back, 1)

        strips = [strip(rows) for rows in _slices(len(ours), chunk)]
        forth, back = (torch.cat(matrix) for matrix in zip(*strips, strict=True))
        pairs = _pairs(len(ours), ids, None, ours.device)
        return _symmetric(lambda rows: (forth[rows], back[rows]), pairs, decoupled, None)


def multiview(
    loss: Callable[[Float[Tensor, "n d"], Float[Tensor, "n d"]], Float[Tensor, ""]],
    images: Float[Tensor, "v n d"],
    texts: Float[Tensor, "w n d"],
) -> Float[Tensor, "v w"]:
    """A loss of every view of the images with every view of the texts (DeCLIP, Li et al. 2022).

    `[0, 0]` is the loss without the augmented views, the mean of the others x-clip's multiview loss.
    """
    losses = [[loss(image_view, text_view) for text_view in texts] for image_view in images]
    return torch.stack([torch.stack(row) for row in losses])


def combine(main: Float[Tensor, ""], auxiliary: list[tuple[float, Float[Tensor, ""]]]) -> Float[Tensor, ""]:
    """A main loss and auxiliary ones with their weights; the main one has what is left of 1, as in x-clip.

    x-clip's weights: masked language 0.05, SimSiam or SimCLR 0.05, multiview 0.1. Raises InputError when
    nothing is left.
    """
    rest = 1 - sum(weight for weight, _ in auxiliary)
    if rest <= 0 or any(weight < 0 for weight, _ in auxiliary):
        weights = ", ".join(f"{weight:g}" for weight, _ in auxiliary)
        raise InputError(f"auxiliary weights must be positive and sum to less than 1, got {weights}")
    return rest * main + sum(weight * loss for weight, loss in auxiliary)


def _symmetric(
    logits: Callable[[slice], tuple[Float[Tensor, "c N"], Float[Tensor, "c N"]]],
    pairs: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]],
    decoupled: bool,
    chunk: int | None,
) -> Float[Tensor, ""]:
    """Half of the cross-entropy along the rows of one matrix and half of that along the columns of another.

    `logits` gives some rows of both, `pairs` the places of their right answers.
    """
    counts = torch.cat([torch.bincount(i) for i, _ in pairs])
    all_counts = gather(counts)
    n, total = len(counts), len(all_counts)
    own = slice(rank() * n, (rank() + 1) * n)
    counted = counts < total if decoupled else torch.ones_like(counts, dtype=torch.bool)
    weights = gather(counted) / all_counts

    def block(rows: slice, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        forth, back = logits(rows)
        i, j = pair
        right = forth[pair] * weights[own][rows][i] + back[pair] * weights[j]
        if decoupled:
            nothing = forth.new_tensor(NOTHING)
            forth, back = forth.index_put(pair, nothing), back.index_put(pair, nothing)
        return forth.logsumexp(1), back.logsumexp(0), right.sum()

    parts = zip(_slices(n, chunk), pairs, strict=True)
    rows, columns, right = zip(*(_run(block, chunk, *part) for part in parts), strict=True)
    # Sums of exponentials of the rank's rows, then of all ranks' rows.
    partial = torch.stack(columns).logsumexp(0)
    column = gather(partial[None]).logsumexp(0)[own]
    sums = (torch.cat(rows) + column) * counted
    return (sums.sum() - torch.stack(right).sum()) / (2 * n)


def _pairs(
    n: int, ids: Int[Tensor, "n k"] | None, chunk: int | None, device: torch.device
) -> list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]:
    """The row in its chunk and the column of every right answer in each chunk of the rank's rows."""
    if ids is None:
        columns = torch.arange(n, device=device) + rank() * n
        return [(torch.arange(len(c), device=device), c) for c in columns.split(_size(n, chunk))]
    all_ids = gather(ids)
    alike = ((part[:, None] == all_ids).any(2) for part in ids.split(_size(n, chunk)))
    return [(found[:, 0], found[:, 1]) for found in (places.nonzero() for places in alike)]


def _slices(n: int, chunk: int | None) -> Iterator[slice]:
    size = _size(n, chunk)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _size(n: int, chunk: int | None) -> int:
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk must be at least 1, got {chunk}")
    return chunk or n


def _run(function: Callable[..., R], chunk: int | None, *arguments: object) -> R:
    """What a function returns; with a chunk, nothing else is kept for the gradient: it is computed again."""
    if chunk is None:
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
