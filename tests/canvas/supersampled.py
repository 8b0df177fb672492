"""An independent renderer of strokes: 16×16 samples a pixel, in or out of a finely flattened curve."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAMPLES = 16
PIECES = 32


def _polyline(control: Array) -> Array:
    """The points of a path of cubics, whose control points are [3s + 1, 2]."""
    t = np.linspace(0, 1, PIECES + 1)[:, None]
    s = 1 - t
    cubics = (control[i : i + 4] for i in range(0, len(control) - 1, 3))
    return np.concatenate(
        [s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d for a, b, c, d in cubics]
    )


def coverage(control: Array, width: float, size: int) -> Array:
    """The share of every pixel, [size, size], that a stroke covers; geometry in units of the canvas."""
    line, radius = _polyline(control) * size, width * size / 2
    samples = (np.arange(size * SAMPLES) + 0.5) / SAMPLES
    inside = np.zeros((size * SAMPLES, size * SAMPLES), bool)
    for a, b in pairwise(line):
        left, top = np.searchsorted(samples, np.minimum(a, b) - radius)
        right, bottom = np.searchsorted(samples, np.maximum(a, b) + radius)
        x, y = samples[left:right] - a[0], samples[top:bottom, None] - a[1]
        along, length = b - a, ((b - a) ** 2).sum()
        u = np.clip((x * along[0] + y * along[1]) / length, 0, 1) if length > 0 else 0.0
        inside[top:bottom, left:right] |= (x - u * along[0]) ** 2 + (y - u * along[1]) ** 2 <= radius**2
    return inside.reshape(size, SAMPLES, size, SAMPLES).mean((1, 3))


def paint(coverages: list[Array], colours: Array, opacity: Array, background: Array) -> Array:
    """Alpha-over in painting order: [size, size, 3]."""
    image = np.broadcast_to(background, (*coverages[0].shape, 3))
    for share, colour, alpha in zip(coverages, colours, opacity, strict=True):
        image = image + (share * alpha)[:, :, None] * (colour - image)
    return image
