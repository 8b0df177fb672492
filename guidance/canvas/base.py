"""What every canvas is: parameters that render to an image."""

from abc import ABC, abstractmethod
from typing import TypedDict

from jaxtyping import Float
from torch import Tensor, nn

from guidance.clock import Schedule


class ParamGroup(TypedDict):
    """One kind of parameter with a learning rate of its own, a number or a function of progress."""

    name: str
    params: list[nn.Parameter]
    lr: Schedule


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
    """A canvas of shapes: it renders at any size and is an SVG."""

    @abstractmethod
    def forward(self, size: int | None = None, member: int | None = None) -> Float[Tensor, "b 3 h w"]:
        """The image, float32 sRGB in [0, 1], at the canvas's own size or at `size` pixels a side.

        Of the whole population, or of one `member` of it.
        """

    @abstractmethod
    def svg(self, member: int = 0, title: str | None = None) -> str:
        """One member of the population as an SVG document that any viewer shows like our own picture.

        `title` is free text, such as the prompt.
        """
