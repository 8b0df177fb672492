"""Captioned pictures to train on: sources opened by name, mixed, and made into batches."""

from guidance.clip.datasets.batches import Batch, Batches
from guidance.clip.datasets.opening import open_sources
from guidance.clip.datasets.rows import Caption, Row, Source
from guidance.clip.datasets.validation import HeldOut, held_out
from guidance.clip.datasets.views import Augmentation

__all__ = [
    "Augmentation", "Batch", "Batches", "Caption", "HeldOut", "Row", "Source", "held_out", "open_sources",
]  # fmt: skip
