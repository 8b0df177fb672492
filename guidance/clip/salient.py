"""Where a drawing of a picture should begin: where CLIP looks and there is an edge (CLIPasso)."""

from dataclasses import replace
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.clip.encoder import Clip
from guidance.clock import Clock
from guidance.errors import InputError


def relevance(clip: Clip, picture: Float[Tensor, "1 3 h w"], steps: int = 16) -> Float[Tensor, "h w"]:
    """How much each pixel turns white paper into what CLIP sees in the picture.

    Integrated gradients (Sundararajan et al. 2017) of the cosine with the picture's embedding, from white to
    the picture: they sum to the difference of the two cosines, up to the error of `steps` midpoints. CLIPasso
    averages the attention of a vision transformer's class token, which other towers do not have.
    """
    with torch.no_grad():
        target = clip.encode_image(picture)[0]
    total = torch.zeros_like(picture)
    for step in range(steps):
        mixed = 1 + (step + 0.5) / steps * (picture - 1)
        mixed.requires_grad_()
        total += torch.autograd.grad((clip.encode_image(mixed) @ target).sum(), mixed)[0]
    return ((picture - 1) * total / steps).sum((0, 1))


def outlines(picture: Float[Tensor, "1 3 h w"], *, broad: bool = False) -> Float[Tensor, "h w"]:
    """Lines along the dark side of edges, in [0, 1]: XDoG (Winnemöller et al. 2012, equation 5).

    Where, in any channel, a picture blurred by a narrow Gaussian is visibly darker than by a wide one. They
    have 1.2 and 1.9 pixels of 224, which gives lines of a pen; `broad`, CLIPasso's 0.8 and 8 pixels.
    """
    narrow, wide = (0.8, 8.0) if broad else (1.2, 1.9)
    pixel = max(picture.shape[2:]) / 224
    difference = (blur(picture, narrow * pixel) - blur(picture, wide * pixel)).amin((0, 1))
    return -torch.tanh(100 * (difference + 0.005)).clamp(max=0)


def salience(
    clip: Clip, picture: Float[Tensor, "1 3 h w"], lines: Float[Tensor, "h w"]
) -> Float[Tensor, "h w"]:
    """How good a place is for a stroke to begin: `relevance`, blurred and scaled to [0, 1], times lines."""
    # About a patch of ViT-B/32: gradients of single pixels are noise.
    smooth = blur(relevance(clip, picture)[None, None], max(picture.shape[2:]) / 16)[0, 0]
    low, high = smooth.aminmax()
    return (smooth - low) / (high - low).clamp(min=1e-12) * lines


def salient_places(
    salience: Float[Tensor, "h w"], n: int, clock: Clock, *, b: int = 1, temperature: float = 0.3
) -> Float[Tensor, "b n 2"]:
    """n places (x, y) of a map for each member, in units of its width, no pixel twice.

    Drawn by the softmax of the map where it is above zero; elsewhere only when nothing else is left. The
    places are those of the clock's step 0. CLIPasso's temperature is 0.3. Raises InputError when there are
    less than n pixels, or n is not positive.
    """
    flat = salience.flatten().double().cpu()
    if not 1 <= n <= len(flat):
        raise InputError(f"a map of {len(flat)} pixels has from 1 to as many places, got {n}")
    # Elsewhere not zero, so that a blank picture has places, too.
    chances = torch.where(flat > 0, torch.softmax(flat / temperature, 0), 1e-12)
    start, width = replace(clock, index=0), salience.shape[1]
    drawn = [torch.multinomial(chances, n, generator=start.generator("salience", i)) for i in range(b)]
    chosen = torch.stack(drawn)
    return (torch.stack([chosen % width, chosen // width], -1) + 0.5) / width


def blur(image: Float[Tensor, "b c h w"], sigma: float) -> Float[Tensor, "b c h w"]:
    """A Gaussian blur to four standard deviations, the edge pixels repeated outside."""
    reach = ceil(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2).to(image)
    kernel = kernel / kernel.sum()
    flat = F.pad(image.flatten(0, 1)[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel[None, None, None]), kernel[None, None, :, None]).view_as(image)
