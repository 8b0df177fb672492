"""An independent renderer: 16×16 samples a pixel, in or out of finely flattened curves."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from guidance.canvas.raster import Gradients, Scene

Array = NDArray[np.float64]

SAMPLES = 16
PIECES = 32


def _polyline(control: Array) -> Array:
    """The points of a contour of cubics, whose control points are [3s + 1, any]."""
    t = np.linspace(0, 1, PIECES + 1)[:, None]
    s = 1 - t
    cubics = (control[i : i + 4] for i in range(0, len(control) - 1, 3))
    return np.concatenate(
        [s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d for a, b, c, d in cubics]
    )


def _discs(line: Array, x: Array, y: Array, inside: NDArray[np.bool_]) -> None:
    """A stroke of changing width: the union of discs along it."""
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    discs = np.concatenate([*(a + t * (b - a) for a, b in pairwise(line)), line[-1:]])
    for cx, cy, r in discs:
        left, right = np.searchsorted(x, (cx - r, cx + r))
        top, bottom = np.searchsorted(y, (cy - r, cy + r))
        distance = (x[left:right] - cx) ** 2 + (y[top:bottom, None] - cy) ** 2
        inside[top:bottom, left:right] |= distance <= r * r


def _slabs(line: Array, x: Array, y: Array, inside: NDArray[np.bool_]) -> None:
    """A stroke of one width: all that is near a piece."""
    radius = line[0, 2]
    for a, b in pairwise(line[:, :2]):
        left, top = (np.searchsorted(s, v) for s, v in zip((x, y), np.minimum(a, b) - radius, strict=True))
        right, bottom = (
            np.searchsorted(s, v) for s, v in zip((x, y), np.maximum(a, b) + radius, strict=True)
        )
        dx, dy = x[left:right] - a[0], y[top:bottom, None] - a[1]
        along, length = b - a, ((b - a) ** 2).sum()
        u = np.clip((dx * along[0] + dy * along[1]) / length, 0, 1) if length > 0 else 0.0
        inside[top:bottom, left:right] |= (dx - u * along[0]) ** 2 + (dy - u * along[1]) ** 2 <= radius**2


def _winding(line: Array, x: Array, y: Array, turns: NDArray[np.int64]) -> None:
    """Adds how often a closed polyline goes round each sample, as differences along the rows."""
    for a, b in pairwise([*line[:, :2], line[0, :2]]):
        low, high = np.searchsorted(y, sorted((a[1], b[1])))
        if low < high:
            crossing = a[0] + (y[low:high] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            np.add.at(turns, (np.arange(low, high), np.searchsorted(x, crossing)), np.sign(b[1] - a[1]))


@lru_cache(2000)
def _share(contours: tuple[bytes, ...], rule: str, height: int, width: int) -> Array:
    """The share of every pixel that a path covers; its contours are control points with radii, in pixels."""
    y, x = ((np.arange(n * SAMPLES) + 0.5) / SAMPLES for n in (height, width))
    lines = [_polyline(np.frombuffer(contour).reshape(-1, 3)) for contour in contours]
    if rule == "stroke":
        inside = np.zeros((len(y), len(x)), bool)
        for line in lines:
            draw = _slabs if np.ptp(line[:, 2]) < 1e-9 else _discs
            draw(line, x, y, inside)
    else:
        turns = np.zeros((len(y), len(x) + 1), np.int64)
        for line in lines:
            _winding(line, x, y, turns)
        turns = turns.cumsum(1)[:, :-1]
        inside = turns % 2 == 1 if rule == "even-odd" else turns != 0
    return inside.reshape(height, SAMPLES, width, SAMPLES).mean((1, 3))


def shares(scene: Scene, height: int, width: int) -> list[Array]:
    """The share of every pixel, [height, width], that each path of a scene of one member covers."""
    n = scene.opacity.shape[1]
    contours: list[list[bytes]] = [[] for _ in range(n)]
    widths = scene.widths.detach().double().numpy().reshape(-1)
    row = 0
    for c, owner in enumerate(scene.owners.tolist()):
        rows = slice(row, row := row + int(scene.sizes[c]))
        control = scene.points[rows].detach().double().numpy()
        radius = (widths[rows] if scene.widths.ndim == 1 else np.full(len(control), widths[owner])) / 2
        control = np.column_stack([control, radius]) * width
        if scene.closed is not None and scene.closed[c]:
            control = np.concatenate([control, control[:1]])
        contours[owner].append(control.tobytes())
    result = []
    for path in range(n):
        filled = scene.filled is not None and bool(scene.filled[0, path])
        even_odd = scene.even_odd is not None and bool(scene.even_odd[0, path])
        rule = ("even-odd" if even_odd else "nonzero") if filled else "stroke"
        result.append(_share(tuple(contours[path]), rule, height, width))
    return result


def _gradient(gradients: Gradients, which: int, height: int, width: int) -> Array:
    """The colour and opacity of a gradient at the centres of the pixels, [height, width, 4]."""
    y, x = (np.mgrid[:height, :width] + 0.5) / width
    transform, offsets, colours = (
        tensor[which].detach().double().numpy()
        for tensor in (gradients.transforms, gradients.offsets, gradients.colours)
    )
    u, v = (row[0] * x + row[1] * y + row[2] for row in transform)
    t = np.hypot(u, v) if gradients.radial[which] else u
    return np.stack([np.interp(t, offsets, colours[:, channel]) for channel in range(4)], 2)


def picture(scene: Scene, height: int, width: int) -> Array:
    """A scene of one member, [height, width, channels], alpha-over in painting order."""
    paints = [np.array([*colour, 1.0]) for colour in scene.colours[0].detach().double().numpy()]
    if scene.gradients is not None:
        for g, path in enumerate(scene.gradients.paths.tolist()):
            paints[path] = _gradient(scene.gradients, g, height, width)
    opacity = scene.opacity[0].detach().double().numpy()
    ground = [0.0] * 4 if scene.background is None else [*scene.background.tolist(), 1.0]
    image = np.broadcast_to(np.array(ground), (height, width, 4))
    for share, paint, alpha in zip(shares(scene, height, width), paints, opacity, strict=True):
        over = share[:, :, None] * alpha * paint[..., 3:]
        image = (1 - over) * image + over * np.concatenate([paint[..., :3], np.ones_like(paint[..., 3:])], -1)
    return image if scene.background is None else image[:, :, :3]
