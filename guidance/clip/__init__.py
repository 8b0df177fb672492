"""CLIP: what an image and a text have in common, as a number with a gradient."""

from guidance.clip.encoder import Clip
from guidance.clip.loading import load
from guidance.clip.tokenize import PromptWarning

__all__ = ["Clip", "PromptWarning", "load"]
