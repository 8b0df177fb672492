"""The CUDA backend: kernels in Triton, which compiles them for the device when they are first run.

Nothing is read back but how much there is of something, three times a picture: of strips and entries, of
cells, and of those that are kept (see `guidance.canvas.raster.triton_kernels` for the terms). A population is
drawn by the same launches as a single scene. Memory grows with the tiles that paths cover.
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

#: Pieces or vertices a program.
_BLOCK = 128


def rasterize(scene: Scene, height: int, width: int) -> Float[Tensor, "b channels h w"]:
    """The picture, with an alpha channel if the scene has no background; see `guidance.rasterize`.

    The same bit for bit every time on one kind of device, and so are the gradients of the polylines.
    """
    with torch.cuda.device_of(scene.points):
        outline = cut(scene, width)
        lines = polylines(scene, outline, _Flatten.apply(outline.control, outline))
        cover = _cover(lines, scene.owners, len(scene.opacity), height, width)
        paints = torch.cat([scene.colours, scene.opacity[:, :, None]], 2).flatten(0, 1)
        rows = cover.paths
        if scene.gradients is not None:
            shades, rows = _shades(scene.gradients, scene.opacity, cover, width)
            paints = torch.cat([paints, shades])
        image: Tensor = _Paint.apply(lines.vertices, paints, scene.background, cover, rows)
        return image


class _Flatten(torch.autograd.Function):
    """`guidance.canvas.raster.polylines.flatten` in one launch."""

    @staticmethod
    def forward(ctx: Any, control: Tensor, outline: Outline) -> Tensor:
        counts = outline.counts.int()
        bases = _starts(counts)
        contours = torch.repeat_interleave(outline.segments, output_size=len(counts))
        vertices = control.new_empty(int(outline.ends[-1]), 3)
        kernels.flatten[(len(counts),)](
            control.detach().contiguous(), outline.corners, counts, bases, contours, vertices,
            BLOCK=32, num_warps=1,
        )  # fmt: skip
        ctx.rest = outline.corners, counts, bases, contours
        ctx.shape = control.shape
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        corners, counts, bases, contours = ctx.rest
        to_corners = gradient.new_empty(len(counts) * 4, 3)
        with torch.cuda.device_of(gradient):
            kernels.unflatten[(len(counts),)](
                counts, bases, contours, len(counts), gradient.contiguous(), to_corners, BLOCK=32, num_warps=1
            )
        # At most two cubics share a point, and the sum of two numbers does not depend on which is first.
        return gradient.new_zeros(ctx.shape).index_add_(0, corners.flatten(), to_corners), None


class _Cover(NamedTuple):
    """The cells that are kept, what they cover of their pixels, and the tables of pieces that say so."""

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
    entries: Int[Tensor, "entries 3"]
    strips: Int[Tensor, "entries"]  # of the entries
    cell_base: Int[Tensor, "strips+1"]  # the first cell of every strip, and how many there are
    numbers: Int[Tensor, "cells"]  # of the cells among those that are kept, -1 if it is not
    edges: int
    order: Int[Tensor, "cells"]  # the cells by tile, the kept ones first
    tiles: Int[Tensor, "cells"]  # of the cells in this order
    tile_base: Int[Tensor, "tiles+1"]  # the first kept cell of every tile, and how many there are
    items: Int[Tensor, "kept"]  # numbers of the kept cells by tile
    paths: Int[Tensor, "kept"]  # of the kept cells by tile
    shares: Float[Tensor, "edges pixels"]
    marks: Int[Tensor, "edges pixels"]


def _cover(lines: Polylines, owners: Int[Tensor, "c"], members: int, height: int, width: int) -> _Cover:
    vertices = lines.vertices.detach().contiguous()
    device = vertices.device
    m, paths = len(vertices), len(lines.kinds)
    rows, columns = triton.cdiv(height, TILE), triton.cdiv(width, TILE)

    def whole(*shape: int, fill: int | None = None) -> Tensor:
        if fill is None:
            return torch.empty(shape, dtype=torch.int32, device=device)
        return torch.full(shape, fill, dtype=torch.int32, device=device)

    blocks = (triton.cdiv(m, _BLOCK),)
    contours = torch.repeat_interleave(lines.ends.diff(), output_size=m)
    pieces, tips = torch.empty(m, 8, device=device), whole(m)
    firsts, counts, tops, bottoms = whole(m), whole(m), whole(paths, fill=rows), whole(paths, fill=-1)
    kernels.survey[blocks](
        vertices, contours, lines.ends, lines.closed, owners, lines.kinds, rows, m,
        pieces, tips, firsts, counts, tops, bottoms, BLOCK=_BLOCK,
    )  # fmt: skip
    strip_base, entry_base = _starts((bottoms - tops + 1).clamp_(min=0)), _starts(counts)
    n_strips, n_entries = torch.stack([strip_base[-1], entry_base[-1]]).tolist()

    strips, entries = whole(n_entries), whole(n_entries, 3)
    lefts, rights = whole(n_strips, fill=columns), whole(n_strips, fill=-1)
    strip_paths, strip_rows = whole(n_strips), whole(n_strips)
    kernels.list_entries[blocks](
        pieces, contours, owners, lines.kinds, firsts, tops, strip_base, entry_base, columns, m,
        strips, entries, lefts, rights, strip_paths, strip_rows, BLOCK=_BLOCK,
    )  # fmt: skip
    by_strip, entry_order = strips.sort(stable=True)
    listed, list_base = entries[entry_order], _bounds(by_strip, n_strips)
    cell_base = _starts((rights - lefts + 1).clamp_(min=0))
    n_cells = int(cell_base[-1])

    tiles, states, cell_strips = whole(n_cells), whole(n_cells), whole(n_cells)
    n_tiles = members * rows * columns
    if n_strips:
        kernels.classify[(n_strips,)](
            pieces, lines.kinds, listed, list_base, strip_paths, strip_rows, lefts, cell_base,
            paths // members, rows, columns, n_tiles, tiles, states, cell_strips, BLOCK=32, num_warps=1,
        )  # fmt: skip
    tiles, order = tiles.sort(stable=True)
    tile_base = _bounds(tiles, n_tiles)
    edge, inside = states == 1, states == 2
    numbers = torch.where(edge, edge.cumsum(0) - 1, edge.sum() + inside.cumsum(0) - 1)
    numbers = torch.where(states == 0, -1, numbers).int()
    edges, kept = torch.stack([edge.sum(), tile_base[-1]]).tolist()

    items, item_paths = whole(kept), whole(kept)
    shares, marks = torch.empty(edges, PIXELS, device=device), whole(edges, PIXELS)
    if kept:
        kernels.cover[(kept,)](
            pieces, tips, lines.kinds, listed, list_base, strip_paths, order, tiles, cell_strips, numbers,
            edges, rows, columns, shares, marks, items, item_paths, num_warps=2,
        )  # fmt: skip
    return _Cover(
        (height, width), (rows, columns), members, lines.kinds, contours, lines.ends, pieces, tips,
        strip_base, strip_paths, strip_rows, lefts, rights, entry_base, entries, strips, cell_base,
        numbers, edges, order, tiles, tile_base, items, item_paths, shares, marks,
    )  # fmt: skip


def _starts(counts: Int[Tensor, "g"]) -> Int[Tensor, "g+1"]:
    """The number of the first item of every group, and how many there are."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32, device=counts.device)
    torch.cumsum(counts, 0, dtype=torch.int32, out=starts[1:])
    return starts


