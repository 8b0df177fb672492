"""The CUDA backend: kernels in Triton, which compiles them for the device when they are first run.

See `guidance.canvas.raster.triton_kernels` for the terms. A population is drawn by the same launches as a
single scene. The host waits for the device only to learn sizes: of the polylines, and then how many strips
and entries, how many cells, and how many items there are. Memory grows with the tiles that paths cover.
"""

from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidance.canvas.raster import triton_kernels as kernels
from guidance.canvas.raster.paints import gradient_colours
from guidance.canvas.raster.polylines import Outline, Polylines, cut, polylines
from guidance.canvas.raster.scene import Gradients, Scene, ranks

TILE = int(kernels.TILE)
PIXELS = TILE * TILE


def rasterize(scene: Scene, height: int, width: int) -> Float[Tensor, "b channels h w"]:
    """The picture, with an alpha channel if the scene has no background; see `guidance.rasterize`.

    The picture is the same bit for bit every time. So are its gradients, as far as the kernels of this
    package go; PyTorch's own between the polylines and the scene may add in another order.
    """
    with torch.cuda.device_of(scene.points):
        outline = cut(scene, height, width)
        lines = polylines(scene, outline, _Flatten.apply(outline.control, outline))
        cover = _cover(lines, scene.owners, len(scene.opacity), height, width)
        paints = torch.cat([scene.colours, scene.opacity[:, :, None]], 2).flatten(0, 1)
        rows = cover.item_paths
        if scene.gradients is not None:
            shades, rows = _shades(scene.gradients, scene.opacity, cover, width)
            paints = torch.cat([paints, shades])
        image: Tensor = _Paint.apply(lines.vertices, paints, scene.background, cover, rows)
        return image


def _launch(kernel: Any, programs: int, *arguments: Tensor | int, warps: int = 4) -> None:
    if programs:
        # Triton 3.9 warns whoever does not say whether a·b + c may be rounded once.
        kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=True)


class _Flatten(torch.autograd.Function):
    """`guidance.canvas.raster.polylines.flatten` in one launch."""

    @staticmethod
    def forward(ctx: Any, control: Tensor, outline: Outline) -> Tensor:
        corners, counts = outline.corners, outline.counts
        cubics, bases = len(counts), _starts(counts)
        contours = torch.repeat_interleave(outline.segments, output_size=cubics)
        vertices = control.new_empty(int(outline.ends[-1]), 3)
        points = control.detach().contiguous()
        _launch(kernels.flatten, cubics, points, corners, counts, bases, contours, vertices, warps=1)
        ctx.rest = corners, counts, bases, contours, control.shape
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        corners, counts, bases, contours, shape = ctx.rest
        cubics, gradient = len(counts), gradient.contiguous()
        to_corners = gradient.new_empty(cubics * 4, 3)
        with torch.cuda.device_of(gradient):
            _launch(kernels.unflatten, cubics, counts, bases, contours, cubics, gradient, to_corners, warps=1)
        # At most two cubics share a point, and of two numbers either may be the first in a sum.
        return gradient.new_zeros(shape).index_add_(0, corners.flatten(), to_corners), None


class _Cover(NamedTuple):
    """The items and what they cover of their pixels, and the tables that say where it came from."""

    size: tuple[int, int]
    grid: tuple[int, int]  # rows and columns of tiles
    members: int
    kinds: Int[Tensor, "paths"]
    contours: Int[Tensor, "m"]  # of the vertices
    ends: Int[Tensor, "c+1"]
    pieces: Float[Tensor, "m 8"]
    tips: Int[Tensor, "m"]
    strip_base: Int[Tensor, "paths+1"]  # the first strip of every path, and how many there are
    strip_paths: Int[Tensor, "strips"]
    strip_rows: Int[Tensor, "strips"]
    lefts: Int[Tensor, "strips"]
    rights: Int[Tensor, "strips"]
    entry_base: Int[Tensor, "m+1"]  # the first entry of every piece, and how many there are
    entries: Int[Tensor, "entries 3"]  # piece, first and last column
    entry_strips: Int[Tensor, "entries"]
    cell_base: Int[Tensor, "strips+1"]  # the first cell of every strip, and how many there are
    items: Int[Tensor, "cells"]  # of the cells
    order: Int[Tensor, "cells"]  # the cells of the items, and then the cells that are none
    tiles: Int[Tensor, "cells"]  # of the cells in this order
    tile_base: Int[Tensor, "tiles+1"]  # the first item of every tile, and how many there are
    item_paths: Int[Tensor, "items"]
    shares: Float[Tensor, "items pixels"]
    marks: Int[Tensor, "items pixels"]


