"""From curves to polylines in pixels, which is what backends draw."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.canvas.raster.model import (
    EVEN_ODD,
    FEWEST_PIECES,
    MOST_PIECES,
    NONZERO,
    STROKE,
    THIN,
    TOLERANCE,
)
from guidance.canvas.raster.scene import Scene, ranks

#: Pixels that everything is moved by, far too little to see; and the share of the picture's longer side that
#: it is at least, so that it is not rounded away.
_OFF_GRID, _OFF_GRID_LARGE = 2**-12, 2**-23


class Polylines(NamedTuple):
    """Paths of polylines. A vertex is x, y and the stroke's radius there, in pixels."""

    vertices: Float[Tensor, "m 3"]
    ends: Int[Tensor, "c+1"]  # the first vertex of every contour, and how many there are
    owners: Int[Tensor, "paths+1"]  # the first contour of every path, and how many there are
    closed: Bool[Tensor, "c"]
    kinds: Int[Tensor, "paths"]  # STROKE, NONZERO or EVEN_ODD


class Outline(NamedTuple):
    """How a scene's curves are cut: even in parameter, into `counts` pieces a cubic."""

    control: Float[Tensor, "p 3"]  # x, y and radius in pixels
    corners: Int[Tensor, "k 4"]
    segments: Int[Tensor, "c"]
    counts: Int[Tensor, "k"]
    ends: Int[Tensor, "c+1"]
    widest: Float[Tensor, "paths"]  # the largest radius of each path's control points


def cut(
    scene: Scene, height: int, width: int, count: Callable[[Tensor, Tensor], Int[Tensor, "k"]] | None = None
) -> Outline:
    """The control points in pixels, and into how many pieces every cubic is to be cut.

    `count` stands in for `pieces` where a backend has a quicker one.
    """
    path = scene.owners.index_select(0, ranks(scene.sizes)[0])
    if scene.widths.ndim == 1:
        radius = scene.widths
        none = radius.new_zeros(scene.opacity.numel())
        widest = none.scatter_reduce(0, path, radius.detach(), "amax")
    else:
        widest = scene.widths.detach().flatten()
        radius = scene.widths.flatten().index_select(0, path)
    # An edge between two pixels, as of an icon drawn on the grid, runs through none, and would feel none.
    off_grid = max(_OFF_GRID, _OFF_GRID_LARGE * max(height, width))
    control = torch.cat([scene.points * width + off_grid, radius[:, None] * (width / 2)], 1)
    counts = (count or pieces)(control.detach(), scene.corners)
    contour, _ = ranks(scene.segments)
    vertices = torch.ones_like(scene.segments).index_add_(0, contour, counts)
    ends = torch.cat([vertices.new_zeros(1), vertices.cumsum(0)])
    return Outline(control, scene.corners, scene.segments, counts, ends, widest * (width / 2))


def pieces(control: Float[Tensor, "p 3"], corners: Int[Tensor, "k 4"]) -> Int[Tensor, "k"]:
    """Into how many pieces every cubic is to be cut.

    A chord over a step h of a curve is off by at most h²/8·max|B''|, and B'' is linear: greatest at an end.
    """
    c = control[corners]
    bend = 6 * torch.stack([c[:, 0] - 2 * c[:, 1] + c[:, 2], c[:, 1] - 2 * c[:, 2] + c[:, 3]]).abs().amax(0)
    # The radius is straight along a piece, too.
    bend = torch.hypot(bend[:, 0], bend[:, 1]).maximum(bend[:, 2])
    return (1 + (bend / (8 * TOLERANCE)).sqrt()).clamp(FEWEST_PIECES, MOST_PIECES).long()


def flatten(outline: Outline) -> Float[Tensor, "m 3"]:
    """The vertices of the polylines, differentiable to the control points."""
    cubic, rank = ranks(outline.counts)
    t = (rank.float() / outline.counts[cubic])[:, None]
    p0, p1, p2, p3 = outline.control[outline.corners].unbind(1)
    # In this form equal control points have equal vertices, so that what stands still has no direction.
    one, two, three = (c[cubic] for c in (3 * (p1 - p0), 3 * (p0 - 2 * p1 + p2), p3 - p0 + 3 * (p1 - p2)))
    inner = p0[cubic] + t * (one + t * (two + t * three))
    last = outline.segments.cumsum(0) - 1
    final = outline.control[outline.corners[last, 3]]
    vertices = inner.new_empty(int(outline.ends[-1]), 3)
    contour, _ = ranks(outline.segments)
    final_rows = outline.ends[1:] - 1
    rows = torch.arange(len(cubic), device=inner.device) + contour[cubic]
    return vertices.index_copy(0, rows, inner).index_copy(0, final_rows, final)


