"""What pixels alone say of an image: noise, range, colours, symmetry, edges.

All are means over pixels, so that a weight means the same at every size; a negative weight asks for more.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.errors import InputError


def total_variation(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """The mean absolute difference of neighbouring pixels, in [0, 1]: noise costs, one sharp edge little.

    Anisotropic total variation (Rudin, Osher & Fatemi 1992) over the number of pairs. At least two pixels.
    """
    across, down = image.diff(dim=3).flatten(1), image.diff(dim=2).flatten(1)
    return torch.cat([across, down], 1).abs().mean(1)


def out_of_range(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """The mean squared distance of channels from [0, 1], for canvases and latents that do not clamp."""
    return (image - image.clamp(0, 1)).square().mean((1, 2, 3))


def saturation(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """The mean chroma, a pixel's largest channel minus its smallest: 0 for grey, 1 for the purest colours."""
    return (image.amax(1) - image.amin(1)).mean((1, 2))


class SymmetryLoss:
    """The mean squared difference of an image and its mirror image.

    "horizontal" mirrors left and right, "vertical" top and bottom. Raises InputError for another axis.
    """

    def __init__(self, axis: str = "horizontal") -> None:
        axes = {"horizontal": 3, "vertical": 2}
        if axis not in axes:
            raise InputError(f"axis must be horizontal or vertical, got {axis!r}")
        self.dim = axes[axis]

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return (image - image.flip(self.dim)).square().mean((1, 2, 3))


class PaletteLoss:
    """The mean squared distance of pixels, in sRGB, to the nearest of n given colours `[n, 3]` in [0, 1].

    Raises InputError for anything that is not such colours.
    """

    def __init__(self, colours: Float[Tensor, "n 3"]) -> None:
        if len(colours) == 0 or not ((colours >= 0) & (colours <= 1)).all():
            raise InputError(f"a palette is one colour or more, each in [0, 1], got {colours.tolist()}")
        self.colours = colours

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        pixels = image.flatten(2).mT
        # The quick mode multiplies matrices and is off by a thousandth near a colour.
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(pixels, self.colours.to(image), compute_mode=exact)
        return distances.square().amin(2).mean(1)


class EdgeLoss:
    """How far an image's edges are from those of a picture: its outlines come, its colours need not.

    The mean squared difference of edge strengths (`edges`) of every channel, averaged over three scales, each
    half of the one before: an edge that is off by a few pixels is still drawn to its place. The picture is
    stretched to the image's size.
    """

    def __init__(self, picture: Float[Tensor, "1 3 H W"]) -> None:
        self.picture = picture

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        size = image.shape[-2:]
        target = F.interpolate(self.picture.to(image), size, mode="bilinear", antialias=True)
        scales = []
        for _ in range(3):
            scales.append((edges(image) - edges(target)).square().mean((1, 2, 3)))
            image, target = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (image, target))
        return torch.stack(scales).mean(0)


def edges(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The strength of the edge at every pixel: the length of Sobel's gradient, 1 for a step from 0 to 1."""
    smooth, slope = image.new_tensor([1, 2, 1]) / 4, image.new_tensor([-1, 0, 1])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]
    flat = F.pad(image.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    gradients = F.conv2d(flat, kernels)
    # A length has no gradient at zero; this one is off by less than half an 8-bit step.
    lengths = (gradients.square().sum(1) + 1e-6).sqrt() - 1e-3
    return lengths.view_as(image)
