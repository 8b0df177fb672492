"""Losses: callables from an image `[b, 3, h, w]` to one number a member `[b]`."""

from guidance.losses.clip import ClipLoss, clip_score, cosine_distance, great_circle
from guidance.losses.directional import DirectionalLoss
from guidance.losses.distillation import DistillationLoss
from guidance.losses.diversity import DiversityLoss
from guidance.losses.features import clip_features, vgg16_features
from guidance.losses.guides import clip_losses, guide_score, load_guides
from guidance.losses.image import (
    EdgeLoss,
    PaletteLoss,
    SymmetryLoss,
    out_of_range,
    saturation,
    total_variation,
)
from guidance.losses.latent import LatentLoss
from guidance.losses.perceptual import PerceptualLoss
from guidance.losses.style import GramLoss, StrotssLoss
from guidance.losses.vector import XingLoss

__all__ = [
    "ClipLoss",
    "DirectionalLoss",
    "DistillationLoss",
    "DiversityLoss",
    "EdgeLoss",
    "GramLoss",
    "LatentLoss",
    "PaletteLoss",
    "PerceptualLoss",
    "StrotssLoss",
    "SymmetryLoss",
    "XingLoss",
    "clip_features",
    "clip_losses",
    "clip_score",
    "cosine_distance",
    "great_circle",
    "guide_score",
    "load_guides",
    "out_of_range",
    "saturation",
    "total_variation",
    "vgg16_features",
]
