"""What holds a generator's latent near its beginning."""

from jaxtyping import Float
from torch import Tensor


class LatentLoss:
    """The mean squared distance of a latent from where it was when the loss was made, for each member.

    `latent` is the tensor that is optimised. The image is not looked at. StyleCLIP's L2 is a sum: its weight
    of 0.008 is 0.008 times the numbers of a latent here.
    """

    def __init__(self, latent: Float[Tensor, "b ..."]) -> None:
        self.latent = latent
        self.start = latent.detach().clone()

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return (self.latent - self.start).flatten(1).square().mean(1)
