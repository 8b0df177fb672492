"""How much of a pixel a stroke covers, from where its centre line runs: analytic antialiasing."""

from math import pi
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from guidance.canvas.raster.ragged import pick, root
from guidance.canvas.raster.scene import Scene
from guidance.canvas.raster.tiles import REACH, Edge

#: Below this the ramp across a pixel is that of a straight step, and dividing by it is safe.
_STEEPEST = 1e-4

#: A length, in pixels, that is not short.
_LONG = 1e3

#: Up to the first radius, in pixels, a stroke's end is a thin one's, from the second on a thick one's. Each
#: is the better model on its side of 0.65 against a supersampled end.
_THIN, _THICK = 0.5, 0.8


class _Pixel:
    """A pixel seen along a direction: the convolution of two boxes of widths |x| and |y|, a trapezoid."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        x, y = x.abs(), y.abs()
        # A unit vector has a side of at least 0.7; what has no direction, the middle of a dot, gets one.
        self.wide, self.narrow = x.maximum(y).clamp_min(0.5), x.minimum(y).clamp_min(_STEEPEST)
        self.half, self.flat = (self.wide + self.narrow) / 2, (self.wide - self.narrow) / 2

    def area(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The area within z along the direction, less that of half the pixel; and its derivative."""
        z = z.clamp(-self.half, self.half)
        corner = (z.abs() - self.flat).clamp_min(0) / self.narrow
        return (z - z.sign() * corner.square() * (self.narrow / 2)) / self.wide, (1 - corner) / self.wide


