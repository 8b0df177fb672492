"""The colours of gradients at pixels: linear and radial, as SVG has them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from guidance.canvas.raster.scene import Gradients


def gradient_colours(
    gradients: Gradients, which: Int[Tensor, "f"], points: Float[Tensor, "f 2"]
) -> Float[Tensor, "f 4"]:
    """The sRGB and opacity of gradient `which` at points in units of the canvas's width; differentiable."""
    transform = gradients.transforms[which]
    # No matrix product: autocast would have it in half precision.
    u, v = (transform[:, :, :2] * points[:, None]).sum(2).add(transform[:, :, 2]).unbind(1)
    # The root has no slope at the centre of a circle.
    squared = u * u + v * v
    far = squared > 1e-12
    distance = torch.where(far, torch.where(far, squared, 1).sqrt(), 0)
    t = torch.where(gradients.radial[which], distance, u)[:, None]
    offsets, colours = gradients.offsets[which], gradients.colours[which]
    s = offsets.shape[1]
    # The last stop that is not after t; before the first and after the last the colour is constant.
    below = (offsets <= t).sum(1, keepdim=True) - 1
    low, high = below.clamp(min=0), (below + 1).clamp(max=s - 1)
    start, stop = offsets.gather(1, low), offsets.gather(1, high)
    width = stop - start
    inside = (below >= 0) & (width > 0)
    share = torch.where(inside, (t - start) / torch.where(inside, width, 1), 0).clamp(0, 1)
    a = colours.gather(1, low[:, :, None].expand(-1, -1, 4))[:, 0]
    b = colours.gather(1, high[:, :, None].expand(-1, -1, 4))[:, 0]
    return torch.lerp(a, b, share)
