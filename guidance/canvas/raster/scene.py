"""What is drawn: a population of scenes of filled and stroked paths, as a value that any backend can take."""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.errors import InputError

#: Control points further out than this many canvases are a mistake, and their squares would overflow.
_FARTHEST = 1e4

#: More segments of a contour or contours of a path would not fit into memory; their sums must not overflow.
_MOST = 2**31


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients that paint g of a population's paths, instead of a colour.

    `paths` are the numbers of those paths, i·n + j for path j of member i, ascending. `transforms` take a
    point of the canvas, as the column (x, y, 1), to (u, v): a linear gradient runs with u, a radial one with
    the distance √(u² + v²), both from 0 to 1 and constant beyond. `offsets`, ascending, are where in [0, 1]
    the s stops lie, `colours` their sRGB and opacity in [0, 1]; a gradient with fewer stops repeats its last.
    Between stops colour and opacity are interpolated on their own, as SVG has it.
    """

    paths: Int[Tensor, "g"]
    radial: Bool[Tensor, "g"]
    transforms: Float[Tensor, "g 2 3"]
    offsets: Float[Tensor, "g s"]
    colours: Float[Tensor, "g s 4"]


@dataclass(frozen=True, eq=False)
class Scene:
    """A population of b scenes of n paths each, in painting order.

    Geometry is in units of the canvas's width: (0, 0) is the upper left corner, (1, h/w) the lower right one;
    paths may leave the canvas. A path is stroked, with round caps and joins, or filled; what is both is two
    paths with the same points. It is made of one contour or more, a contour of cubic Bézier segments, of
    which neighbours share a control point: s of them have 3s + 1 points, or 3s if the contour is closed, its
    last segment ending in its first point. (`cubics` makes cubics of lines and quadratics.) Filling closes
    open contours by a line, as in SVG.

    `points` holds the control points of all contours one after another: member by member, path by path.
    `segments` are the numbers of cubics of the contours, at least 1. `widths` are those of the whole stroke,
    as in SVG (not its radius), at least 0: one a path, or one for each control point, between which the width
    runs as the curve does; filled paths ignore theirs. `colours`, `opacity` and `background` are sRGB and
    alpha in [0, 1]; without a background the picture is transparent. By default every path has one contour,
    contours are open, paths are stroked, and fills obey the nonzero rule. All tensors are on one device.

    Raises `InputError` for what is no tensor, for tensors on several devices, a wrong shape, a number that is
    not finite or a negative width.
    """

    points: Float[Tensor, "p 2"]
    segments: Int[Tensor, "c"]
    widths: Float[Tensor, "b n"] | Float[Tensor, "p"]
    colours: Float[Tensor, "b n 3"]
    opacity: Float[Tensor, "b n"]
    background: Float[Tensor, "3"] | None
    contours: Int[Tensor, "b n"] | None = None  # how many each path has
    closed: Bool[Tensor, "c"] | None = None
    filled: Bool[Tensor, "b n"] | None = None
    even_odd: Bool[Tensor, "b n"] | None = None
    gradients: Gradients | None = None

    def __post_init__(self) -> None:
        _check_tensors(self)
        if self.opacity.ndim != 2 or self.opacity.numel() == 0:
            raise InputError(f"opacity must be [b, n] with at least one path, got {list(self.opacity.shape)}")
        shape = list(self.opacity.shape)
        contours = [self.opacity.numel()]
        if self.contours is not None:
            _check_counts("contours", self.contours, shape)
            contours = [int(self.contours.sum())]
        _check_counts("segments", self.segments, contours)
        _check_flags("closed", self.closed, contours)
        _check_flags("filled", self.filled, shape)
        _check_flags("even_odd", self.even_odd, shape)
        rows = int(self.sizes.sum())
        along = self.widths.ndim == 1
        _check_numbers("points", self.points, [rows, 2])
        _check_numbers("widths", self.widths, [rows] if along else shape)
        _check_numbers("colours", self.colours, [*shape, 3])
        _check_numbers("opacity", self.opacity, shape)
        if self.background is not None:
            _check_numbers("background", self.background, [3])
        if self.widths.min() < 0:
            raise InputError(f"widths must be at least 0, got {self.widths.min().item():g}")
        if max(self.points.abs().max(), self.widths.max()) > _FARTHEST:
            raise InputError(
                f"points and widths must be below {_FARTHEST:g} canvases; scale the drawing down"
            )
        if self.gradients is not None:
            _check_gradients(self.gradients, self.opacity.numel())

    @property
    def sizes(self) -> Int[Tensor, "c"]:
        """How many control points every contour has."""
        sizes = 3 * self.segments + 1
        return sizes if self.closed is None else sizes - self.closed.to(sizes.dtype)

    @cached_property
    def owners(self) -> Int[Tensor, "c"]:
        """For every contour, the number of its path, counted through the population."""
        numbers = torch.arange(self.opacity.numel(), device=self.segments.device)
        return numbers if self.contours is None else ranks(self.contours.flatten())[0]

    @cached_property
    def corners(self) -> Int[Tensor, "k 4"]:
        """For every cubic, the rows of `points` that are its four control points."""
        contour, rank = ranks(self.segments)
        first = (self.sizes.cumsum(0) - self.sizes)[contour]
        rows = 3 * rank[:, None] + torch.arange(4, device=first.device)
        if self.closed is not None:
            whole = (3 * self.segments)[contour, None]
            rows = torch.where(self.closed[contour, None] & (rows == whole), 0, rows)
        return first[:, None] + rows

    def member(self, i: int) -> "Scene":
        """One member of the population, a population of its own.

        Raises `InputError` for a member that there is not.
        """
        b, n = self.opacity.shape
        if not 0 <= i < b:
            raise InputError(f"member must be from 0 to {b - 1} in a population of {b}, got {i}")
        if b == 1:
            return self
        one = slice(i, i + 1)
        ours = self.owners.div(n, rounding_mode="floor") == i
        rows = ours.repeat_interleave(self.sizes)
        gradients = self.gradients
        if gradients is not None:
            of = gradients.paths.div(n, rounding_mode="floor") == i
            gradients = Gradients(
                gradients.paths[of] - i * n,
                gradients.radial[of],
                gradients.transforms[of],
                gradients.offsets[of],
                gradients.colours[of],
            )
            gradients = gradients if of.any() else None
        return Scene(
            points=self.points[rows],
            segments=self.segments[ours],
            widths=self.widths[rows] if self.widths.ndim == 1 else self.widths[one],
            colours=self.colours[one],
            opacity=self.opacity[one],
            background=self.background,
            contours=None if self.contours is None else self.contours[one],
            closed=None if self.closed is None else self.closed[ours],
            filled=None if self.filled is None else self.filled[one],
            even_odd=None if self.even_odd is None else self.even_odd[one],
            gradients=gradients,
        )


def cubics(points: Float[Tensor, "... corners 2"], degree: int) -> Float[Tensor, "... 4 2"]:
    """The control points of the cubics that are the same curves as Bézier segments of a lower degree.

    `points` are the `degree` + 1 control points of each: of lines (1), quadratics (2) or cubics (3).
    Differentiable. Raises `InputError` for another degree.
    """
    if degree not in (1, 2, 3) or points.shape[-2] != degree + 1:
        raise InputError(
            f"degree must be 1, 2 or 3 with degree + 1 points, got {degree} with {points.shape[-2]}"
        )
    first, last = points[..., 0, :], points[..., -1, :]
    if degree == 1:
        return torch.stack([first, torch.lerp(first, last, 1 / 3), torch.lerp(first, last, 2 / 3), last], -2)
    if degree == 2:
        middle = points[..., 1, :]
        return torch.stack(
            [first, torch.lerp(first, middle, 2 / 3), torch.lerp(last, middle, 2 / 3), last], -2
        )
    return points


def ranks(counts: Int[Tensor, "g"]) -> tuple[Int[Tensor, "i"], Int[Tensor, "i"]]:
    """Lists `counts[g]` items for every group g: the group of every item, and its rank in the group."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    # An item belongs to the group whose number is how many groups end before it. (On CPU `repeat_interleave`
    # wakes all threads for a handful of numbers, and on a busy machine waits long for the slowest.)
    group = torch.bincount(ends, minlength=total + 1)[:total].cumsum(0)
    return group, torch.arange(total, device=counts.device) - (ends - counts).index_select(0, group)


