"""A differentiable vector rasteriser in plain PyTorch: exact distances, analytic antialiasing, sparse memory.

Time and memory grow with the pixels that are covered, and the backward is written out. On a CPU the picture
and its gradients are the same bit for bit every time.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidance.canvas.raster.composite import paint, unpaint
from guidance.canvas.raster.coverage import cover
from guidance.canvas.raster.ragged import layers, pick
from guidance.canvas.raster.scene import Scene
from guidance.canvas.raster.tiles import (
    LANES,
    TILE,
    find_cells,
    find_edge,
    flatten,
    power_basis,
)
from guidance.errors import InputError

__all__ = ["MAX_SIZE", "Scene", "rasterize"]

MAX_SIZE = 8192


def rasterize(scene: Scene, size: int) -> Float[Tensor, "b 3 size size"]:
    """Draws the scenes at `size` pixels a side: float32 sRGB, in [0, 1] where the scene's colours are.

    Differentiable once, to points, widths, colours, opacity and background. Coverage is the area of the pixel
    inside the stroke, taking its edges to be straight within the pixel; alpha is coverage times opacity,
    painted over what is there. A stroke that crosses itself is painted once. Where one that is thinner than a
    pixel folds back within a pixel, only the nearer of its branches counts.

    Raises `InputError` unless 1 ≤ size ≤ 8192.
    """
    if not 1 <= size <= MAX_SIZE:
        raise InputError(f"size must be from 1 to {MAX_SIZE} pixels, got {size}")
    image: Tensor = _Rasterize.apply(
        scene.points, scene.widths, scene.colours, scene.opacity, scene.background, scene, size
    )
    return image


class _Rasterize(torch.autograd.Function):
    """The tensors are given beside the scene that holds them so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        widths: Tensor,
        colours: Tensor,
        opacity: Tensor,
        background: Tensor,
        scene: Scene,
        size: int,
    ) -> Tensor:
        b, n = scene.segments.shape
        radius = widths.flatten() * (size / 2)
        cubics = power_basis(scene, size)
        pieces = flatten(cubics, scene.owners)
        cells = find_cells(pieces, radius, n, size)
        rows, covered, edge = find_edge(cells, pieces, radius, size)

        # Cells are painted tile by tile: all lowest paths, all second ones, and so on.
        tiles, counts = torch.unique_consecutive(cells.tile, return_counts=True)
        layout = layers(counts)
        position = layout.position
        inside = torch.empty(len(position), device=radius.device)
        inside[position] = cells.inside.float()
        share = inside[:, None].repeat(1, LANES).index_copy_(0, position[rows], covered.float())
        spot = pick(position, edge.cell) * LANES + edge.lane
        path = pick(cells.path, edge.cell)
        coverage = cover(scene, cubics, edge, pick(radius, path))
        share.view(-1)[spot] = coverage.share

        owner = torch.empty_like(cells.path)
        owner[position] = cells.path
        colour = colours.flatten(0, 1).T.contiguous().index_select(1, owner)
        alpha = share * pick(opacity.flatten(), owner)[:, None]
        after = paint(alpha, colour, background, layout)

        across = -(-size // TILE)
        image = background[:, None, None].expand(-1, b * across * across, LANES).contiguous()
        tiles = tiles[layout.order]
        top = position[counts.cumsum(0) - 1][layout.order]
        image.index_copy_(1, tiles, after.index_select(1, top))
        ctx.save_for_backward(share, alpha, colour, background, after, owner, tiles, top, opacity)
        ctx.fragments = (spot, path, edge.cubic, coverage)
        ctx.rest = (scene, size, layout)
        image = image.view(3, b, across, across, TILE, TILE).permute(1, 0, 2, 4, 3, 5)
        return image.reshape(b, 3, across * TILE, across * TILE)[:, :, :size, :size].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        share, alpha, colour, background, after, owner, tiles, top, opacity = ctx.saved_tensors
        spot, path, cubic, coverage = ctx.fragments
        scene, size, layout = ctx.rest
        b, n = scene.segments.shape
        across = -(-size // TILE)
        margin = across * TILE - size
        gradient = torch.nn.functional.pad(gradient, (0, margin, 0, margin))
        gradient = gradient.view(b, 3, across, TILE, across, TILE).permute(1, 0, 2, 4, 3, 5)
        gradient = gradient.reshape(3, b * across * across, LANES)
        bare = torch.ones(b * across * across, device=gradient.device)
        bare[tiles] = 0
        to_alpha, to_colour, to_background = unpaint(
            gradient.index_select(1, tiles), top, after, alpha, colour, background, layout
        )
        to_background = to_background + (gradient.sum(2) * bare).sum(1)

        def total(values: Tensor, index: Tensor, count: int) -> Tensor:
            # One-dimensional index_add is a plain loop on CPU: quick, and the same bit for bit every time.
            return torch.zeros(count, device=values.device).index_add_(0, index, values)

        to_colour = torch.stack([total(c, owner, b * n) for c in to_colour], 1).view(b, n, 3)
        to_opacity = total((to_alpha * share).sum(1), owner, b * n).view(b, n)
        to_share = pick(to_alpha.view(-1), spot) * pick(opacity.flatten(), path)
        to_width = total(to_share * coverage.to_radius, path, b * n).view(b, n) * (size / 2)

        # Coverage changes with the nearest point of the path, a mixture of the control points.
        to_points = torch.zeros_like(scene.points).flatten()
        weights = bernstein(coverage.t)
        for axis, slope in enumerate((coverage.to_x, coverage.to_y)):
            v = to_share * slope * size
            for corner, weight in zip(scene.corners.T, weights, strict=True):
                to_points.index_add_(0, corner * 2 + axis, total(v * weight, cubic, len(corner)))
        return to_points.view_as(scene.points), to_width, to_colour, to_opacity, to_background, None, None


def bernstein(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of the four control points of a cubic Bézier at t."""
    s = 1 - t
    return s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t
