"""Antialiased, differentiable views of images through homographies, one sampling a view."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

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
    What lies outside of the frame has the colour `fill`. `views` stays on the CPU.

    A view that shrinks the image by more than 2^(l-1) and up to 2^l is the mean of 2×2 bilinear samples a
    pixel of the image shrunk l-1 times by half: one level a view of a pyramid (Williams, Pyramidal
    Parametrics, 1983). One that does not shrink it takes one sample a pixel. For CLIPDraw's views of emoji at
    224 → 64 that is 38 dB from a dense supersampling, where one sample a pixel is 33 (28 and 14 dB on a zone
    plate); gathering by hand instead of grid_sample takes ten times as long.
    """
    k = views.shape[1]
    h, w = images.shape[2:]
    background = images.new_tensor(fill)[:, None, None]
    octaves = _octaves(views, h, w, size)
    # Outside is zero for the sampler.
    population = []
    for member, image in enumerate((images - background).unbind()):
        seen: dict[int, Tensor] = {}
        for octave in octaves[member].unique().tolist():
            chosen = (octaves[member] == octave).nonzero()[:, 0]
            shrink, samples = 2 ** max(octave - 1, 0), 2 if octave else 1
            shape = (max(1, round(h / shrink)), max(1, round(w / shrink)))
            shrunk = F.adaptive_avg_pool2d(image, shape) if shrink > 1 else image
            seen.update(
                zip(chosen.tolist(), _sample(shrunk, views[member, chosen], size, samples), strict=True)
            )
        population.append(torch.stack([seen[view] for view in range(k)]))
    return torch.stack(population) + background


def _octaves(views: Float64[Tensor, "b k 3 3"], h: int, w: int, size: int) -> Int64[Tensor, "b k"]:
    """By how many octaves, rounded up, each view shrinks what it shows of the frame; at least 0."""
    ticks = torch.linspace(-1, 1, 5, dtype=views.dtype)
    points = torch.cartesian_prod(ticks, ticks, torch.ones(1, dtype=views.dtype))
    x, y, z = (points @ views.mT).unbind(-1)
    inside = (x.abs() <= z) & (y.abs() <= z) & (z > _HORIZON)
    # The Jacobian's determinant of a homography H at a point is det(H) / z³.
    areas = torch.linalg.det(views).abs()[..., None] * (h * w / size**2) / z.clamp(min=_HORIZON) ** 3
    minification = (areas.sqrt() * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    # Rounding must not make two samples of one pixel, or four of two.
    return (minification.clamp(min=1).log2() - 1e-6).ceil().long()


def _sample(
    image: Float[Tensor, "3 h w"], views: Float64[Tensor, "n 3 3"], size: int, samples: int
) -> Float[Tensor, "n 3 s s"]:
    """Means of `samples`² bilinear samples a pixel, zero outside of the frame."""
    ticks = (torch.arange(size * samples, dtype=image.dtype, device=image.device) + 0.5) * 2
    ticks = (ticks / (size * samples) - 1).view(size, samples).T
    grids = [_grid(image, views, x, y) for y in ticks for x in ticks]
    # One batch entry for a sample, with all views below each other: grid_sample is parallel over its batch
    # only, its gradient copies the image for every entry, and a mean over entries is quicker than pooling.
    seen = F.grid_sample(
        image.expand(len(grids), -1, -1, -1), torch.stack(grids), align_corners=False, padding_mode="zeros"
    )
    return seen.mean(0).view(3, -1, size, size).transpose(0, 1)


def _grid(
    image: Float[Tensor, "3 h w"],
    views: Float64[Tensor, "n 3 3"],
    x: Float[Tensor, " s"],
    y: Float[Tensor, " s"],
) -> Float[Tensor, "n*s s 2"]:
    """Where in the frame the points (x, y) of views below each other are; 3 where that is outside."""
    across, down, origin = views.to(image)[..., None].unbind(2)
    # Planes of x, y and z, not triples: several times as quick.
    planes = (across * x)[:, :, None] + (down * y + origin)[..., None]
    frame = planes[:, :2] / planes[:, 2:].clamp(min=_HORIZON)
    # The frame ends at the edges of its outermost pixels, but the sampler's zeros begin at their centres.
    centres = 1 - 1 / frame.new_tensor([image.shape[2], image.shape[1]])[:, None, None]
    frame = torch.where(frame.abs() <= 1, frame.clamp(-centres, centres), 3.0)
    return frame.movedim(1, -1).flatten(0, 1)
