"""A finished drawing as a canvas: an artist's SVG, or one of ours, to go on from."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from guidance.canvas.base import ParamGroup, VectorCanvas, points_rate
from guidance.canvas.checks import check_canvas
from guidance.canvas.raster import Gradients, Scene
from guidance.errors import InputError


class Drawing(VectorCanvas):
    """The paths of a scene, such as `read_svg` gives, as parameters: points, widths and colours, and the
    colours of gradients.

    `aspect` is the scene's height over its width; one that is not square is put into the middle of the square
    canvas. The learning rates are those of `Strokes`; strokes get no thinner than a thousandth of the canvas.
    What cannot be differentiated stays as it is: which paths are closed or filled, the fill rule. A scene
    without a background is drawn on white.

    Raises `InputError` for a size or an aspect out of range.
    """

    points: nn.Parameter
    colours: nn.Parameter
    widths: Tensor
    stops: Tensor | None
    background: Tensor
    segments: Tensor
    contours: Tensor | None
    closed: Tensor | None
    filled: Tensor | None
    even_odd: Tensor | None
    gradient_paths: Tensor
    gradient_radial: Tensor
    gradient_transforms: Tensor
    gradient_offsets: Tensor

    def __init__(self, scene: Scene, size: int, *, aspect: float = 1.0) -> None:
        super().__init__()
        b, n = scene.opacity.shape
        check_canvas(n, size, b, (1.0, 1.0, 1.0))
        if not 0.01 <= aspect <= 100:
            raise InputError(f"aspect must be from 0.01 to 100, got {aspect}")
        self.size = size
        scene = _squared(scene, aspect)
        gradients = scene.gradients

        self.points = nn.Parameter(_own(scene.points))
        self.colours = nn.Parameter(_own(torch.cat([scene.colours, scene.opacity[:, :, None]], 2)))
        stroked = scene.filled is None or not bool(scene.filled.all())
        if stroked:
            self.widths = nn.Parameter(_own(scene.widths))
        else:
            self.register_buffer("widths", _own(scene.widths))
        if gradients is not None:
            self.stops = nn.Parameter(_own(gradients.colours))
        else:
            self.register_buffer("stops", None)
        ground = torch.ones(3) if scene.background is None else _own(scene.background)
        self.register_buffer("background", ground)
        # The rest in buffers, so that it moves to another device with the canvas.
        for name in ("segments", "contours", "closed", "filled", "even_odd"):
            values = getattr(scene, name)
            self.register_buffer(name, None if values is None else _own(values))
        for name in ("paths", "radial", "transforms", "offsets"):
            self.register_buffer(
                f"gradient_{name}", None if gradients is None else _own(getattr(gradients, name))
            )

    def scene(self) -> Scene:
        """The drawing as a value that `rasterize` takes, connected to the parameters."""
        gradients = None
        if self.stops is not None:
            gradients = Gradients(
                self.gradient_paths,
                self.gradient_radial,
                self.gradient_transforms,
                self.gradient_offsets,
                self.stops,
            )
        return Scene(
            self.points,
            self.segments,
            self.widths,
            self.colours[:, :, :3],
            self.colours[:, :, 3],
            self.background,
            contours=self.contours,
            closed=self.closed,
            filled=self.filled,
            even_odd=self.even_odd,
            gradients=gradients,
        )

    def param_groups(self) -> list[ParamGroup]:
        """The groups with CLIPDraw's learning rates, in units of the canvas and of colour."""
        colours = [self.colours] + ([self.stops] if isinstance(self.stops, nn.Parameter) else [])
        groups: list[ParamGroup] = [
            {"name": "points", "params": [self.points], "lr": points_rate(self.size)},
            {"name": "colour", "params": colours, "lr": 0.01},
        ]
        if isinstance(self.widths, nn.Parameter):
            groups.append({"name": "width", "params": [self.widths], "lr": 0.2 / self.size})
        return groups

    @torch.no_grad()
    def project_(self) -> None:
        """Clamps colours and opacity to [0, 1] and the widths of strokes from below, in place."""
        self.colours.clamp_(0, 1)
        if self.stops is not None:
            self.stops.clamp_(0, 1)
        if isinstance(self.widths, nn.Parameter):
            self.widths.clamp_(min=1e-3)


def _own(values: Tensor) -> Tensor:
    """A copy that shares no memory with the scene."""
    return values.detach().clone()


def _squared(scene: Scene, aspect: float) -> Scene:
    """The scene in the middle of a square."""
    scale = min(1.0, 1 / aspect)
    move = torch.tensor([(1 - scale) / 2, (1 - scale * aspect) / 2])
    gradients = scene.gradients
    if gradients is not None:
        matrix, shift = gradients.transforms[:, :, :2] / scale, gradients.transforms[:, :, 2]
        gradients = replace(gradients, transforms=torch.cat([matrix, (shift - matrix @ move)[:, :, None]], 2))
    return replace(
        scene, points=scene.points * scale + move, widths=scene.widths * scale, gradients=gradients
    )