def _check_tensors(scene: Scene) -> None:
    """All else is checked by asking tensors, together."""
    if not isinstance(scene.gradients, Gradients | None):
        raise InputError(f"gradients must be a guidance.Gradients, got {type(scene.gradients).__name__}")
    parts = {field.name: getattr(scene, field.name) for field in fields(scene)}
    gradients = parts.pop("gradients")
    if gradients is not None:
        parts |= {f"gradients.{field.name}": getattr(gradients, field.name) for field in fields(gradients)}
    optional = {field.name for field in fields(scene) if field.default is None} | {"background"}
    for name, part in parts.items():
        if part is None and name in optional:
            continue
        if not isinstance(part, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(part).__name__}; torch.as_tensor makes one")
        if part.device != scene.points.device:
            raise InputError(
                f"{name} must be on the device of points, {scene.points.device}, got {part.device}"
            )


def _check_counts(name: str, counts: Tensor, shape: list[int]) -> None:
    if list(counts.shape) != shape:
        raise InputError(f"{name} must have the shape {shape}, got {list(counts.shape)}")
    if counts.dtype != torch.int64:
        raise InputError(f"{name} must be int64, got {counts.dtype}")
    if counts.min() < 1 or counts.max() > _MOST:
        raise InputError(f"{name} must be from 1 to {_MOST}, got {counts.min()} to {counts.max()}")


