"""Latents of a frozen generator: what it cannot make is not drawn."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Schedule
from guidance.errors import InputError


class Latents(Canvas):
    """A population of b latents, rendered by a frozen generator: an autoencoder's decoder, a GAN.

    `start` is what they begin as: noise, such as `clock.normal("latents", b, shape)`, or what an encoder made
    of a picture. `decode` takes latents to images in [0, 1]; it is a function, since the weights of a module
    that is held here would become parameters and state of the canvas. A latent may have any shape: a grid of
    an autoencoder, z or w of a GAN. `lr` is its learning rate; 0.1 is that of VQGAN-CLIP, big-sleep (0.07)
    and StyleCLIP, all with Adam.

    What keeps latents where the generator is good, after every step: `bounds`, the least and the greatest
    numbers, broadcast to a latent (VQGAN-CLIP's range of the codebook); `sphere`, the length √n that nearly
    all standard normal latents of n numbers have, for a GAN's z. An L2 to the start is `LatentLoss`.

    `checkpointed` decodes a second time in the backward pass and keeps nothing in between (Chen et al. 2016):
    a third more time, and a fraction of the memory.

    Raises `InputError` for both priors at once, or for an empty range.
    """

    latents: nn.Parameter
    least: Tensor
    greatest: Tensor

    def __init__(
        self,
        decode: Callable[[Float[Tensor, "b ..."]], Float[Tensor, "b 3 h w"]],
        start: Float[Tensor, "b ..."],
        *,
        lr: Schedule = 0.1,
        bounds: tuple[float | Tensor, float | Tensor] | None = None,
        sphere: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(decode, nn.Module):
            raise InputError("decode must be a function, got a module; give a function that calls it")
        if sphere and bounds is not None:
            raise InputError("latents are kept in bounds or on a sphere; give one of the two")
        least, greatest = (torch.as_tensor(bound) for bound in bounds or (-torch.inf, torch.inf))
        if not (least < greatest).all():
            raise InputError("bounds must be (least, greatest) with least < greatest")
        self.decode = decode
        self.lr = lr
        self.sphere = sphere
        self.checkpointed = checkpointed
        self.latents = nn.Parameter(start.detach().clone())
        self.register_buffer("least", least.to(self.latents), persistent=False)
        self.register_buffer("greatest", greatest.to(self.latents), persistent=False)
        self.project_()

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The images, float32 sRGB in [0, 1], as large as the generator makes them."""
        if self.checkpointed:
            return checkpoint(self.decode, self.latents, use_reentrant=False)
        return self.decode(self.latents)

    def param_groups(self) -> list[ParamGroup]:
        """One group, "latents"."""
        return [{"name": "latents", "params": [self.latents], "lr": self.lr}]

    @torch.no_grad()
    def project_(self) -> None:
        """Puts the latents into their bounds or onto their sphere, in place."""
        if self.sphere:
            numbers = self.latents.flatten(1)
            length = numbers.norm(dim=1) / numbers.shape[1] ** 0.5
            self.latents.div_(length.view(-1, *[1] * (self.latents.ndim - 1)))
        else:
            self.latents.clamp_(self.least, self.greatest)
