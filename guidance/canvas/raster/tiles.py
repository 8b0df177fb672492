"""Which pixels a path touches, and where on the path each of them is nearest to.

Pixels are handled in tiles of 4×4. A cell is one path in one tile that it touches. The search narrows pairs
of (piece of a flattened path, tile) from coarse tiles to fine ones; it drops a piece that cannot touch the
tile, and one that cannot be the nearest of its path to any pixel of it. So the work grows with the pixels
that are covered.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.canvas.raster.ragged import expand, layers, pick, root
from guidance.canvas.raster.scene import Scene

TILE = 4
LANES = TILE * TILE

#: Half the diagonal of a pixel: no stroke whose edge is further from the pixel's centre crosses it.
REACH = math.sqrt(0.5)

#: How far, in pixels, a flattened curve may be from the true one: it only finds what is near.
TOLERANCE = 0.4

#: A curve that would need more leaves the canvas by far.
_MOST_PIECES = 1024
_REFINEMENT = 4


class Pieces(NamedTuple):
    """The straight pieces of the flattened cubics."""

    cubic: Int[Tensor, "m"]
    path: Int[Tensor, "m"]
    start: Float[Tensor, "m"]  # the cubic's parameter at the piece's beginning
    step: Float[Tensor, "m"]  # and how much it grows along the piece
    segment: Float[
        Tensor, "m 6"
    ]  # in pixels: beginning x and y, extent x and y, extent over its squared length


def power_basis(scene: Scene, size: int) -> Float[Tensor, "c 8"]:
    """The cubics in pixels as polynomials of t: x and y of the coefficients of 1, t, t² and t³."""
    points = scene.points.detach() * size
    p0, p1, p2, p3 = pick(points, scene.corners.flatten()).view(-1, 4, 2).unbind(1)
    return torch.cat([p0, 3 * (p1 - p0), 3 * (p0 - 2 * p1 + p2), p3 - p0 + 3 * (p1 - p2)], 1)


def flatten(cubics: Float[Tensor, "c 8"], owners: Int[Tensor, "c"]) -> Pieces:
    """Cuts every cubic at even parameters into as many pieces as hold `TOLERANCE`.

    A chord over a step h of a curve is off by at most h²/8·max|B''|, and B'' is linear: greatest at an end.
    """
    second, third = cubics[:, 4:6], cubics[:, 6:8]
    bend = 2 * torch.maximum(torch.hypot(*second.T), torch.hypot(*(second + 3 * third).T))
    counts = 1 + root(bend / (8 * TOLERANCE) + 1e-12).clamp(max=_MOST_PIECES - 1).long()
    cubic, i = expand(counts)
    step = pick(counts.reciprocal(), cubic)
    t = torch.stack([i, i + 1])[:, :, None] * step[:, None]
    c = pick(cubics, cubic)
    begin, end = c[:, 0:2] + t * (c[:, 2:4] + t * (c[:, 4:6] + t * c[:, 6:8]))
    extent = end - begin
    inverse = extent.square().sum(1, keepdim=True).clamp_min(1e-12).reciprocal()
    return Pieces(
        cubic, pick(owners, cubic), t[0, :, 0], step, torch.cat([begin, extent, extent * inverse], 1)
    )


def from_segment(
    x: Tensor, y: Tensor, segment: tuple[Tensor, ...]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The squared distance of points to line segments, and where along it the nearest point lies, in [0,
    1]."""
    ax, ay, ex, ey, fx, fy = segment
    x, y = x - ax, y - ay
    u = (x * fx).addcmul_(y, fy).clamp_(0, 1)
    x, y = x.addcmul_(u, ex, value=-1), y.addcmul_(u, ey, value=-1)
    return x.mul_(x).addcmul_(y, y), u


class Cells(NamedTuple):
    """The paths in the tiles that they touch, by tile, in painting order; and what lies near each cell.

    `candidate` are the pieces that can be nearest to a pixel of a cell, cell by cell. There are none for a
    cell that is wholly inside its stroke.
    """

    tile: Int[Tensor, "e"]  # counted through the population, row by row
    path: Int[Tensor, "e"]
    inside: Bool[Tensor, "e"]
    candidates: Int[Tensor, "e"]  # how many
    candidate: Int[Tensor, "q"]