def _cover(lines: Polylines, owners: Int[Tensor, "c"], members: int, height: int, width: int) -> _Cover:
    vertices, kinds = lines.vertices.detach().contiguous(), lines.kinds
    m, paths = len(vertices), len(kinds)
    rows, columns = triton.cdiv(height, TILE), triton.cdiv(width, TILE)
    tiles_in_all = members * rows * columns

    def whole(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=vertices.device)

    contours = torch.repeat_interleave(lines.ends.diff(), output_size=m)
    pieces, tips = vertices.new_empty(m, 8), whole(m)
    firsts, counts = whole(m), whole(m)
    tops, bottoms = whole(paths).fill_(rows), whole(paths).fill_(-1)
    _launch(
        kernels.survey, triton.cdiv(m, int(kernels.LANES)),
        vertices, contours, lines.ends, lines.closed, owners, kinds, rows, m,
        pieces, tips, firsts, counts, tops, bottoms,
    )  # fmt: skip

    strip_base, entry_base = _starts((bottoms - tops + 1).clamp_(min=0)), _starts(counts)
    n_strips, n_entries = torch.stack([strip_base[-1], entry_base[-1]]).tolist()
    entry_strips, entries = whole(n_entries), whole(n_entries, 3)
    lefts, rights = whole(n_strips).fill_(columns), whole(n_strips).fill_(-1)
    strip_paths, strip_rows = whole(n_strips), whole(n_strips)
    _launch(
        kernels.list_entries, triton.cdiv(m, int(kernels.LANES)),
        pieces, contours, owners, kinds, firsts, tops, strip_base, entry_base, columns, m,
        entry_strips, entries, lefts, rights, strip_paths, strip_rows,
    )  # fmt: skip
    by_strip, entry_order = entry_strips.sort(stable=True)
    listed, list_base = entries[entry_order], _bounds(by_strip, n_strips)

    cell_base = _starts((rights - lefts + 1).clamp_(min=0))
    n_cells = int(cell_base[-1])
    cell_tiles, states, cell_strips = whole(n_cells), whole(n_cells), whole(n_cells)
    _launch(
        kernels.classify, n_strips,
        pieces, kinds, listed, list_base, strip_paths, strip_rows, lefts, cell_base,
        paths // members, rows, columns, tiles_in_all, cell_tiles, states, cell_strips,
        warps=1,
    )  # fmt: skip
    tiles, order = cell_tiles.sort(stable=True)
    tile_base = _bounds(tiles, tiles_in_all)

    n_items = int(tile_base[-1])
    shares, marks = vertices.new_empty(n_items, PIXELS), whole(n_items, PIXELS)
    items, item_paths = whole(n_cells), whole(n_items)
    _launch(
        kernels.cover, n_items,
        pieces, tips, kinds, listed, list_base, strip_paths, states, cell_strips, order, tiles, rows, columns,
        shares, marks, items, item_paths,
        warps=2,
    )  # fmt: skip
    return _Cover(
        (height, width), (rows, columns), members, kinds, contours, lines.ends, pieces, tips,
        strip_base, strip_paths, strip_rows, lefts, rights, entry_base, entries, entry_strips, cell_base,
        items, order, tiles, tile_base, item_paths, shares, marks,
    )  # fmt: skip


