"""The CPU backend: compiled kernels on all cores."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidance.canvas.raster import kernels
from guidance.canvas.raster.kernels.compiled import LAST, LAST_SPAN, PATH
from guidance.canvas.raster.paints import gradient_colours
from guidance.canvas.raster.polylines import Outline, Polylines, cut, polylines
from guidance.canvas.raster.scene import Scene

Array = NDArray[Any]
T = TypeVar("T")


def rasterize(scene: Scene, height: int, width: int) -> Float[Tensor, "b channels h w"]:
    """The picture, with an alpha channel if the scene has no background; see `guidance.rasterize`.

    The same bit for bit every time for one number of threads.
    """
    outline = cut(scene, height, width, _pieces)
    lines = polylines(scene, outline, _Flatten.apply(outline.control, outline))
    cover = _cover(lines, len(scene.opacity), height, width)
    paints = torch.cat([scene.colours, scene.opacity[:, :, None]], 2).flatten(0, 1)
    if scene.gradients is not None:
        paints = torch.cat([paints, *_shades(scene, cover.shares, width)])
    image: Tensor = _Paint.apply(lines.vertices, paints, scene.background, cover, (height, width))
    return image


def _pieces(control: Tensor, corners: Tensor) -> Tensor:
    counts = torch.empty(len(corners), dtype=torch.long)
    kernels.pieces(control.numpy(), corners.numpy(), counts.numpy())
    return counts


class _Flatten(torch.autograd.Function):
    """`guidance.canvas.raster.polylines.flatten`, compiled."""

    @staticmethod
    def forward(ctx: Any, control: Tensor, outline: Outline) -> Tensor:
        vertices = torch.empty(int(outline.ends[-1]), 3, dtype=torch.float32)
        corners, segments, counts, ends = (
            part.int().numpy() for part in (outline.corners, outline.segments, outline.counts, outline.ends)
        )
        ctx.rest = corners, segments, ends, counts
        kernels.flatten(control.detach().numpy(), *ctx.rest, vertices.numpy())
        ctx.shape = control.shape
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_control = torch.zeros(ctx.shape, dtype=torch.float32)
        kernels.unflatten(gradient.contiguous().numpy(), *ctx.rest, to_control.numpy())
        return to_control, None


#: Buffers that are free: memory fresh from the system costs more than all that is written to it.
_spare: list[tuple[tuple[Array, ...], Array]] = []

#: Fragments. Larger buffers, of 60 MB and more, go back to the system.
_MOST_SPARE = 1 << 21


class _Share:
    """What one thread draws: runs of fragments and spans, and the row of the paints for each."""

    def __init__(self, cover: Callable[[tuple[Array, ...], Array], tuple[Array, tuple[Array, ...], Array]]):
        room = 1 << 14
        try:
            # One step, without a lock: in a process that is forked while a thread holds one, it stays held.
            buffers, spans = _spare.pop()
        except IndexError:
            buffers = (
                np.empty(room, np.int32),
                np.empty(room, np.float32),
                np.empty(room, np.int32),
                np.empty((4, room), np.float32),
            )
            spans = np.empty((room, 2), np.int32)
        self.buffers, self.spans = buffers, spans
        self.runs, self.buffers, self.spans = cover(buffers, spans)
        self.rows = self.runs[:, PATH].copy()
        self.strides = np.zeros_like(self.rows)

    def __del__(self) -> None:
        if not hasattr(self, "spans"):
            return  # there was no memory for them
        few = len(_spare) < 2 * torch.get_num_threads()
        if few and len(self.buffers[0]) <= _MOST_SPARE:
            _spare.append((self.buffers, self.spans))


class _Cover(NamedTuple):
    """The pixels that paths cover, for every thread, and the polylines as the kernels take them."""

    shares: list[_Share]
    vertices: Array
    ends: Array
    owners: Array
    kinds: Array
    members: int


def _cover(lines: Polylines, members: int, height: int, width: int) -> _Cover:
    vertices = lines.vertices.detach().contiguous().numpy()
    ends, owners, kinds = (part.int().numpy() for part in (lines.ends, lines.owners, lines.kinds))
    closed = lines.closed.contiguous().numpy()  # else Numba compiles once more for strides
    frames = np.empty((len(vertices), kernels.COLUMNS), np.float32)
    boxes = np.empty((len(kinds), 3), np.int32)
    kernels.survey(vertices, ends, owners, kinds, height, boxes)
    contours = len(closed)
    _on_all_cores(
        lambda i, n: kernels.frame(vertices, ends, contours * i // n, contours * (i + 1) // n, closed, frames)
    )
    geometry = vertices, frames, ends, owners, kinds, boxes, members, height, width

    def cover(i: int, n: int) -> _Share:
        return _Share(lambda buffers, spans: kernels.cover(*geometry, i, n, buffers, spans))

    return _Cover(_on_all_cores(cover), vertices, ends, owners, kinds, members)


def _shades(scene: Scene, shares: list[_Share], width: int) -> list[Float[Tensor, "f 4"]]:
    """The colours of the pixels of paths with gradients; points their runs to them."""
    gradients = scene.gradients
    assert gradients is not None
    which = np.full(scene.opacity.numel(), -1)
    which[gradients.paths.numpy()] = np.arange(len(gradients.paths))
    pixels, numbers = [], []
    row = scene.opacity.numel()
    for part in shares:
        for run in np.flatnonzero(which[part.runs[:, PATH]] >= 0):
            _, first, last, first_span, last_span, _ = part.runs[run]
            inside = [np.arange(*span) for span in part.spans[first_span:last_span]]
            here = np.concatenate([part.buffers[0][first:last], *inside])
            part.rows[run], part.strides[run] = row, 1
            row += len(here)
            pixels.append(here)
            numbers.append(np.full(len(here), which[part.runs[run, PATH]]))
    if not pixels:
        return []
    pixel = torch.from_numpy(np.concatenate(pixels)).long()
    number = torch.from_numpy(np.concatenate(numbers))
    points = torch.stack([pixel % width, pixel.div(width, rounding_mode="floor")], 1)
    colours = gradient_colours(gradients, number, (points.float() + 0.5) / width)
    opacity = scene.opacity.flatten()[gradients.paths[number]]
    return [torch.cat([colours[:, :3], colours[:, 3:] * opacity[:, None]], 1)]


class _Paint(torch.autograd.Function):
    """From what paths cover to the picture; backward down to the vertices."""

    @staticmethod
    def forward(
        ctx: Any,
        vertices: Tensor,
        paints: Tensor,
        background: Tensor | None,
        cover: _Cover,
        size: tuple[int, int],
    ) -> Tensor:
        height, width = size
        ground = np.zeros(4, np.float32)
        if background is not None:
            ground[:3], ground[3] = background.detach().numpy(), 1
        channels = 4 if background is None else 3
        image = torch.empty(cover.members, channels, height, width, dtype=torch.float32)
        pixels, colours = image.numpy(), paints.detach().contiguous().numpy()

        def paint(i: int, n: int) -> None:
            part = cover.shares[i]
            pixel, share, _, _ = part.buffers
            tables = part.spans, colours, part.rows, part.strides
            kernels.paint(part.runs, pixel, share, *tables, ground, height, width, i, n, pixels)

        _on_all_cores(paint, len(cover.shares))
        ctx.rest = colours, ground, cover
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        colours, ground, cover = ctx.rest
        upward = gradient.contiguous().numpy()
        height, width = upward.shape[2:]

        def back(i: int, n: int) -> tuple[Array, Array, Array]:
            part = cover.shares[i]
            pixel, share, _, _ = part.buffers
            runs = part.runs
            to_share = np.empty(runs[-1, LAST] if len(runs) else 0, np.float32)
            spans = part.spans[: runs[-1, LAST_SPAN] if len(runs) else 0]
            to_span = np.empty((spans[:, 1] - spans[:, 0]).sum(), np.float32)
            to_paints, to_ground = np.zeros(colours.shape, np.float32), np.zeros(4)
            to_vertices = np.zeros(cover.vertices.shape, np.float32)
            tables = part.spans, colours, part.rows, part.strides
            results = to_share, to_span, to_paints, to_ground
            kernels.unpaint(runs, pixel, share, *tables, ground, upward, i, n, *results)
            geometry = cover.vertices, cover.ends, cover.owners, cover.kinds, cover.members
            kernels.uncover(*geometry, height, width, runs, part.buffers, to_share, to_vertices)
            return to_vertices, to_paints, to_ground

        parts = zip(*_on_all_cores(back, len(cover.shares)), strict=True)
        to_vertices, to_paints, to_ground = (torch.from_numpy(sum(part)) for part in parts)
        wanted = ctx.needs_input_grad[2]
        return to_vertices, to_paints, to_ground[:3].float() if wanted else None, None, None


@cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """A pool of its own for every process: one that is forked inherits a pool, but not the threads."""
    return ThreadPoolExecutor(workers, thread_name_prefix="rasterize")


def _on_all_cores(run: Callable[[int, int], T], n: int | None = None) -> list[T]:
    """The results of run(i, n) for all i below n, in order, one a thread; by default as many as torch has."""
    n = torch.get_num_threads() if n is None else n
    if n == 1:
        return [run(0, 1)]
    others = [_pool(os.getpid(), n - 1).submit(run, i, n) for i in range(1, n)]
    return [run(0, n), *(other.result() for other in others)]
