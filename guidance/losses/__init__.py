"""Losses: callables from an image `[b, 3, h, w]` to one number a member `[b]`."""

from guidance.losses.clip import ClipLoss, clip_score, cosine_distance, great_circle
from guidance.losses.guides import clip_losses, guide_score, load_guides
from guidance.losses.image import (
    EdgeLoss,
    PaletteLoss,
    SymmetryLoss,
    out_of_range,
    saturation,
    total_variation,
)

__all__ = [
    "ClipLoss",
    "EdgeLoss",
    "PaletteLoss",
    "SymmetryLoss",
    "clip_losses",
    "clip_score",
    "cosine_distance",
    "great_circle",
    "guide_score",
    "load_guides",
    "out_of_range",
    "saturation",
    "total_variation",
]
