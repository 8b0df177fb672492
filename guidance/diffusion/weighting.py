"""How a dialect weighs tokens: what becomes of the rows of a text encoder whose tokens have weights."""

from collections.abc import Callable
from math import pi, tan

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.diffusion.dialects import Dialect

#: The rows of a phrase's k contexts, of which those tokens are seen that a mask says (None: all).
Encode = Callable[[Bool[Tensor, "k t"] | None], Float[Tensor, "k t d"]]


def weigh(
    dialect: Dialect,
    encode: Encode,
    empty: Callable[[], Float[Tensor, "1 t d"]],
    weights: Float[Tensor, "k t"],
    fragments: Int[Tensor, "k t"],
) -> Float[Tensor, "k t d"]:
    """The rows of k contexts under weights, as the dialect's tool computes them.

    `empty`: the rows of an empty prompt. `fragments`: the number of the fragment that each token is of, -1
    for what begins, ends and pads. Weights that are all 1 change no bit.
    """
    hidden = encode(None)
    if bool((weights == 1).all()):
        return hidden
    match dialect:
        case "plain":
            return hidden
        case "a1111":
            return _multiply(hidden, weights)
        case "comfy":
            return _interpolate(hidden, empty(), weights)
        case "compel":
            return _mask(encode, hidden, empty(), weights, fragments)


def _multiply(hidden: Float[Tensor, "k t d"], weights: Float[Tensor, "k t"]) -> Float[Tensor, "k t d"]:
    """Rows times weights, and then the mean over each context as it was (webui's "Original" emphasis)."""
    weighted = hidden * weights[..., None]
    return weighted * (hidden.mean((1, 2), keepdim=True) / weighted.mean((1, 2), keepdim=True))


def _interpolate(
    hidden: Float[Tensor, "k t d"], empty: Float[Tensor, "1 t d"], weights: Float[Tensor, "k t"]
) -> Float[Tensor, "k t d"]:
    """From the empty prompt's row at a token's place (weight 0) through its own (1) and beyond (ComfyUI)."""
    moved = empty + (hidden - empty) * weights[..., None]
    return torch.where(weights[..., None] == 1, hidden, moved)


def _mask(
    encode: Encode,
    hidden: Float[Tensor, "k t d"],
    empty: Float[Tensor, "1 t d"],
    weights: Float[Tensor, "k t"],
    fragments: Int[Tensor, "k t"],
) -> Float[Tensor, "k t d"]:
    """As `_interpolate`; what weighs less than 1 is besides mixed with rows that never saw it (compel).

    The share of those is tan((1 - weight) π/2) to 1: none at weight 1, half at 0.5, all at 0.
    """
    versions, shares = [_interpolate(hidden, empty, weights)], [1.0]
    for fragment in fragments[fragments >= 0].unique().tolist():
        weight = float(weights[fragments == fragment][0])
        if weight < 1:
            unseen = encode(fragments != fragment)
            versions.append(_interpolate(unseen, empty, weights))
            shares.append(tan((1 - max(weight, 1e-5)) * pi / 2))
    mixed = torch.stack([version * share for version, share in zip(versions, shares, strict=True)]).sum(0)
    return mixed / sum(shares)
