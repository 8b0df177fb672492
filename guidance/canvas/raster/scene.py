"""What is drawn: a population of scenes of stroked paths, as a value that any backend can take over."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from guidance.canvas.raster.ragged import expand
from guidance.errors import InputError

#: Control points further out than this many canvases are a mistake, and their squares would overflow.
_FARTHEST = 1e4


@dataclass(frozen=True, eq=False)
class Scene:
    """A population of b scenes of n open paths each, stroked with round caps and joins, in painting order.

    A path of s cubic Bézier segments has 3s + 1 control points, of which neighbouring segments share one.
    `points` holds those of all paths one after another: member by member, path by path. The geometry is in
    units of the canvas: (0, 0) is its upper left corner, (1, 1) its lower right; paths may leave it.
    `segments` counts the cubics of every path, at least 1. `widths` are those of the whole stroke, as in SVG
    (not its radius), at least 0. `colours`, `opacity` and `background` are sRGB in [0, 1]. All tensors are on
    one device.

    Raises `InputError` for a wrong shape, a number that is not finite or a negative width.
    """

    points: Float[Tensor, "p 2"]
    segments: Int[Tensor, "b n"]
    widths: Float[Tensor, "b n"]
    colours: Float[Tensor, "b n 3"]
    opacity: Float[Tensor, "b n"]
    background: Float[Tensor, "3"]

    def __post_init__(self) -> None:
        if self.segments.ndim != 2 or self.segments.numel() == 0:
            raise InputError(
                f"segments must be [b, n] with at least one path, got {list(self.segments.shape)}"
            )
        if self.segments.is_floating_point() or self.segments.min() < 1:
            raise InputError("segments must be whole numbers of at least 1: a path has at least one cubic")
        shape = list(self.segments.shape)
        expected = {
            "points": [int((3 * self.segments + 1).sum()), 2],
            "widths": shape,
            "colours": [*shape, 3],
            "opacity": shape,
            "background": [3],
        }
        for name, want in expected.items():
            tensor: Tensor = getattr(self, name)
            if list(tensor.shape) != want:
                raise InputError(
                    f"{name} must have the shape {want} for these segments, got {list(tensor.shape)}"
                )
            if tensor.dtype != torch.float32:
                raise InputError(f"{name} must be float32, got {tensor.dtype}")
            if not tensor.isfinite().all():
                raise InputError(f"{name} must be finite, got nan or infinity")
        if self.widths.min() < 0:
            raise InputError(f"widths must be at least 0, got {self.widths.min().item():g}")
        if max(self.points.abs().max(), self.widths.max()) > _FARTHEST:
            raise InputError(
                f"points and widths must be below {_FARTHEST:g} canvases; scale the drawing down"
            )

    def member(self, i: int) -> "Scene":
        """One member of the population, a population of its own.

        Raises `InputError` for a member that there is not.
        """
        b = len(self.segments)
        if not 0 <= i < b:
            raise InputError(f"member must be from 0 to {b - 1} in a population of {b}, got {i}")
        points = self.points.split((3 * self.segments + 1).sum(1).tolist())[i]
        one = slice(i, i + 1)
        return Scene(
            points,
            self.segments[one],
            self.widths[one],
            self.colours[one],
            self.opacity[one],
            self.background,
        )

    @cached_property
    def corners(self) -> Int[Tensor, "c 4"]:
        """For every cubic, the rows of `points` that are its four control points."""
        owner = self.owners
        # Every path before this one has one control point more than three for each of its cubics.
        first = 3 * torch.arange(len(owner), device=owner.device) + owner
        return first[:, None] + torch.arange(4, device=owner.device)

    @cached_property
    def owners(self) -> Int[Tensor, "c"]:
        """For every cubic, the number of its path, counted through the population."""
        return expand(self.segments.flatten())[0]

    @cached_property
    def ends(self) -> Bool[Tensor, "c 2"]:
        """For every cubic, whether it is the first and whether it is the last of its path."""
        change = torch.ones(len(self.owners) + 1, dtype=torch.bool, device=self.owners.device)
        change[1:-1] = self.owners[1:] != self.owners[:-1]
        return torch.stack([change[:-1], change[1:]], 1)