def polylines(scene: Scene, outline: Outline, vertices: Float[Tensor, "m 3"]) -> Polylines:
    """The scene as polylines of these vertices; thin strokes become outlines, which are filled."""
    paths = scene.opacity.numel()
    device = vertices.device
    kinds = torch.full((paths,), STROKE, device=device)
    if scene.filled is not None:
        rule = torch.full_like(kinds, NONZERO)
        if scene.even_odd is not None:
            rule[scene.even_odd.flatten()] = EVEN_ODD
        kinds = torch.where(scene.filled.flatten(), rule, kinds)
    if scene.contours is None:
        owners = torch.arange(paths + 1, device=device)
    else:
        owners = torch.cat([kinds.new_zeros(1), scene.contours.flatten().cumsum(0)])
    closed = scene.closed
    if closed is None:
        closed = torch.zeros(len(scene.segments), dtype=torch.bool, device=device)
    lines = Polylines(vertices, outline.ends, owners, closed, kinds)

    thin = (kinds == STROKE) & (outline.widest < THIN)
    return _outlined(lines, thin, thin[scene.owners]) if thin.any() else lines


def _outlined(lines: Polylines, thin: Bool[Tensor, "paths"], turned: Bool[Tensor, "c"]) -> Polylines:
    """The polylines with the strokes of `thin` paths, whose contours are `turned`, as filled outlines.

    For a stroke thinner than a pixel it is not its distance that counts but its area, also where several
    branches of it share a pixel. The outline runs along one side of the pieces and back along the other.
    Where it turns, the wedge that is missing outside and the one that is twice inside weigh the same. A round
    end is a rectangle of the same area.
    """
    sizes = lines.ends.diff()
    contour, rank = ranks(sizes)
    begins = (rank < sizes[contour] - 1) & turned[contour]
    v = begins.nonzero()[:, 0]
    a, b = lines.vertices[v], lines.vertices[v + 1]
    along = b[:, :2] - a[:, :2]
    squared = along.square().sum(1, keepdim=True)
    moves = squared > 1e-12
    right = along.new_tensor([1.0, 0.0])
    along = torch.where(moves, along * torch.where(moves, squared, 1).rsqrt(), right)
    across = torch.stack([-along[:, 1], along[:, 0]], 1)
    ra, rb = a[:, 2:], b[:, 2:]
    opened = ~lines.closed[contour[v]]
    first, last = opened & (rank[v] == 0), opened & (rank[v] == sizes[contour[v]] - 2)
    cap = torch.pi / 4
    start = a[:, :2] - torch.where(first[:, None], cap * ra, 0) * along
    stop = b[:, :2] + torch.where(last[:, None], cap * rb, 0) * along
    sides = torch.stack([start + ra * across, stop + rb * across, start - ra * across, stop - rb * across], 1)

    # A contour of m vertices becomes 4(m - 1): along the left sides of its pieces, and back.
    pieces = sizes - 1
    grown = torch.where(turned, 4 * pieces, sizes)
    contour, rank = ranks(grown)
    base = torch.where(turned, pieces, 0)
    base = (base.cumsum(0) - base)[contour] * 4
    back = 4 * pieces[contour] - 1 - rank
    out = rank < 2 * pieces[contour]
    piece = torch.where(out, rank, back).div(2, rounding_mode="floor")
    corner = torch.where(out, rank % 2, 2 + back % 2)
    source = torch.where(
        turned[contour], len(lines.vertices) + base + 4 * piece + corner, lines.ends[contour] + rank
    )
    flat = torch.cat([sides.flatten(0, 1), torch.zeros_like(sides[:, :, :1]).flatten(0, 1)], 1)
    return Polylines(
        torch.cat([lines.vertices, flat])[source],
        torch.cat([grown.new_zeros(1), grown.cumsum(0)]),
        lines.owners,
        lines.closed,
        torch.where(thin, NONZERO, lines.kinds),
    )
