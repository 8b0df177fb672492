"""The CPU backend: compiled kernels on all cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidance.canvas.raster import kernels
from guidance.canvas.raster.paints import gradient_colours
from guidance.canvas.raster.polylines import Outline, Polylines, cut, polylines
from guidance.canvas.raster.scene import Scene, ranks


def rasterize(scene: Scene, height: int, width: int) -> Float[Tensor, "b channels h w"]:
    """The picture, with an alpha channel if the scene has no background; see `guidance.rasterize`.

    The same bit for bit every time for one number of threads.
    """
    outline = cut(scene, width)
    lines = polylines(scene, outline, _Flatten.apply(outline.control, outline))
    fragments = _cover(lines, len(scene.opacity), height, width)
    colours = torch.cat([scene.colours, scene.opacity[:, :, None]], 2).flatten(0, 1)
    shades = _shades(scene, fragments, height, width)
    if shades is not None:
        colours = torch.cat([colours, shades])
    image: Tensor = _Paint.apply(lines.vertices, colours, scene.background, fragments, (height, width))
    return image


T = TypeVar("T")


class _Flatten(torch.autograd.Function):
    """`guidance.canvas.raster.polylines.flatten`, compiled."""

    @staticmethod
    def forward(ctx: Any, control: Tensor, outline: Outline) -> Tensor:
        vertices = torch.empty(int(outline.ends[-1]), 3)
        ctx.rest = [outline.corners.numpy(), *(part.int().numpy() for part in outline[2:])]
        corners, segments, counts, ends = ctx.rest
        kernels.flatten(control.detach().numpy(), corners, segments, ends, counts, vertices.numpy())
        ctx.rows = len(control)
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        corners, segments, counts, ends = ctx.rest
        to_control = torch.zeros(ctx.rows, 3)
        kernels.unflatten(
            gradient.contiguous().numpy(), corners, segments, ends, counts, to_control.numpy()
        )
        return to_control, None


class _Share(NamedTuple):
    """What one thread draws: its runs of fragments, and the row of the paints for each."""

    runs: np.ndarray
    pixel: np.ndarray
    share: np.ndarray
    piece: np.ndarray
    shape: np.ndarray
    rows: np.ndarray
    strides: np.ndarray


class _Fragments(NamedTuple):
    """The pixels that paths cover, for every thread, and the polylines as the kernels take them."""

    shares: list[_Share]
    ends: np.ndarray
    owners: np.ndarray
    kinds: np.ndarray
    members: int


def _cover(lines: Polylines, members: int, height: int, width: int) -> _Fragments:
    vertices = lines.vertices.detach().contiguous().numpy()
    ends, owners, kinds = (part.int().numpy() for part in (lines.ends, lines.owners, lines.kinds))
    closed = lines.closed.numpy()
    frames = np.empty((len(vertices), 8), np.float32)
    tips = np.zeros(len(vertices), np.int32)
    boxes = np.empty((len(kinds), 3), np.int32)
    kernels.survey(vertices, ends, owners, kinds, height, boxes)
    _on_all_cores(
        lambda i, n: kernels.frame(
            vertices, ends, len(closed) * i // n, len(closed) * (i + 1) // n, closed, frames, tips
        )
    )

    def cover(i: int, n: int) -> _Share:
        runs, buffers = kernels.cover(
            vertices, frames, tips, ends, owners, kinds, boxes, members, height, width, i, n, 1 << 16
        )
        return _Share(runs, *buffers, runs[:, 0].copy(), np.zeros(len(runs), np.int32))

    return _Fragments(_on_all_cores(cover), ends, owners, kinds, members)


def _shades(
    scene: Scene, fragments: _Fragments, height: int, width: int
) -> Float[Tensor, "fragments 4"] | None:
    """The colours of the fragments of paths with gradients; points their runs to them."""
    gradients = scene.gradients
    if gradients is None:
        return None
    which = np.full(scene.opacity.numel(), -1)
    which[gradients.paths.numpy()] = np.arange(len(gradients.paths))
    pixels, numbers = [], []
    row = scene.opacity.numel()
    for part in fragments.shares:
        for run in np.flatnonzero(which[part.runs[:, 0]] >= 0):
            path, begin, end, _ = part.runs[run]
            part.rows[run], part.strides[run] = row, 1
            row += end - begin
            pixels.append(part.pixel[begin:end])
            numbers.append(np.full(end - begin, which[path]))
    if not pixels:
        return None
    pixel = torch.from_numpy(np.concatenate(pixels)).long() % (height * width)
    number = torch.from_numpy(np.concatenate(numbers))
    points = torch.stack([pixel % width, pixel.div(width, rounding_mode="floor")], 1)
    colours = gradient_colours(gradients, number, (points + 0.5) / width)
    opacity = scene.opacity.flatten()[gradients.paths[number]]
    return torch.cat([colours[:, :3], colours[:, 3:] * opacity[:, None]], 1)


class _Paint(torch.autograd.Function):
    """From the shares of the pixels to the picture; backward down to the vertices."""

    @staticmethod
    def forward(
        ctx: Any,
        vertices: Tensor,
        paints: Tensor,
        background: Tensor | None,
        fragments: _Fragments,
        size: tuple[int, int],
    ) -> Tensor:
        height, width = size
        ground = torch.zeros(4) if background is None else torch.cat([background, torch.ones(1)])
        image = ground.repeat(fragments.members * height * width, 1)
        colours, pixels = paints.detach().contiguous(), image.numpy()

        def paint(i: int, n: int) -> None:
            part = fragments.shares[i]
            kernels.paint(
                part.runs, part.pixel, part.share, colours.numpy(), part.rows, part.strides, pixels
            )

        _on_all_cores(paint)
        ctx.save_for_backward(vertices, colours, ground)
        ctx.fragments, ctx.size, ctx.channels = fragments, size, 4 if background is None else 3
        return image.view(-1, height, width, 4)[:, :, :, : ctx.channels].permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        vertices, colours, ground = ctx.saved_tensors
        fragments: _Fragments = ctx.fragments
        height, width = ctx.size
        upward = torch.zeros(gradient.shape[0], height, width, 4)
        upward[:, :, :, : ctx.channels] = gradient.permute(0, 2, 3, 1)
        upward = upward.view(-1, 4)
        under = upward @ ground
        seen = torch.ones_like(under)

        def unpaint(i: int, n: int) -> tuple[np.ndarray, np.ndarray]:
            part = fragments.shares[i]
            to_share = np.empty(len(part.share), np.float32)
            to_paints = np.zeros(colours.shape, np.float32)
            to_vertices = np.zeros(vertices.shape, np.float32)
            kernels.unpaint(
                part.runs,
                part.pixel,
                part.share,
                colours.numpy(),
                part.rows,
                part.strides,
                upward.numpy(),
                under.numpy(),
                seen.numpy(),
                to_share,
                to_paints,
            )
            kernels.uncover(
                vertices.detach().numpy(),
                fragments.ends,
                fragments.owners,
                fragments.kinds,
                fragments.members,
                height,
                width,
                part.runs,
                part.pixel,
                part.piece,
                part.shape,
                to_share,
                to_vertices,
            )
            return to_paints, to_vertices

        totals = _on_all_cores(unpaint)
        to_paints = torch.from_numpy(sum(t[0] for t in totals))
        to_vertices = torch.from_numpy(sum(t[1] for t in totals))
        to_ground = seen @ upward[:, :3] if ctx.channels == 3 else None
        return to_vertices, to_paints, to_ground, None, None


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="rasterize")


def _on_all_cores(run: Callable[[int, int], T]) -> list[T]:
    """The results of run(i, n) for all i below n, one a thread of torch's, in order."""
    n = torch.get_num_threads()
    if n == 1:
        return [run(0, 1)]
    others = [_pool(n - 1).submit(run, i, n) for i in range(1, n)]
    return [run(0, n), *(other.result() for other in others)]