def side(
    distance: Float[Tensor, "f"], x: Float[Tensor, "f"], y: Float[Tensor, "f"], radius: Float[Tensor, "f"]
) -> tuple[Float[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"]]:
    """The share of the pixel that a stroke covers, and its derivatives by the distance and by the radius.

    The pixel's centre lies at `distance` pixels from the centre line, in the direction (x, y), a unit vector.
    A stroke is what lies between two edges, taken to be straight; so one thinner than the pixel covers its
    width.
    """
    pixel = _Pixel(x, y)
    outer, outer_slope = pixel.area(radius + distance)
    inner, inner_slope = pixel.area(radius - distance)
    return outer + inner, outer_slope - inner_slope, outer_slope + inner_slope


def cap(
    x: Float[Tensor, "f"],
    y: Float[Tensor, "f"],
    tangent: Float[Tensor, "2 f"],
    beyond: Bool[Tensor, "f"],
    length: Float[Tensor, "f"],
    radius: Float[Tensor, "f"],
) -> Float[Tensor, "f"]:
    """The share of the pixel that a stroke covers near its round end; differentiable by x, y and the radius.

    (x, y) is the way from the stroke's end to the pixel's centre, `tangent` the unit vector in which the
    stroke ends, `beyond` whether the end is what is nearest to the pixel, and `length` the stroke's if it is
    short.

    A thin stroke is a strip times a window along it, which ends where the cap's area would as a rectangle. In
    a thick one the pixel blurs the cap along its round edge, too; that moves the edge inwards by
    1/(24·radius), and the area comes out right if the radius shrinks so on average over the cap, by nothing
    at its sides.
    """
    tx, ty = tangent
    along = x * tx + y * ty
    across = (y * tx - x * ty).abs()
    window = _Pixel(tx, ty)
    end = radius * (pi / 4)
    thin = side(across, ty, tx, radius)[0]
    thin = thin * (window.area(end - along)[0] + window.area(end + length + along)[0])

    distance = root(x * x + y * y + 1e-6)
    sine = torch.where(beyond, along.abs() / (distance + 0.1), 0)
    shrunk = root((radius.square() - pi / 24 * sine).clamp_min(1e-4))
    nx = torch.where(beyond, x / distance, -ty).detach()
    ny = torch.where(beyond, y / distance, tx).detach()
    thick = side(torch.where(beyond, distance, across), nx, ny, shrunk)[0]
    return thin.lerp(thick, ((radius - _THIN) / (_THICK - _THIN)).clamp(0, 1))


class Coverage(NamedTuple):
    """The share of pixels that a stroke covers, and how it depends on the stroke."""

    share: Float[Tensor, "f"]
    to_radius: Float[Tensor, "f"]  # its derivative by the radius, in pixels
    to_x: Float[Tensor, "f"]  # and by the point of the cubic at t, in pixels
    to_y: Float[Tensor, "f"]
    t: Float[Tensor, "f"]


def cover(scene: Scene, cubics: Float[Tensor, "c 8"], edge: Edge, radius: Float[Tensor, "f"]) -> Coverage:
    """The coverage of the pixels near the edges of strokes, with derivatives."""
    t, x, y, vx, vy = nearest_point(edge, cubics)
    distance = torch.hypot(x, y)
    # On the centre line itself the direction to the pixel is lost, and the normal is across the tangent.
    on_line = distance < 1e-3
    nx, ny = torch.where(on_line, -vy, x), torch.where(on_line, vx, y)
    length = torch.hypot(nx, ny).clamp_min_(1e-12)
    nx, ny = nx / length, ny / length
    share, by_distance, to_radius = side(distance, nx, ny, radius)
    # The nearest point moves along the path, too, but not the distance by that.
    to_x, to_y = -by_distance * nx, -by_distance * ny

    is_first, is_last = pick(scene.ends, edge.cubic).unbind(1)
    at_end = (is_first & (t == 0)) | (is_last & (t == 1))
    late = is_last & (~is_first | (t > 0.5))
    tip = _at(cubics, late.float(), edge)
    from_tip = torch.stack([edge.x, edge.y], 1) - tip
    near_end = (from_tip - torch.stack([x, y], 1)).square().sum(1) < REACH**2
    spots = (at_end | (near_end & (is_first | is_last) & (radius < _THICK))).nonzero()[:, 0]

    edge = Edge(*(v[spots] for v in edge))
    late, from_tip = late[spots], pick(from_tip, spots)
    # A chord, since the tangent of a cubic vanishes where two control points meet.
    tangent = pick(tip, spots) - _at(cubics, torch.where(late, 1 - 1 / 64, 1 / 64), edge)
    norm = tangent.norm(dim=1)
    tangent = torch.where(norm > 0, tangent.T / norm, torch.tensor([[1.0], [0.0]], device=norm.device))
    span = torch.where(scene.ends.all(1), _polygon(cubics), _LONG)[edge.cubic]
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in (*from_tip.unbind(1), radius[spots])]
        ends = cap(leaves[0], leaves[1], tangent, at_end[spots], span, leaves[2])
        by_x, by_y, by_radius = torch.autograd.grad(ends.sum(), leaves)
    share[spots], to_radius[spots], to_x[spots], to_y[spots] = ends.detach(), by_radius, -by_x, -by_y
    t[spots] = late.float()
    return Coverage(share, to_radius, to_x, to_y, t)


def _at(cubics: Float[Tensor, "c 8"], t: Float[Tensor, "f"], edge: Edge) -> Float[Tensor, "f 2"]:
    """The points of the cubics at t."""
    c, t = pick(cubics, edge.cubic), t[:, None]
    return c[:, 0:2] + t * (c[:, 2:4] + t * (c[:, 4:6] + t * c[:, 6:8]))


def _polygon(cubics: Float[Tensor, "c 8"]) -> Float[Tensor, "c"]:
    """The lengths of the cubics' control polygons, which are no shorter than the cubics."""
    _, first, second, third = cubics.view(-1, 4, 2).unbind(1)
    sides = torch.stack([first, first + second, first + 2 * second + 3 * third]) / 3
    return sides.norm(dim=2).sum(0)


def nearest_point(
    edge: Edge, cubics: Float[Tensor, "c 8"]
) -> tuple[
    Float[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"], Float[Tensor, "f"]
]:
    """The nearest point of the true cubic: its t, the way from it to the pixel's centre, and the tangent
    there.

    One Newton step on the squared distance, from the nearest point of the flattened curve; kept where it
    helps.
    """
    c = pick(cubics, edge.cubic).T.contiguous()

    def offset(t: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (
            torch.addcmul(c[i], t, torch.addcmul(c[2 + i], t, torch.addcmul(c[4 + i], t, c[6 + i])))
            for i in (0, 1)
        )
        return edge.x - x, edge.y - y

    def tangent(t: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (torch.addcmul(c[2 + i], t, 2 * c[4 + i] + 3 * t * c[6 + i]) for i in (0, 1))
        return x, y

    t = edge.t
    x, y = offset(t)
    vx, vy = tangent(t)
    speed = vx * vx + vy * vy
    # The full second derivative where it is safely positive, Gauss–Newton's elsewhere.
    curvature = speed - 2 * (x * (c[4] + 3 * t * c[6]) + y * (c[5] + 3 * t * c[7]))
    curvature = torch.where(curvature > 0.25 * speed, curvature, speed).clamp_min_(1e-12)
    better = (t + (x * vx + y * vy) / curvature).clamp_(0, 1)
    new_x, new_y = offset(better)
    helps = new_x * new_x + new_y * new_y < x * x + y * y
    t, x, y = torch.where(helps, better, t), torch.where(helps, new_x, x), torch.where(helps, new_y, y)
    return t, x, y, *tangent(t)