def _check_flags(name: str, flags: Tensor | None, shape: list[int]) -> None:
    if flags is not None and (list(flags.shape) != shape or flags.dtype != torch.bool):
        raise InputError(
            f"{name} must be booleans of the shape {shape}, got {flags.dtype} {list(flags.shape)}"
        )


def _check_numbers(name: str, tensor: Tensor, shape: list[int]) -> None:
    if list(tensor.shape) != shape:
        raise InputError(f"{name} must have the shape {shape} for these paths, got {list(tensor.shape)}")
    if tensor.dtype != torch.float32:
        raise InputError(f"{name} must be float32, got {tensor.dtype}")
    if not tensor.isfinite().all():
        raise InputError(f"{name} must be finite, got nan or infinity")


def _check_gradients(gradients: Gradients, paths: int) -> None:
    numbers = gradients.paths
    if numbers.ndim != 1 or gradients.offsets.ndim != 2 or 0 in gradients.offsets.shape or len(numbers) == 0:
        raise InputError("gradients must have at least one path and at least one stop, or be None")
    g, s = len(numbers), gradients.offsets.shape[1]
    if numbers.dtype != torch.int64 or numbers.min() < 0 or numbers.max() >= paths:
        raise InputError(f"the paths of gradients must be numbers from 0 to {paths - 1}, as int64")
    if (numbers[1:] <= numbers[:-1]).any():
        raise InputError("the paths of gradients must be ascending, each once")
    _check_flags("radial", gradients.radial, [g])
    _check_numbers("transforms", gradients.transforms, [g, 2, 3])
    _check_numbers("offsets", gradients.offsets, [g, s])
    _check_numbers("the colours of gradients", gradients.colours, [g, s, 4])
    if (gradients.offsets[:, 1:] < gradients.offsets[:, :-1]).any():
        raise InputError("the offsets of a gradient's stops must be ascending")
