"""What every canvas is: parameters that render to an image."""

from abc import ABC, abstractmethod
from typing import TypedDict

from jaxtyping import Float
from torch import Tensor, nn

from guidance.canvas.raster import Scene, rasterize
from guidance.canvas.svg import to_svg
from guidance.clock import Schedule, at, piecewise


class ParamGroup(TypedDict):
    """One kind of parameter with a learning rate of its own, a number or a function of progress."""

    name: str
    params: list[nn.Parameter]
    lr: Schedule


def points_rate(size: int) -> Schedule:
    """CLIPDraw's learning rate of points, 1 pixel and later less, in units of a canvas of `size` pixels."""
    steps = piecewise({0: 1.0, 0.5: 0.4, 0.75: 0.1})
    return lambda progress: at(steps, progress) / size


class Canvas(nn.Module, ABC):
    """An image with parameters to optimise; a population of b independent images in one module.

    State is plain `state_dict()`: a canvas built with the same arguments that loads it renders the identical
    image.
    """

    @abstractmethod
    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The image, float32 sRGB in [0, 1]."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The parameters, each in exactly one group."""

    def project_(self) -> None:
        """Clamp the parameters to valid values, in place, after a step."""


class VectorCanvas(Canvas):
    """A canvas of paths in units of its width, so that it renders at any size and is an SVG.

    `size` is the canvas's own, in pixels a side.
    """

    size: int

    @abstractmethod
    def scene(self) -> Scene:
        """The drawings as a value that `rasterize` takes, connected to the parameters."""

    def forward(self, size: int | None = None, member: int | None = None) -> Float[Tensor, "b 3 h w"]:
        """The drawings, or that of one `member`, at the canvas's own size or at `size` pixels a side.

        Float32 sRGB in [0, 1].
        """
        scene = self.scene() if member is None else self.scene().member(member)
        return rasterize(scene, self.size if size is None else size)

    def svg(self, member: int = 0, title: str | None = None, metadata: str | None = None) -> str:
        """One drawing as an SVG document of the canvas's own size, which any viewer shows like our picture.

        `title` is free text, such as the prompt; `metadata` is XML for the element of that name.
        """
        return to_svg(self.scene(), self.size, member=member, title=title, metadata=metadata)
