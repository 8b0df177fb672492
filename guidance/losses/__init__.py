"""Losses: callables from an image `[b, 3, h, w]` to one number a member `[b]`."""

from guidance.losses.clip import ClipLoss, clip_score, cosine_distance, great_circle
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
    "clip_score",
    "cosine_distance",
    "great_circle",
    "out_of_range",
    "saturation",
    "total_variation",
]
