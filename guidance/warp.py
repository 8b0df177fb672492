"""Antialiased, differentiable views of images through homographies, one sampling a view."""

from collections.abc import Sequence
from math import log2

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

#: Samples a side of a view's pixel.
_SAMPLES = 2
#: Slices of an image's views that are sampled in parallel: a constant, so that the order in which gradients
#: are summed, hence their last bit, does not depend on the machine's number of cores.
_SLICES = 4
#: Smallest homogeneous coordinate: what is behind the horizon of an extreme perspective falls outside of the
#: frame.
_HORIZON = 1e-3


def warp(
    images: Float[Tensor, "b 3 h w"],
    views: Float64[Tensor, "b k 3 3"],
    size: int,
    fill: Sequence[float] = (1.0, 1.0, 1.0),
) -> Float[Tensor, "b k 3 {size} {size}"]:
    """Every image seen through its k homographies, differentiable to the images.

    A homography takes a view's square [-1, 1]² to the image's frame [-1, 1]² (edge to edge, x right, y down).
    What lies outside of the frame has the colour `fill`. `views` stays on the CPU. A pixel is the mean of 2×2
    bilinear samples of the image shrunk by the power of two below the view's mean minification: one level a
    view of a pyramid (Williams, Pyramidal Parametrics, 1983). On emoji at 224 → 64 that is 39 dB from a dense
    supersampling; one sample a pixel with levels of half an octave gives 30-35 dB, without levels 32 dB.
    """
    b, k = views.shape[:2]
    h, w = images.shape[2:]
    background = images.new_tensor(fill)[:, None, None]
    levels = _levels(views, h, w, size)
    # The sampler's outside is zero. Views of one level share one image, so k of them do not need k copies of
    # it.
    seen, order = [], []
    for member, image in enumerate((images - background).unbind()):
        for level in levels[member].unique().tolist():
            chosen = (levels[member] == level).nonzero()[:, 0]
            shrunk = (
                F.adaptive_avg_pool2d(image, (round(h / 2**level), round(w / 2**level))) if level else image
            )
            seen.append(_sample(shrunk, views[member, chosen], size))
            order.append(member * k + chosen)
    back = torch.cat(order).argsort().to(images.device)
    return (torch.cat(seen).index_select(0, back) + background).view(b, k, 3, size, size)


def _levels(views: Float64[Tensor, "b k 3 3"], h: int, w: int, size: int) -> Int64[Tensor, "b k"]:
    """How often to halve the image for each view: the whole octaves of its mean minification inside of the
    frame."""
    ticks = torch.linspace(-1, 1, 5, dtype=views.dtype)
    points = torch.cartesian_prod(ticks, ticks, torch.ones(1, dtype=views.dtype))
    x, y, z = (points @ views.mT).unbind(-1)
    inside = (x.abs() <= z) & (y.abs() <= z) & (z > _HORIZON)
    # The Jacobian's determinant of a homography H at a point is det(H) / z³.
    areas = torch.linalg.det(views).abs()[..., None] * (h * w / size**2) / z.clamp(min=_HORIZON) ** 3
    minification = (areas.sqrt() * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    return minification.clamp(min=1).log2().floor().long().clamp(max=int(log2(min(h, w))))


def _sample(
    image: Float[Tensor, "3 h w"], views: Float64[Tensor, "n 3 3"], size: int
) -> Float[Tensor, "n 3 s s"]:
    side = size * _SAMPLES
    ticks = (torch.arange(side, dtype=image.dtype, device=image.device) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    x, y, z = (views.to(image) @ points).unbind(1)
    grid = torch.stack([x, y], -1) / z.clamp(min=_HORIZON)[..., None]
    # All views of the image as one tall one: grid_sample runs in parallel over its batch only, and its
    # gradient makes a copy of the image for every entry of the batch.
    slices = _SLICES if size % _SLICES == 0 else 1
    tall = F.grid_sample(
        image.expand(slices, -1, -1, -1),
        grid.view(slices, -1, side, 2),
        align_corners=False,
        padding_mode="zeros",
    )
    return F.avg_pool2d(tall, _SAMPLES).transpose(0, 1).reshape(3, -1, size, size).transpose(0, 1)
