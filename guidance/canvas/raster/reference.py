"""The rasteriser in plain PyTorch, on any device: the definition, which other backends are tested against.

Everything is sparse: a fragment is a pixel that a path covers, with the share of it that is covered. Where
pixels lie, and what of a path is nearest to them, is found without gradients; the shares are then written as
functions of the vertices whose derivatives are exact.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.canvas.raster.model import CAP, REACH, STILL
from guidance.canvas.raster.paints import gradient_colours
from guidance.canvas.raster.polylines import EVEN_ODD, STROKE, Polylines, cut, flatten, polylines
from guidance.canvas.raster.scene import Scene, ranks


class _Fragments(NamedTuple):
    paths: Int[Tensor, "f"]
    pixels: Int[Tensor, "f"]  # of the path's image, row by row
    shares: Float[Tensor, "f"]


def rasterize(scene: Scene, height: int, width: int) -> Float[Tensor, "b channels h w"]:
    """The picture, with an alpha channel if the scene has no background; see `guidance.rasterize`."""
    outline = cut(scene, height, width)
    lines = polylines(scene, outline, flatten(outline))
    parts = [_strokes(lines, height, width), _fills(lines, height, width)]
    fragments = _Fragments(*(torch.cat(part) for part in zip(*parts, strict=True)))
    if scene.background is None:
        ground, channels = scene.opacity.new_zeros(4), 4
    else:
        ground, channels = torch.nn.functional.pad(scene.background, (0, 1), value=1.0), 3
    shape = (*scene.opacity.shape, height * width)
    image = _composite(fragments, *_paints(scene, fragments, width), ground, shape)
    return image.view(-1, height, width, 4)[:, :, :, :channels].permute(0, 3, 1, 2).contiguous()


class _Pieces(NamedTuple):
    """The straight pieces of strokes, and how far around them they may be the nearest."""

    first: Int[Tensor, "q"]  # the vertices that they begin in
    paths: Int[Tensor, "q"]
    starts: Bool[Tensor, "q"]  # whether an open contour begins in it,
    stops: Bool[Tensor, "q"]  # or ends
    direction: Float[Tensor, "q 2"]
    length: Float[Tensor, "q"]
    shift: Float[Tensor, "q"]  # the nearest disc is so far along, a unit of distance from the axis
    reach: Float[Tensor, "q"]
    before: Float[Tensor, "q"]
    after: Float[Tensor, "q"]


def _pieces(lines: Polylines, vertices: Float[Tensor, "m 3"]) -> _Pieces:
    owner, _ = ranks(lines.owners.diff())
    stroked = (lines.kinds == STROKE)[owner].nonzero()[:, 0]
    sizes = lines.ends.diff()[stroked] - 1
    contour, rank = ranks(sizes)
    v = lines.ends[stroked][contour] + rank
    along = vertices[v + 1, :2] - vertices[v, :2]
    length = along.square().sum(1).sqrt()
    moves = length > STILL
    length = torch.where(moves, length, 0)

    # A piece of no length has the direction of the last one before it that has some, or the first after it.
    moving = torch.cat([moves.nonzero()[:, 0], sizes.new_zeros(1)])
    count = torch.cat([sizes.new_zeros(1), moves.cumsum(0)])
    begin = sizes.cumsum(0) - sizes
    earlier, total = count[begin][contour], count[begin + sizes][contour]
    direction = along / torch.where(moves, length, 1)[:, None]
    direction = direction[moving[(count[1:] - 1).maximum(earlier)]]
    direction = torch.where((total > earlier)[:, None], direction, direction.new_tensor([1.0, 0.0]))
    opened = ~lines.closed[stroked][contour]

    radius, other = vertices[v, 2], vertices[v + 1, 2]
    reach = radius.maximum(other) + REACH
    slope = ((other - radius) / length.clamp(min=STILL)).clamp(-0.999, 0.999)
    shift = slope / (1 - slope * slope).sqrt()
    # Beyond its end a piece is the nearest in half of the wedge on the outer side of the joint.
    number = torch.arange(len(v), device=v.device)
    last = rank == sizes[contour] - 1
    following = torch.where(last, begin[contour], number + 1)
    preceding = torch.where(rank == 0, (begin + sizes)[contour] - 1, number - 1)
    wedge = ((1 - (direction * direction[following]).sum(1)).clamp(min=0) / 2).sqrt()
    wedge = torch.where((last & opened) | ~moves | ~moves[following], 1, wedge)
    margin = shift.abs() * reach
    return _Pieces(
        first=v,
        paths=owner[stroked][contour],
        starts=opened & (count[:-1] == earlier),
        stops=opened & (count[1:] == total),
        direction=direction,
        length=length,
        shift=shift,
        reach=reach,
        before=(wedge[preceding] * reach + margin).minimum(reach) + 1e-3,
        after=(wedge * reach + margin).minimum(reach) + 1e-3,
    )


@torch.no_grad()
def _near(
    pieces: _Pieces, vertices: Float[Tensor, "m 3"], height: int, width: int
) -> tuple[Int[Tensor, "f"], Int[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"]]:
    """For every pixel near a path: its number, the path's nearest piece, how far along it the nearest point
    is, and the distance from the stroke's edge there.
    """
    # The rectangle around a piece, row by row.
    x, y = vertices[pieces.first, :2].unbind(1)
    ex, ey = pieces.direction.unbind(1)
    low, high = -pieces.before, pieces.length + pieces.after
    side = pieces.reach * ex.abs()
    top = (y + (low * ey).minimum(high * ey) - side - 0.5).ceil().clamp(0, height)
    bottom = (y + (low * ey).maximum(high * ey) + side - 0.5).floor().clamp(-1, height - 1)
    piece, rank = ranks((bottom - top + 1).clamp(min=0).long())
    row = top[piece].long() + rank
    radius, other = vertices[pieces.first, 2], vertices[pieces.first + 1, 2]
    columns = [x, y, ex, ey, low, high, pieces.reach, pieces.length, pieces.shift, radius, other]
    x, y, ex, ey, low, high, reach, *rest = torch.stack(columns, 1)[piece].unbind(1)
    dy = row.to(y.dtype) + 0.5 - y
    steep, flat = (torch.where(e.abs() < 1e-6, 1e-6, e) for e in (ex, ey))
    a, b = (low - dy * ey) / steep, (high - dy * ey) / steep
    c, d = (dy * ex - reach) / flat, (dy * ex + reach) / flat
    left = (x + a.minimum(b).maximum(c.minimum(d)) - 0.5).ceil().clamp(0, width)
    right = (x + a.maximum(b).minimum(c.maximum(d)) - 0.5).floor().clamp(-1, width - 1)
    of_row, rank = ranks((right - left + 1).clamp(min=0).long())

    table = torch.stack([left, x, dy, ex, ey, *rest], 1)
    left, x, dy, ex, ey, length, shift, radius, other = table.index_select(0, of_row).unbind(1)
    column = left + rank
    dx = column + 0.5 - x
    along, cross = dx * ex + dy * ey, dy * ex - dx * ey
    u = (along + cross.abs() * shift).clamp(min=0).minimum(length)
    # On a piece of no length, the greater disc is the nearer.
    where = torch.where(length > 0, u / torch.where(length > 0, length, 1), (other > radius).to(u.dtype))
    distance = (cross.square() + (along - u).square()).sqrt() - torch.lerp(radius, other, where)

    # The least of every path and pixel: in order of distance, and stably in order of path and pixel.
    near = (distance < REACH).nonzero()[:, 0]
    near = near[distance[near].argsort(stable=True)]
    pixel = row[of_row[near]] * width + column[near].long()
    piece = piece[of_row[near]]
    number, order = (pieces.paths[piece] * (height * width) + pixel).sort(stable=True)
    least = torch.ones_like(number, dtype=torch.bool)
    least[1:] = number[1:] != number[:-1]
    order = order[least]
    return pixel[order], piece[order], where[near[order]], distance[near[order]]


def _strokes(lines: Polylines, height: int, width: int) -> _Fragments:
    """The shares of pixels within strokes, by the distance of their centres from the stroke's edge.

    The nearest point is the least of the distances, so that to first order it does not matter where along
    the piece it lies (the envelope theorem): only how the piece there moves.
    """
    pieces = _pieces(lines, lines.vertices.detach())
    pixel, piece, where, depth = _near(pieces, lines.vertices.detach(), height, width)
    shares = torch.ones_like(depth)
    edge = (depth > -REACH).nonzero()[:, 0]
    at, part, along = pixel[edge], piece[edge], where[edge]
    v = pieces.first[part]
    x, y, radius = torch.lerp(lines.vertices[v], lines.vertices[v + 1], along[:, None]).unbind(1)
    centre = torch.stack([at % width, at.div(width, rounding_mode="floor")], 1).to(x.dtype) + 0.5
    offset = centre - torch.stack([x, y], 1)
    direction = pieces.direction[part]
    across = torch.stack([-direction[:, 1], direction[:, 0]], 1)
    straight = offset.detach().square().sum(1, keepdim=True).sqrt()
    normal = torch.where(straight > 1e-4, offset.detach() / straight.clamp(min=1e-4), across)
    distance = (offset * normal).sum(1)

    # A pixel blurs a round end along its edge, too; see `CAP`.
    tip = (pieces.starts[part] & (along <= 0)) | (pieces.stops[part] & (along >= 1))
    tip |= (pieces.starts[part] | pieces.stops[part]) & (pieces.length[part] == 0)
    sine = (offset * direction).sum(1).abs() / (distance + 0.1)
    squared = radius * radius
    shrunk = (squared - CAP * sine).maximum(squared / 4).clamp(min=1e-12).sqrt()
    shrunk = torch.where(tip, shrunk, radius)
    share = _area(shrunk + distance, normal) + _area(shrunk - distance, normal)
    shares = shares.index_copy(0, edge, share)
    kept = (shares > 1e-6).nonzero()[:, 0]
    return _Fragments(pieces.paths[piece[kept]], pixel[kept], shares[kept])


def _area(z: Float[Tensor, "f"], normal: Float[Tensor, "f 2"]) -> Float[Tensor, "f"]:
    """The area of a pixel within z of its centre along a direction, less half of it.

    Seen along a direction a pixel is a trapezoid.
    """
    wide, narrow = normal.abs().amax(1), normal.abs().amin(1).clamp(min=1e-4)
    half, flat = (wide + narrow) / 2, (wide - narrow) / 2
    z = z.clamp(-half, half)
    corner = (z.abs() - flat).clamp(min=0) / narrow
    return (z - z.sign() * corner * corner * narrow / 2) / wide


def _fills(lines: Polylines, height: int, width: int) -> _Fragments:
    """The shares of pixels within filled paths, by their exact area.

    What lies right of an edge adds to the areas of its row or, upwards, takes from it. When an edge moves,
    the pixels that it runs through gain or lose what it sweeps.
    """
    vertices = lines.vertices.detach()
    owner, _ = ranks(lines.owners.diff())
    contour, rank = ranks(lines.ends.diff())
    a = (lines.kinds != STROKE)[owner[contour]].nonzero()[:, 0]
    last = rank[a] == lines.ends.diff()[contour[a]] - 1
    b = torch.where(last, lines.ends[contour[a]], a + 1)

    # The edges row by row: from `begin` to `end` along the edge it is in the row.
    low = vertices[a, 1].minimum(vertices[b, 1]).floor().clamp(0, height)
    high = vertices[a, 1].maximum(vertices[b, 1]).floor().clamp(-1, height - 1)
    edge, rank = ranks((high - low + 1).clamp(min=0).long())
    a, b, row = a[edge], b[edge], low[edge] + rank
    (ax, ay), (bx, by) = vertices[a, :2].unbind(1), vertices[b, :2].unbind(1)
    dx, dy = bx - ax, by - ay
    upper, lower = ay.clamp(row, row + 1), by.clamp(row, row + 1)
    level = dy == 0
    begin = torch.where(level, 0, (upper - ay) / torch.where(level, 1, dy))
    end = torch.where(level, 1, (lower - ay) / torch.where(level, 1, dy))
    start, stop = ax + begin * dx, ax + end * dx
    left, right = start.minimum(stop), start.maximum(stop)

    # And column by column, with one column before the picture and one after it for all that lies outside.
    first, final = left.floor().clamp(-1, width), right.floor().clamp(-1, width)
    part, rank = ranks((final - first + 1).long())
    column = first[part] + rank
    from_x = torch.where(column < 0, left[part], left[part].maximum(column))
    to_x = torch.where(column == width, right[part], right[part].minimum(column + 1))
    upright = (right == left)[part]
    middle = (from_x + to_x) / 2
    share = torch.where(upright, 1, (to_x - from_x) / torch.where(upright, 1, (right - left)[part]))
    drop = (lower - upper)[part] * share
    inside = (middle - column).clamp(0, 1)

    # The rows of every path, as wide as it is there and a column more: each sums to 0, as it is closed.
    keys, span = (owner[contour[a]] * height + row.long()).unique(return_inverse=True)
    lowest = torch.full_like(keys, width, dtype=first.dtype).scatter_reduce_(0, span, first, "amin")
    highest = torch.full_like(lowest, -1).scatter_reduce_(0, span, final, "amax")
    sizes = (highest - lowest).long() + 2
    ends = sizes.cumsum(0)
    cell = (ends - sizes)[span[part]] + (column - lowest[span[part]]).long()
    of_span, rank = ranks(sizes)
    areas = vertices.new_zeros(len(of_span))
    areas.index_add_(0, cell, drop * (1 - inside)).index_add_(0, cell + 1, drop * inside)
    areas = areas.cumsum(0)
    areas = areas - torch.cat([areas.new_zeros(1), areas[ends[:-1] - 1]])[of_span]

    run = ((column >= 0) & (column < width)).nonzero()[:, 0]
    part, share, middle, cell = part[run], share[run], middle[run], cell[run]
    across = torch.where(
        upright[run], 0.5, (middle - start[part]) / torch.where(upright[run], 1, (stop - start)[part])
    )
    u = torch.lerp(begin[part], end[part], across)
    moves = lines.vertices[:, :2] - vertices[:, :2]  # nothing, but differentiable
    move_x, move_y = torch.lerp(moves[a[part]], moves[b[part]], u[:, None]).unbind(1)
    swept = (end - begin)[part] * share * (dx[part] * move_y - dy[part] * move_x)
    areas = areas.index_add(0, cell, swept).abs()

    columns = lowest.long()[of_span] + rank
    shown = ((columns >= 0) & (columns < width) & (areas > 1e-5)).nonzero()[:, 0]
    key, areas = keys[of_span[shown]], areas[shown]
    path = key.div(height, rounding_mode="floor")
    rest = areas - 2 * (areas.detach() / 2).floor()
    folded = torch.where(rest > 1, 2 - rest, rest)
    shares = torch.where(lines.kinds[path] == EVEN_ODD, folded, areas.clamp(max=1))
    return _Fragments(path, key % height * width + columns[shown], shares)


def _paints(
    scene: Scene, fragments: _Fragments, width: int
) -> tuple[Float[Tensor, "f 4"], Float[Tensor, "f 1"]]:
    """The colours of the fragments, with an alpha of 1, and how much of the pixel each paints."""
    colours = torch.nn.functional.pad(scene.colours.flatten(0, 1), (0, 1), value=1.0)[fragments.paths]
    alphas = fragments.shares * scene.opacity.flatten()[fragments.paths]
    if scene.gradients is not None:
        which = torch.full_like(scene.opacity, -1, dtype=torch.long).flatten()
        which[scene.gradients.paths] = torch.arange(len(scene.gradients.paths), device=which.device)
        painted = (which[fragments.paths] >= 0).nonzero()[:, 0]
        pixel = fragments.pixels[painted]
        points = torch.stack([pixel % width, pixel.div(width, rounding_mode="floor")], 1)
        shades = gradient_colours(
            scene.gradients, which[fragments.paths[painted]], (points.float() + 0.5) / width
        )
        alphas = alphas.index_copy(0, painted, alphas[painted] * shades[:, 3])
        shades = torch.cat([shades[:, :3], torch.ones_like(shades[:, 3:])], 1)
        colours = colours.index_copy(0, painted, shades)
    return colours, alphas[:, None]


def _composite(
    fragments: _Fragments,
    colours: Float[Tensor, "f 4"],
    alphas: Float[Tensor, "f 1"],
    ground: Float[Tensor, "4"],
    shape: tuple[int, int, int],
) -> Float[Tensor, "pixels 4"]:
    """Paints the fragments in order of their paths over the ground: colours times alpha, and alpha."""
    members, paths, size = shape
    member = fragments.paths.div(paths, rounding_mode="floor")
    pixels = member * size + fragments.pixels
    order = (pixels * paths + fragments.paths % paths).argsort()
    touched, depths = pixels[order].unique_consecutive(return_counts=True)
    begins = depths.cumsum(0) - depths
    # The deepest pixels come first, so that those with a k-th fragment are the first ones, for any k.
    depths, deepest = depths.sort(descending=True)
    pixel, rank = ranks(depths)
    order = order[(begins[deepest][pixel] + rank)[rank.argsort(stable=True)]]
    layers = rank.bincount(minlength=1).tolist()

    state, done = ground.expand(len(touched), 4), []
    for colour, alpha in zip(colours[order].split(layers), alphas[order].split(layers), strict=True):
        done.append(state[len(colour) :])
        state = torch.lerp(state[: len(colour)], colour, alpha)
    image = ground.repeat(members * size, 1)
    return image.index_copy(0, touched[deepest], torch.cat([state, *reversed(done)]))
