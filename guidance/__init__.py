"""Text steers an image: CLIP-guided drawing and optimisation."""

__version__ = "0.1.0"