def find_cells(pieces: Pieces, radius: Float[Tensor, "paths"], paths: int, size: int) -> Cells:
    """All cells of strokes of these radii (in pixels), of scenes of `paths` paths each, at `size` pixels a
    side."""
    device = radius.device
    widest = float(radius.max())
    tile = TILE
    while tile * _REFINEMENT <= min(widest, size):
        tile *= _REFINEMENT

    reach = pick(radius + REACH + TOLERANCE, pieces.path)
    across = -(-size // tile)
    begin, end = pieces.segment[:, 0:2], pieces.segment[:, 0:2] + pieces.segment[:, 2:4]
    # Shifted by one tile, so that cutting the decimals off rounds downwards.
    first = ((torch.minimum(begin, end) - reach[:, None]) / tile + 1).clamp_(1, across + 1).long() - 1
    final = ((torch.maximum(begin, end) + reach[:, None]) / tile + 1).clamp_(0, across).long() - 1
    columns, rows = (final + 1 - first).clamp_min_(0).unbind(1)
    piece, i = expand(columns * rows)
    column = pick(columns, piece)
    row = torch.div(i, column, rounding_mode="floor")
    x0, y0 = pick(first, piece).unbind(1)
    tx, ty = x0 + i - row * column, y0 + row

    while True:
        across = -(-size // tile)
        # From the centre of a tile to the centre of its corner pixel.
        extent = (tile - 1) * REACH
        segment = pick(pieces.segment, piece).unbind(1)
        squared, _ = from_segment((tx + 0.5) * tile, (ty + 0.5) * tile, segment)
        keep = (squared <= pick((reach + extent).square(), piece)).nonzero()[:, 0]
        piece, tx, ty = pick(piece, keep), pick(tx, keep), pick(ty, keep)
        distance = root(pick(squared, keep).clamp_min_(1e-12))
        path = pick(pieces.path, piece)
        number = (torch.div(path, paths, rounding_mode="floor") * across + ty) * across + tx
        # Stable, so that within a tile the paths stay in painting order. (32-bit numbers sort much faster.)
        number, order = number.int().sort(stable=True)
        piece, path, distance = pick(piece, order), pick(path, order), pick(distance, order)
        starts = torch.ones_like(path, dtype=torch.bool)
        starts[1:] = (number[1:] != number[:-1]) | (path[1:] != path[:-1])
        heads = starts.nonzero()[:, 0]
        cell = starts.cumsum(0) - 1
        nearest = torch.full((len(heads),), math.inf, device=device).scatter_reduce_(
            0, cell, distance, "amin"
        )
        within = nearest + (2 * extent + TOLERANCE)
        if tile == TILE:
            inside = nearest + extent <= radius[path[heads]] - (REACH + TOLERANCE)
            near = (distance <= pick(torch.where(inside, -1.0, within), cell)).nonzero()[:, 0]
            count = torch.zeros(len(heads), dtype=torch.long, device=device)
            count.index_add_(0, pick(cell, near), torch.ones_like(near))
            return Cells(number[heads].long(), path[heads], inside, count, piece[near])
        near = (distance <= pick(within, cell)).nonzero()[:, 0]
        kept = order[near]
        child = torch.arange(_REFINEMENT, device=device)
        tx = (tx[kept][:, None, None] * _REFINEMENT + child).expand(-1, _REFINEMENT, -1).flatten()
        ty = (ty[kept][:, None, None] * _REFINEMENT + child[:, None]).expand(-1, -1, _REFINEMENT).flatten()
        piece = piece[near][:, None].expand(-1, _REFINEMENT**2).flatten()
        tile //= _REFINEMENT
        on = (torch.maximum(tx, ty) < -(-size // tile)).nonzero()[:, 0]
        piece, tx, ty = piece[on], tx[on], ty[on]


class Edge(NamedTuple):
    """The pixels that the edge of a stroke may cross, and a point of the path that is near to each."""

    cell: Int[Tensor, "f"]
    lane: Int[Tensor, "f"]  # the pixel in the tile, row by row
    cubic: Int[Tensor, "f"]
    t: Float[Tensor, "f"]
    x: Float[Tensor, "f"]  # the pixel's centre
    y: Float[Tensor, "f"]


def find_edge(
    cells: Cells, pieces: Pieces, radius: Tensor, size: int
) -> tuple[Int[Tensor, "r"], Bool[Tensor, "r lanes"], Edge]:
    """For cells with candidates: their numbers, their pixels inside the stroke, and those near its edge."""
    device = radius.device
    layout = layers(cells.candidates)
    rows = layout.sizes[0] if layout.sizes else 0
    group, _ = expand(cells.candidates)
    piece, cell = torch.empty_like(cells.candidate), torch.empty_like(group)
    piece[layout.position], cell[layout.position] = cells.candidate, group
    across = -(-size // TILE)
    tile = pick(cells.tile, cell) % (across * across)
    top = torch.div(tile, across, rounding_mode="floor")
    left = (tile - top * across) * TILE
    top = top * TILE
    lane = torch.arange(LANES, device=device)
    lane_x, lane_y = lane % TILE + 0.5, torch.div(lane, TILE, rounding_mode="floor") + 0.5
    segment = pick(pieces.segment, piece)
    segment[:, 0] -= left
    segment[:, 1] -= top
    squared, u = from_segment(lane_x, lane_y, segment[:, :, None].unbind(1))

    nearest = squared[:rows].clone()
    number = torch.arange(len(piece), device=device)[:, None]
    chosen = number[:rows].repeat(1, LANES)
    for here, _ in layout.steps():
        first = slice(0, here.stop - here.start)
        chosen[first] = torch.where(squared[here] < nearest[first], number[here], chosen[first])
        nearest[first] = torch.minimum(squared[here], nearest[first])

    owner = layout.order[:rows]
    limit = radius[cells.path[owner]][:, None]
    inner, outer = (limit - (REACH + TOLERANCE)).clamp_min(0), limit + (REACH + TOLERANCE)
    covered = nearest < limit * limit
    spot = ((nearest < outer * outer) & (nearest >= inner * inner)).flatten().nonzero()[:, 0]
    row = torch.div(spot, LANES, rounding_mode="floor")
    lane = spot - row * LANES
    candidate = pick(chosen.flatten(), spot)
    piece = pick(piece, candidate)
    t = pick(pieces.start, piece) + pick(pieces.step, piece) * pick(u.flatten(), candidate * LANES + lane)
    x, y = pick(left, row) + pick(lane_x, lane), pick(top, row) + pick(lane_y, lane)
    return owner, covered, Edge(pick(owner, row), lane, pick(pieces.cubic, piece), t, x, y)