def _starts(counts: Int[Tensor, "g"]) -> Int[Tensor, "g+1"]:
    """The number of the first thing of every group, and how many there are."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32, device=counts.device)
    torch.cumsum(counts, 0, dtype=torch.int32, out=starts[1:])
    return starts


def _bounds(groups: Int[Tensor, "i"], n: int) -> Int[Tensor, "{n}+1"]:
    """Where each of n groups begins in a sorted list of groups, and where the last one ends."""
    numbers = torch.arange(n + 1, dtype=groups.dtype, device=groups.device)
    return torch.searchsorted(groups, numbers, out_int32=True)


def _shades(
    gradients: Gradients, opacity: Float[Tensor, "b n"], cover: _Cover, width: int
) -> tuple[Float[Tensor, "f 4"], Int[Tensor, "items"]]:
    """The colours of the pixels of items with gradients; and the rows of the paints for all items."""
    paths, (rows, columns) = opacity.numel(), cover.grid
    which = torch.full((paths,), -1, device=opacity.device)
    which[gradients.paths] = torch.arange(len(gradients.paths), device=which.device)
    which = which[cover.item_paths]
    shaded = (which >= 0).nonzero()[:, 0]
    paint_rows = cover.item_paths.clone()
    paint_rows[shaded] = paths + PIXELS * torch.arange(len(shaded), dtype=torch.int32, device=which.device)
    item, p = ranks(torch.full_like(shaded, PIXELS))
    item = shaded[item]
    x, y = cover.tiles[item] % columns, cover.tiles[item].div(columns, rounding_mode="floor") % rows
    points = torch.stack([x * TILE + p % TILE, y * TILE + p.div(TILE, rounding_mode="floor")], 1)
    colours = gradient_colours(gradients, which[item], (points.float() + 0.5) / width)
    alpha = colours[:, 3:] * opacity.flatten()[cover.item_paths[item], None]
    return torch.cat([colours[:, :3], alpha], 1), paint_rows


class _Paint(torch.autograd.Function):
    """From what paths cover to the picture; backward down to the vertices."""

    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, paints: Tensor, background: Tensor | None, cover: _Cover, rows: Tensor
    ) -> Tensor:
        ground = vertices.new_zeros(4)
        if background is not None:
            ground[:3], ground[3] = background.detach(), 1
        channels = 4 if background is None else 3
        paints = paints.detach().contiguous()
        image = vertices.new_empty(cover.members, channels, *cover.size)
        _launch(
            kernels.paint, len(cover.tile_base) - 1,
            cover.tile_base, rows, cover.shares, paints, len(cover.kinds), ground, *cover.grid, *cover.size,
            channels, image,
        )  # fmt: skip
        ctx.rest = paints, ground, cover, rows
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        paints, ground, cover, rows = ctx.rest
        paths, tiles = len(cover.kinds), len(cover.tile_base) - 1
        to_shares, to_paints = torch.empty_like(cover.shares), torch.empty_like(paints)
        to_cells, to_ground = paints.new_zeros(len(cover.items), 4), paints.new_empty(tiles, 3)
        with torch.cuda.device_of(gradient):
            _launch(
                kernels.unpaint, tiles,
                cover.tile_base, cover.order, rows, cover.shares, paints, paths, ground, *cover.grid,
                *cover.size, gradient.shape[1], gradient.contiguous(),
                to_shares, to_cells, to_paints, to_ground,
            )  # fmt: skip
            _launch(kernels.sum_paints, paths, cover.strip_base, cover.cell_base, to_cells, to_paints)
            to_vertices = _uncover(cover, to_shares) if ctx.needs_input_grad[0] else None
        wanted = ctx.needs_input_grad[2]
        return to_vertices, to_paints, to_ground.sum(0) if wanted else None, None, None


def _uncover(cover: _Cover, to_shares: Float[Tensor, "items pixels"]) -> Float[Tensor, "m 3"]:
    m, n_entries = len(cover.pieces), len(cover.entries)
    to_entries, to_vertices = to_shares.new_empty(n_entries, 6), to_shares.new_empty(m, 3)
    _launch(
        kernels.uncover, n_entries,
        cover.pieces, cover.tips, cover.kinds, cover.entry_strips, cover.entries, cover.strip_paths,
        cover.strip_rows, cover.lefts, cover.rights, cover.cell_base, cover.items, cover.marks,
        to_shares, to_entries,
        warps=2,
    )  # fmt: skip
    _launch(
        kernels.gather, triton.cdiv(m, int(kernels.LANES)),
        cover.entry_base, cover.contours, cover.ends, to_entries, m, to_vertices,
    )  # fmt: skip
    return to_vertices
