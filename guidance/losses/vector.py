"""What the geometry of a vector drawing says of it."""

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.canvas.base import VectorCanvas
from guidance.canvas.raster.scene import ranks


class XingLoss:
    """How much a canvas's cubics tend to cross themselves: LIVE's Xing loss (Ma et al. 2022, equation 6).

    A cubic A, B, C, D turns one way from AB to BC; if CD, seen from AB, points the other way, it is an S or
    on the way to a loop. The mean over a member's cubics of how far: the sine of the angle of AB and CD
    where its sign is not that of AB×BC, else 0. (LIVE's mean over each path's cubics, then over paths, is
    the same where paths have equally many.) The image is not looked at. VectorFusion's weight is 0.01.
    """

    def __init__(self, canvas: VectorCanvas) -> None:
        self.canvas = canvas

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        scene = self.canvas.scene()
        ab, bc, cd = scene.points[scene.corners].diff(dim=1).unbind(1)
        lengths = torch.linalg.vector_norm(ab, dim=1) * torch.linalg.vector_norm(cd, dim=1)
        # Far below a pixel's square; an arm of no length has no direction.
        sine = _cross(ab, cd) / (lengths + 1e-8)
        wrong = torch.where(_cross(ab, bc) > 0, -sine, sine).relu()
        contours, _ = ranks(scene.segments)
        b, n = scene.opacity.shape
        members = scene.owners[contours] // n
        sums = wrong.new_zeros(b).index_add(0, members, wrong)
        return sums / members.bincount(minlength=b)


def _cross(u: Float[Tensor, "k 2"], v: Float[Tensor, "k 2"]) -> Float[Tensor, " k"]:
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
