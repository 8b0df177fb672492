"""Open strokes on a plain ground: CLIPDraw's canvas."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from guidance.canvas.base import ParamGroup, VectorCanvas, points_rate
from guidance.canvas.checks import check_canvas, check_range
from guidance.canvas.raster import MAX_SIZE, Scene
from guidance.clock import Clock
from guidance.errors import InputError


class Strokes(VectorCanvas):
    """A population of b drawings of `paths` open Bézier strokes each, as CLIPDraw makes them (Frans et al.
    2021).

    A stroke starts anywhere in the middle `extent` of the canvas (1 is all of it) and has a number of cubic
    segments drawn from `segments`; each of its control points lies up to `reach`/2 of the canvas from the one
    before, both ways in x and in y. Colours are random; `width` (pixels at `size`) and `opacity` are ranges
    to draw from. `width_limits` (the same unit) is what `project_` keeps to. `background` is sRGB in [0, 1].

    `starts` are given places to start at, in units of the canvas, instead of `extent`. With `ink`, sRGB in
    [0, 1], all strokes have that colour, opaque, and only their points are parameters: a sketch.

    Three parameter groups, "points", "width" and "colour" (with opacity), have CLIPDraw's learning rates, all
    in pixels of `size` but colour's. Widths are those of SVG: CLIPDraw's are radii, so its 1 is 2 here, its
    0.1 is 0.2.

    The geometry is in units of the canvas, so that the drawing can be rendered at any size. The drawing
    begins as that of the clock's step 0 wherever the clock is, so that a resumed run builds the same canvas.

    Raises `InputError` for numbers out of their ranges; there are at most 100,000 paths and 4096 members.
    """

    points: nn.Parameter
    widths: Tensor  # parameters, but buffers of a sketch
    colours: Tensor
    segments: Int[Tensor, "b n"]
    background: Float[Tensor, "3"]

    def __init__(
        self,
        paths: int,
        size: int,
        clock: Clock,
        *,
        b: int = 1,
        segments: tuple[int, int] = (1, 3),
        extent: float = 1.0,
        reach: float = 0.1,
        width: tuple[float, float] = (2.0, 2.0),
        width_limits: tuple[float, float] = (2.0, 100.0),
        opacity: tuple[float, float] = (0.0, 1.0),
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
        starts: Float[Tensor, "b n 2"] | None = None,
        ink: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        check_canvas(paths, size, b, background)
        check_range("segments", segments, 1, 1000)
        check_range("width", width, 0, MAX_SIZE)
        check_range("width_limits", width_limits, 0, MAX_SIZE)
        check_range("opacity", opacity, 0, 1)
        for name, value in (("extent", extent), ("reach", reach)):
            if not 0 <= value <= 10:
                raise InputError(f"{name} must be from 0 to 10 canvases, got {value}")
        if starts is not None and starts.shape != (b, paths, 2):
            raise InputError(f"starts must be [{b}, {paths}, 2], got {list(starts.shape)}")
        if ink is not None and not all(0 <= channel <= 1 for channel in ink):
            raise InputError(f"ink must be three numbers in [0, 1], got {ink}")

        self.size = size
        self.width_limits = width_limits
        start = replace(clock, index=0)

        def draw(name: str, low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * start.uniform(f"strokes/{name}", b, shape)

        least, most = segments
        count = draw("segments", least, most + 1, paths).floor().clamp(max=most).long()
        first = draw("start", 0.5 - extent / 2, 0.5 + extent / 2, paths, 1, 2)
        if starts is not None:
            first = starts[:, :, None].to(first)
        moves = draw("moves", -reach / 2, reach / 2, paths, 3 * most, 2)
        chain = torch.cat([first, moves], 2).cumsum(2)
        used = torch.arange(3 * most + 1) <= 3 * count[:, :, None]
        self.points = nn.Parameter(chain[used])
        widths = draw("width", *width, paths) / size
        if ink is None:
            colours = torch.cat([draw("colour", 0, 1, paths, 3), draw("opacity", *opacity, paths, 1)], 2)
            self.widths, self.colours = nn.Parameter(widths), nn.Parameter(colours)
        else:
            self.register_buffer("widths", widths)
            self.register_buffer("colours", torch.tensor([*ink, 1.0]).expand(b, paths, 4).clone())
        self.register_buffer("segments", count)
        self.register_buffer("background", torch.tensor(background))
        self.project_()

    @classmethod
    def dabs(cls, paths: int, size: int, clock: Clock, *, b: int = 1) -> "Strokes":
        """Short broad strokes that begin nearly invisible: for a guide that was trained to draw.

        There (`tiny`) long thin strokes, or an opaque beginning, gave a tangle over the same colours.
        """
        return cls(
            paths,
            size,
            clock,
            b=b,
            segments=(1, 1),
            extent=0.9,
            reach=0.2,
            width=(size / 28, size / 8),
            width_limits=(size / 224, size / 4),
            opacity=(0.0, 0.1),
        )

    def scene(self) -> Scene:
        """The drawings as a value that `rasterize` takes, connected to the parameters."""
        colours, opacity = self.colours[:, :, :3], self.colours[:, :, 3]
        return Scene(self.points, self.segments.flatten(), self.widths, colours, opacity, self.background)

    def param_groups(self) -> list[ParamGroup]:
        """The groups with CLIPDraw's learning rates, in units of the canvas and of colour."""
        points: ParamGroup = {"name": "points", "params": [self.points], "lr": points_rate(self.size)}
        if not (isinstance(self.widths, nn.Parameter) and isinstance(self.colours, nn.Parameter)):
            return [points]
        return [
            points,
            {"name": "width", "params": [self.widths], "lr": 0.2 / self.size},
            {"name": "colour", "params": [self.colours], "lr": 0.01},
        ]

    @torch.no_grad()
    def project_(self) -> None:
        """Clamps widths to `width_limits`, colours and opacity to [0, 1], in place."""
        least, most = self.width_limits
        self.widths.clamp_(least / self.size, most / self.size)
        self.colours.clamp_(0, 1)
