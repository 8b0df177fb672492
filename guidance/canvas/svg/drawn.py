"""The paths that a reader has found, on their way to being a scene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guidance.canvas.raster.scene import Gradients, Scene
from guidance.canvas.svg.geometry import Array, bounds, segments
from guidance.canvas.svg.gradients import Gradient
from guidance.canvas.svg.values import RGBA


@dataclass
class Drawn:
    """A path of the scene to be, in units of the canvas's width."""

    points: list[Array]
    closed: list[bool]
    filled: bool
    even_odd: bool
    width: float
    paint: RGBA | Gradient
    opacity: float

    def box(self) -> Array:
        """The box around the path and its stroke: left, top, right, bottom."""
        curves = [segments(*contour) for contour in zip(self.points, self.closed, strict=True)]
        margin = self.width / 2
        return np.array(bounds(np.concatenate(curves))) + margin * np.array([-1, -1, 1, 1])


def overlap(drawn: Sequence[Drawn]) -> bool:
    """Whether the boxes around two of the paths meet; of very many, some are taken to."""
    if len(drawn) > 256:
        return True
    boxes = np.stack([path.box() for path in drawn])
    low, high = boxes[:, None, :2], boxes[None, :, 2:]
    meet = (low < high).all(-1)
    return bool((meet & meet.T & ~np.eye(len(boxes), dtype=bool)).any())


def ground(drawn: Drawn, height: float) -> RGBA | None:
    """The colour of a path that is an opaque rectangle over the whole canvas; None if it is not."""
    if not drawn.filled or isinstance(drawn.paint, Gradient) or drawn.opacity < 1:
        return None
    if [len(points) for points in drawn.points] != [12]:
        return None
    corners = drawn.points[0][::3]
    low, high = corners.min(0), corners.max(0)
    at_low = np.isclose(drawn.points[0], low, atol=1e-6)
    at_high = np.isclose(drawn.points[0], high, atol=1e-6)
    ends = {tuple(row) for row in at_high[::3].tolist()}
    square = len(ends) == 4 and bool((at_low | at_high).any(1).all())
    covers = (low <= 1e-6).all() and (high >= np.array([1, height]) - 1e-6).all()
    return drawn.paint if square and covers else None


def to_scene(drawn: Sequence[Drawn], background: RGBA | None) -> Scene:
    """A population of one."""
    colours = [(0.0,) * 3 if isinstance(path.paint, Gradient) else path.paint[:3] for path in drawn]
    points = [torch.from_numpy(points) for path in drawn for points in path.points]
    closed = torch.tensor([closed for path in drawn for closed in path.closed])
    sizes = torch.tensor([len(p) for p in points])
    return Scene(
        points=torch.cat(points).float(),
        segments=(sizes - 1 + closed.long()) // 3,
        widths=torch.tensor([[path.width for path in drawn]]),
        colours=torch.tensor([colours]),
        opacity=torch.tensor([[path.opacity for path in drawn]]),
        background=None
        if background is None or isinstance(background, Gradient)
        else torch.tensor(background[:3]),
        contours=torch.tensor([[len(path.points) for path in drawn]]),
        closed=closed,
        filled=torch.tensor([[path.filled for path in drawn]]),
        even_odd=torch.tensor([[path.even_odd for path in drawn]]),
        gradients=_gradients([(i, path.paint) for i, path in enumerate(drawn)]),
    )


def _gradients(paints: Sequence[tuple[int, RGBA | Gradient]]) -> Gradients | None:
    found = [(i, paint) for i, paint in paints if isinstance(paint, Gradient)]
    if not found:
        return None
    most = max(len(gradient.offsets) for _, gradient in found)

    def padded(stops: list) -> list:
        return stops + stops[-1:] * (most - len(stops))

    return Gradients(
        paths=torch.tensor([i for i, _ in found]),
        radial=torch.tensor([gradient.radial for _, gradient in found]),
        transforms=torch.from_numpy(np.stack([gradient.matrix for _, gradient in found])).float(),
        offsets=torch.tensor([padded(gradient.offsets) for _, gradient in found]),
        colours=torch.tensor([padded(gradient.colours) for _, gradient in found]),
    )
