"""Closed filled shapes on a plain ground: diffvg's painterly blobs, without a compiler."""

from dataclasses import replace
from math import tau

import torch
from jaxtyping import Float, Int
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
        start = replace(clock, index=0)

        def draw(name: str, low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * start.uniform(f"shapes/{name}", b, shape)

        least, most = segments
        count = draw("segments", least, most + 1, paths).floor().clamp(max=most).long()
        centre = draw("centre", 0.5 - extent / 2, 0.5 + extent / 2, paths, 1, 2)
        size_of = draw("radius", *radius, paths, 1, 1)
        moves = draw("wobble", -wobble, wobble, paths, 3 * most, 2)
        points = centre + size_of * (_circles(count, most) + moves)
        used = torch.arange(3 * most) < 3 * count[:, :, None]
        self.points = nn.Parameter(points[used])
        self.colours = nn.Parameter(
            torch.cat([draw("colour", 0, 1, paths, 3), draw("opacity", *opacity, paths, 1)], 2)
        )
        self.register_buffer("segments", count)
        self.register_buffer("background", torch.tensor(background))

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
