"""Closed filled shapes on a plain ground: diffvg's painterly blobs, without a compiler."""

from dataclasses import replace
from math import tau

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from guidance.canvas.base import ParamGroup, VectorCanvas, points_rate
from guidance.canvas.checks import check_canvas, check_range
from guidance.canvas.raster import Scene
from guidance.clock import Clock


class Shapes(VectorCanvas):
    """A population of b drawings of `paths` closed shapes each, filled with one colour (Li et al. 2020;
    started as circles as in LIVE, Ma et al. 2022).

    A shape lies anywhere in the middle `extent` of the canvas (1 is all of it). It begins as a circle of a
    radius drawn from `radius`, in canvases, made of a number of cubic segments drawn from `segments`; each of
    its control points is moved by up to `wobble` radii both ways in x and in y. Colours are random; `opacity`
    is a range to draw from. `background` is sRGB in [0, 1]. Where a shape crosses itself it stays filled
    (nonzero rule).

    Two parameter groups, "points" and "colour" (with opacity), have CLIPDraw's learning rates, the first in
    pixels of `size`. The geometry is in units of the canvas, so that the drawing can be rendered at any size.
    The drawing begins as that of the clock's step 0 wherever the clock is, so that a resumed run builds the
    same canvas.

    Raises `InputError` for numbers out of their ranges; there are at most 100,000 paths and 4096 members.
    """

    points: nn.Parameter
    colours: nn.Parameter
    segments: Int[Tensor, "b n"]
    background: Float[Tensor, "3"]

    def __init__(
        self,
        paths: int,
        size: int,
        clock: Clock,
        *,
        b: int = 1,
        segments: tuple[int, int] = (4, 4),
        extent: float = 0.9,
        radius: tuple[float, float] = (0.02, 0.1),
        wobble: float = 0.2,
        opacity: tuple[float, float] = (0.3, 1.0),
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        check_canvas(paths, size, b, background)
        check_range("segments", segments, 2, 1000)
        check_range("radius", radius, 0, 10)
        check_range("opacity", opacity, 0, 1)
        check_range("extent", (0, extent), 0, 10)
        check_range("wobble", (0, wobble), 0, 10)

        self.size = size
        self._most = segments[1]
        self._middle = (0.5 - extent / 2, 0.5 + extent / 2)
        self._radius, self._wobble, self._opacity = radius, (-wobble, wobble), opacity
        start = replace(clock, index=0)
        count = _uniform(start, "segments", (segments[0], segments[1] + 1), b, paths).floor()
        self.register_buffer("segments", count.clamp(max=self._most).long())
        self.register_buffer("background", torch.tensor(background))
        points, colours = self._draw(start, opacity)
        self.points, self.colours = nn.Parameter(points), nn.Parameter(colours)

    def _draw(
        self, clock: Clock, opacity: tuple[float, float]
    ) -> tuple[Float[Tensor, "points 2"], Float[Tensor, "b n 4"]]:
        """Points and colours of new paths with as many segments as those that there are, on the CPU."""
        count = self.segments.cpu()
        b, n = count.shape
        centre = _uniform(clock, "centre", self._middle, b, n, 1, 2)
        radius = _uniform(clock, "radius", self._radius, b, n, 1, 1)
        moves = _uniform(clock, "wobble", self._wobble, b, n, 3 * self._most, 2)
        points = centre + radius * (_circles(count, self._most) + moves)
        used = torch.arange(3 * self._most) < 3 * count[:, :, None]
        plain = _uniform(clock, "colour", (0, 1), b, n, 3)
        return points[used], torch.cat([plain, _uniform(clock, "opacity", opacity, b, n, 1)], 2)

    @torch.no_grad()
    def unused(self, opacity: float, area: float) -> Bool[Tensor, "b n"]:
        """Which paths are hardly seen: of less opacity, or with less area, in shares of the canvas.

        The area is that of the polygon of the control points, and of a figure of eight the lobes' difference.
        """
        sizes = 3 * self.segments.flatten()
        path = torch.repeat_interleave(sizes)
        ends = sizes.cumsum(0)
        after = torch.arange(1, len(path) + 1, device=path.device)
        after[ends - 1] = ends - sizes
        (x, y), (x2, y2) = self.points.T, self.points[after].T
        doubled = x.new_zeros(len(sizes)).index_add(0, path, x * y2 - x2 * y)
        return (self.colours[:, :, 3] < opacity) | (doubled.abs() / 2 < area).view_as(self.segments)

    @torch.no_grad()
    def renew_(
        self,
        paths: Bool[Tensor, "b n"],
        clock: Clock,
        optimizer: torch.optim.Adam,
        opacity: tuple[float, float] | None = None,
    ) -> None:
        """Draw these paths anew, as at the beginning but by the clock's present step, on top of all others.

        VectorFusion's (Jain et al. 2023, section 4.3), which it calls reinitialising. `opacity`: the range to
        draw from, if not that of the beginning. The optimizer has no momentum of the new paths, and of the
        second moments the mean of the member's: its steps are counted for all alike, and after many of them
        zeros would let the next ones be six learning rates long.
        """
        order = paths.byte().argsort(dim=1, stable=True)
        new = paths.gather(1, order)
        sizes = 3 * self.segments
        begins = (sizes.flatten().cumsum(0) - sizes.flatten()).view_as(sizes)
        self.segments.copy_(self.segments.gather(1, order))
        sizes = 3 * self.segments.flatten()
        shift = begins.gather(1, order).flatten() - (sizes.cumsum(0) - sizes)
        rows = torch.arange(len(self.points), device=order.device) + shift.repeat_interleave(sizes)
        points, colours = self._draw(clock, opacity or self._opacity)
        member = torch.arange(len(order), device=order.device)[:, None].expand_as(order)
        for parameter, values, where, fresh, of in (
            (self.points, points, rows, *(t.flatten().repeat_interleave(sizes) for t in (new, member))),
            (self.colours, colours, (member, order), new, member),
        ):
            parameter.copy_(parameter[where])
            parameter[fresh] = values.to(parameter)[fresh]
            for name, state in optimizer.state[parameter].items():
                if state.shape == parameter.shape:
                    state.copy_(state[where])
                    for i in range(len(order)):
                        usual = state[of == i].mean() if name == "exp_avg_sq" else 0.0
                        state[fresh & (of == i)] = usual

    def scene(self) -> Scene:
        """The drawings as a value that `rasterize` takes, connected to the parameters."""
        colours, opacity = self.colours[:, :, :3], self.colours[:, :, 3]
        segments = self.segments.flatten()
        return Scene(
            self.points,
            segments,
            torch.zeros_like(opacity),
            colours,
            opacity,
            self.background,
            closed=torch.ones_like(segments, dtype=torch.bool),
            filled=torch.ones_like(opacity, dtype=torch.bool),
        )

    def param_groups(self) -> list[ParamGroup]:
        """The two groups with CLIPDraw's learning rates, in units of the canvas and of colour."""
        return [
            {"name": "points", "params": [self.points], "lr": points_rate(self.size)},
            {"name": "colour", "params": [self.colours], "lr": 0.01},
        ]

    @torch.no_grad()
    def project_(self) -> None:
        """Clamps colours and opacity to [0, 1], in place."""
        self.colours.clamp_(0, 1)


def _uniform(clock: Clock, name: str, bounds: tuple[float, float], b: int, *shape: int) -> Tensor:
    low, high = bounds
    return low + (high - low) * clock.uniform(f"shapes/{name}", b, shape)


def _circles(count: Int[Tensor, "b n"], most: int) -> Float[Tensor, "b n points 2"]:
    """The control points of unit circles of `count` cubic segments each, and any numbers beyond those.

    A segment of the angle a has its handles at 4/3·tan(a/4) along the tangents.
    """
    turn = tau / count[:, :, None]
    corner = torch.arange(most) * turn
    ends = torch.stack([corner.cos(), corner.sin()], 3)
    along = torch.stack([-corner.sin(), corner.cos()], 3) * (4 / 3 * torch.tan(turn / 4))[:, :, :, None]
    after = corner + turn
    next_ends = torch.stack([after.cos(), after.sin()], 3)
    next_along = torch.stack([-after.sin(), after.cos()], 3) * (4 / 3 * torch.tan(turn / 4))[:, :, :, None]
    return torch.stack([ends, ends + along, next_ends - next_along], 3).flatten(2, 3)
