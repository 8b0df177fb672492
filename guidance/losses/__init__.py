"""Losses: callables from an image `[b, 3, h, w]` to one number a member `[b]`."""

from guidance.losses.clip import ClipLoss, clip_score, cosine_distance, great_circle

__all__ = ["ClipLoss", "clip_score", "cosine_distance", "great_circle"]