def _bounds(groups: Int[Tensor, "i"], n: int) -> Int[Tensor, "g+1"]:
    """Where each of n groups begins in a sorted list of groups, and where the last one ends."""
    numbers = torch.arange(n + 1, dtype=groups.dtype, device=groups.device)
    return torch.searchsorted(groups, numbers, out_int32=True)


def _shades(
    gradients: Gradients, opacity: Float[Tensor, "b n"], cover: _Cover, width: int
) -> tuple[Float[Tensor, "f 4"], Int[Tensor, "kept"]]:
    """The colours of the pixels of cells of paths with gradients; and the rows of the paints for all cells."""
    paths = opacity.numel()
    which = cover.kinds.new_full((paths,), -1)
    which[gradients.paths] = torch.arange(len(gradients.paths), device=which.device)
    which = which[cover.paths]
    shaded = (which >= 0).nonzero()[:, 0]
    rows = cover.paths.clone()
    rows[shaded] = paths + PIXELS * torch.arange(len(shaded), dtype=torch.int32, device=rows.device)
    cell, p = ranks(torch.full_like(shaded, PIXELS))
    tile = cover.tiles[shaded][cell]
    column, row = tile % cover.grid[1], tile.div(cover.grid[1], rounding_mode="floor") % cover.grid[0]
    points = torch.stack(
        [column * TILE + p % TILE, row * TILE + p.div(TILE, rounding_mode="floor")], 1
    )
    number = which[shaded][cell]
    colours = gradient_colours(gradients, number, (points + 0.5) / width)
    alpha = colours[:, 3:] * opacity.flatten()[gradients.paths[number]][:, None]
    return torch.cat([colours[:, :3], alpha], 1), rows


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
        height, width = cover.size
        image = vertices.new_empty(cover.members, channels, height, width)
        kernels.paint[(len(cover.tile_base) - 1,)](
            cover.tile_base, cover.items, rows, cover.shares, cover.edges, paints, len(cover.kinds), ground,
            *cover.grid, height, width, image, CHANNELS=channels,
        )  # fmt: skip
        ctx.rest = paints, ground, cover, rows
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        paints, ground, cover, rows = ctx.rest
        paths, tiles, m = len(cover.kinds), len(cover.tile_base) - 1, len(cover.pieces)
        with torch.cuda.device_of(gradient):
            to_shares = paints.new_empty(len(cover.items), PIXELS)
            to_cells, to_paints = paints.new_zeros(len(cover.numbers), 4), torch.empty_like(paints)
            to_ground = paints.new_empty(tiles, 3)
            kernels.unpaint[(tiles,)](
                cover.tile_base, cover.order, cover.items, rows, cover.shares, cover.edges, paints, paths,
                ground, *cover.grid, *cover.size, gradient.contiguous(),
                to_shares, to_cells, to_paints, to_ground, CHANNELS=gradient.shape[1],
            )  # fmt: skip
            kernels.sum_paints[(paths,)](cover.strip_base, cover.cell_base, to_cells, to_paints, BLOCK=64)
            to_entries = paints.new_empty(len(cover.entries), 6)
            if len(to_entries):
                kernels.uncover[(len(to_entries),)](
                    cover.pieces, cover.tips, cover.kinds, cover.strips, cover.entries, cover.strip_paths,
                    cover.strip_rows, cover.lefts, cover.rights, cover.cell_base, cover.numbers, cover.edges,
                    cover.marks, to_shares, to_entries, num_warps=2,
                )  # fmt: skip
            to_vertices = paints.new_empty(m, 3)
            kernels.gather[(triton.cdiv(m, _BLOCK),)](
                cover.entry_base, cover.contours, cover.ends, to_entries, m, to_vertices, BLOCK=_BLOCK
            )
        wanted = ctx.needs_input_grad[2]
        return to_vertices, to_paints, to_ground.sum(0) if wanted else None, None, None
