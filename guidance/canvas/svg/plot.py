"""A scene as an SVG for pen plotters: in millimetres, a layer for each pen, and short ways for it."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from guidance.canvas.paths import chosen
from guidance.canvas.raster.scene import Scene
from guidance.canvas.svg.write import Array, to_svg


def plot_svg(scene: Scene, size: tuple[float, float]) -> str:
    """A scene, of a population of one, as an SVG of (height, width) in millimetres that plotters like.

    A layer in Inkscape's form, called "1 #c02020" and so on, holds paths of one colour; the programs of
    plotters draw one layer after the other. In a layer the pen goes from each path to the nearest one left,
    and through open strokes from their nearer end. Strokes stay strokes, as wide as drawn. There is no
    background: that is the paper.

    The picture is the same: a path changes places only with those of its colour, for which order does not
    matter, and with those that it cannot touch.
    """
    colours = [_colour(scene, path) for path in range(scene.opacity.shape[1])]
    starts, ends, closed = _ends(scene)
    order: list[int] = []
    turned: list[bool] = []
    layers: list[tuple[str, int]] = []
    pen = np.zeros(2)
    for members in _layers(scene, colours):
        left = np.array(members)
        layers.append((f"{len(layers) + 1} {colours[left[0]]}", len(left)))
        while len(left):
            to_start = np.hypot(*(starts[left] - pen).T)
            to_end = np.where(closed[left], np.inf, np.hypot(*(ends[left] - pen).T))
            nearest = int(np.minimum(to_start, to_end).argmin())
            path, back = int(left[nearest]), bool(to_end[nearest] < to_start[nearest])
            order.append(path)
            turned.append(back)
            pen = starts[path] if back else ends[path]
            left = np.delete(left, nearest)
    ordered = replace(_turn(chosen(scene, order), turned), background=None)
    return to_svg(ordered, size, unit="mm", layers=layers)


def _colour(scene: Scene, path: int) -> str:
    if scene.gradients is not None and path in scene.gradients.paths:
        return f"gradient {path}"
    return f"#{bytes((255 * scene.colours[0, path]).round().clamp(0, 255).byte().tolist()).hex()}"


def _layers(scene: Scene, colours: list[str]) -> list[list[int]]:
    """The paths, in as few groups of a colour as the greedy way finds that paint the same picture."""
    boxes = _boxes(scene)
    kinds = np.unique(colours, return_inverse=True)[1]
    layers: list[list[int]] = []
    layer_of = np.zeros(len(colours), dtype=int)
    for i, kind in enumerate(kinds):
        below = (boxes[:i, :2] < boxes[i, 2:]).all(1) & (boxes[:i, 2:] > boxes[i, :2]).all(1)
        first = int((layer_of[:i] + (kinds[:i] != kind))[below].max(initial=0))
        fitting = (k for k in range(first, len(layers)) if kinds[layers[k][0]] == kind)
        layer_of[i] = next(fitting, len(layers))
        if layer_of[i] == len(layers):
            layers.append([])
        layers[layer_of[i]].append(i)
    return layers


def _boxes(scene: Scene) -> Array:
    """Around the control points of every path and its stroke: left, top, right, bottom; [n, 4]."""
    owners = scene.owners.repeat_interleave(scene.sizes)
    radii = scene.widths if scene.widths.ndim == 1 else scene.widths[0, owners]
    low, high = scene.points - radii[:, None] / 2, scene.points + radii[:, None] / 2
    index = owners[:, None].expand(-1, 2)
    shape = torch.zeros(scene.opacity.shape[1], 2)
    lows = shape.scatter_reduce(0, index, low, "amin", include_self=False)
    highs = shape.scatter_reduce(0, index, high, "amax", include_self=False)
    return torch.cat([lows, highs], 1).double().numpy()


def _ends(scene: Scene) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Where the pen touches down and is lifted on every path, [n, 2] each, and if that is so either way.

    Paths of several contours and closed ones are run through in their own direction.
    """
    counts = (
        torch.ones_like(scene.opacity[0], dtype=torch.long) if scene.contours is None else scene.contours[0]
    )
    last_contour = counts.cumsum(0) - 1
    first_contour = last_contour - counts + 1
    last_row = scene.sizes.cumsum(0) - 1
    first_row = last_row - scene.sizes + 1
    loops = torch.zeros_like(last_row, dtype=torch.bool) if scene.closed is None else scene.closed
    loops = loops if scene.filled is None else loops | scene.filled[0, scene.owners]
    starts = scene.points[first_row[first_contour]]
    ends = scene.points[torch.where(loops, first_row, last_row)[last_contour]]
    one_way = loops[last_contour] | (counts > 1)
    return starts.double().numpy(), ends.double().numpy(), one_way.numpy()


def _turn(scene: Scene, paths: list[bool]) -> Scene:
    """The scene with some paths, each of one contour, run through backwards."""
    owners = scene.owners.repeat_interleave(scene.sizes)
    ends = scene.sizes.cumsum(0)
    contour = torch.arange(len(scene.sizes)).repeat_interleave(scene.sizes)
    rows = torch.arange(len(owners))
    mirrored = (2 * ends - scene.sizes - 1)[contour] - rows
    rows = torch.where(torch.tensor(paths)[owners], mirrored, rows)
    widths = scene.widths[rows] if scene.widths.ndim == 1 else scene.widths
    return replace(scene, points=scene.points[rows], widths=widths)
