"""StyleGAN2's generator (Karras et al. 2020) in plain PyTorch, under the names of rosinality's weights.

A latent z becomes a w by the mapping network; each layer takes a w of its own (together W+) and makes of it
its style, one factor for each channel that it reads (together StyleSpace, Wu et al. 2021); the styles make
the image. All three can be edited. Noise is the file's own and fixed, so that one latent is one image.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from guidance.clock import Clock
from guidance.errors import InputError

#: Styles of all layers in the order of `Generator.layers`, each `[b, channels that the layer reads]`.
Styles = list[Tensor]

#: More latents at once are taken for a mistake.
MAX_DRAWS = 10_000
#: The mapping network learns at a hundredth of the others' rate.
MAPPING_RATE = 0.01


def normalize(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Vectors at the length √d."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


class EqualLinear(nn.Module):
    """A linear layer whose weights are kept at unit variance and scaled when used (Karras et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate = rate

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        scale = self.rate / sqrt(self.weight.shape[1])
        return functional.linear(x, self.weight * scale, self.bias * self.rate)


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] in both directions, of gain 4: for pictures with zeros between their pixels."""

    kernel: Float[Tensor, "4 4"]

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", line[:, None] * line / 16)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h-1 w-1"]:
        return functional.conv2d(x, self._kernels(x).flip(2, 3), padding=1, groups=x.shape[1])

    def upsample(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Twice as large: zeros between the pixels, then the filter."""
        return functional.conv_transpose2d(x, self._kernels(x), stride=2, padding=1, groups=x.shape[1])

    def _kernels(self, x: Tensor) -> Float[Tensor, "c 1 4 4"]:
        return self.kernel.expand(x.shape[1], 1, 4, 4)


class ModulatedConv(nn.Module):
    """A convolution whose weights are multiplied by a style for each input channel; output channels are
    divided by what that does to their variance (demodulation, section 2.2 of the paper).

    Computed by scaling what goes in and what comes out, so that the weights are shared by the batch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        up: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.blur = Blur() if up else None
        self.demodulate = demodulate

    def forward(self, x: Float[Tensor, "b i h w"], style: Float[Tensor, "b i"]) -> Float[Tensor, "b o H W"]:
        weight = self.weight[0] / sqrt(self.weight[0, 0].numel())
        x = x * style[:, :, None, None]
        if self.blur is None:
            out = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            out = self.blur(functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not self.demodulate:
            return out
        variance = style.square() @ weight.square().sum((2, 3)).T
        return out * (variance + 1e-8).rsqrt()[:, :, None, None]


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Activation(nn.Module):
    """Noise and bias, leaky ReLU, and a gain that keeps the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "1 h w"]) -> Float[Tensor, "b c h w"]:
        # The two small things are added to each other first: one pass less over the large one.
        return functional.leaky_relu(x + (noise + self.bias[:, None, None]), 0.2) * sqrt(2)


class StyledConv(nn.Module):
    """A modulated 3×3 convolution with noise and activation; one with `up` doubles the size."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, up=up)
        self.noise = Noise()
        self.activate = Activation(outputs)

    def forward(
        self, x: Float[Tensor, "b i h w"], style: Float[Tensor, "b i"], noise: Float[Tensor, "1 1 H W"]
    ) -> Float[Tensor, "b o H W"]:
        return self.activate(self.conv(x, style), self.noise.weight * noise[0])


class ToRGB(nn.Module):
    """What a resolution adds to the picture, over the enlarged sum of those before."""

    def __init__(self, inputs: int, style_dim: int, *, up: bool = True) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Blur() if up else None

    def forward(
        self,
        x: Float[Tensor, "b i h w"],
        style: Float[Tensor, "b i"],
        before: Float[Tensor, "b 3 _ _"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        out = self.conv(x, style) + self.bias
        return out if before is None or self.upsample is None else out + self.upsample.upsample(before)


class Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, channels, 4, 4))


class Generator(nn.Module):
    """z or w or styles to images.

    `channels` are the widths at 4, 8, 16, ... pixels: as many as there are resolutions. `style_dim` is the
    width of z and w. Weights are zero until they are loaded or drawn by `randomize_`. The state dict is that
    of rosinality's `Generator` and `latent_avg`, the mean w.
    """

    latent_avg: Float[Tensor, " d"]

    def __init__(self, channels: Sequence[int], style_dim: int, mapping_layers: int) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.size = 2 ** (len(channels) + 1)
        #: The mapping network; the first place is rosinality's normalisation, which has no weights.
        mapping = [EqualLinear(style_dim, style_dim, rate=MAPPING_RATE) for _ in range(mapping_layers)]
        self.style = nn.ModuleList([nn.Identity(), *mapping])
        self.input = Constant(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], style_dim)
        self.to_rgb1 = ToRGB(channels[0], style_dim, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for before, width in pairwise(channels):
            self.convs.append(StyledConv(before, width, style_dim, up=True))
            self.convs.append(StyledConv(width, width, style_dim))
            self.to_rgbs.append(ToRGB(width, style_dim))
        self.noises = nn.Module()
        for i in range(len(self.convs) + 1):
            side = 2 ** ((i + 5) // 2)
            self.noises.register_buffer(f"noise_{i}", torch.zeros(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(style_dim))

    @property
    def w_count(self) -> int:
        """How many w's there are in W+: one for each convolution, and one for the last `to_rgb`."""
        return len(self.convs) + 2

    def layers(self) -> list[tuple[ModulatedConv, int]]:
        """The convolutions that take styles, each with the index of its w in W+."""
        parts: list[tuple[Any, int]] = [(self.conv1, 0), (self.to_rgb1, 1)]
        for i, to_rgb in enumerate(self.to_rgbs):
            # A to_rgb shares its w with the first layer of the next resolution.
            parts += [(self.convs[2 * i], 2 * i + 1), (self.convs[2 * i + 1], 2 * i + 2), (to_rgb, 2 * i + 3)]
        return [(part.conv, index) for part, index in parts]

    def mapping(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Latents to w's; the length of a z does not matter."""
        w = normalize(z)
        for layer in self.style[1:]:
            w = functional.leaky_relu(layer(w), 0.2) * sqrt(2)
        return w

    def truncate(self, w: Float[Tensor, "*b d"], truncation: float) -> Float[Tensor, "*b d"]:
        """Closer to the mean w: 1 leaves it, 0 is the mean, which looks most ordinary."""
        return self.latent_avg.lerp(w, truncation)

    def spread(self, w: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """The same w for all layers: W as a part of W+."""
        return w[:, None].repeat(1, self.w_count, 1)

    @torch.no_grad()
    def draw(self, clock: Clock, count: int, truncation: float) -> Float[Tensor, "n {self.w_count} d"]:
        """Random latents in W+, of all layers the same.

        Raises InputError unless the count is from 1 to 10,000 and the truncation from 0 to 2.
        """
        if not 1 <= count <= MAX_DRAWS:
            raise InputError(f"latents must be from 1 to {MAX_DRAWS}, got {count}")
        if not 0 <= truncation <= 2:
            raise InputError(f"truncation must be from 0 to 2, got {truncation}")
        z = clock.normal("z", 1, (count, self.style_dim))[0].to(self.latent_avg)
        return self.spread(self.truncate(self.mapping(z), truncation))

    def styles(self, w: Float[Tensor, "b n d"]) -> Styles:
        """W+ to StyleSpace."""
        return [conv.modulation(w[:, i]) for conv, i in self.layers()]

    def synthesize(self, styles: Styles) -> Float[Tensor, "b 3 size size"]:
        """Styles to images, sRGB in [0, 1]; beyond that the gradient passes all the same."""
        first, first_rgb, *rest = styles
        noises = list(self.noises.buffers())
        # On a CPU a fifth quicker than with the channels first, which the layers would take over from here.
        x = self.input.input.expand(len(first), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(x, first, noises[0])
        image = self.to_rgb1(x, first_rgb)
        for i, to_rgb in enumerate(self.to_rgbs):
            up, plain, rgb = rest[3 * i : 3 * i + 3]
            x = self.convs[2 * i](x, up, noises[2 * i + 1])
            x = self.convs[2 * i + 1](x, plain, noises[2 * i + 2])
            image = to_rgb(x, rgb, image)
        image = image / 2 + 0.5
        return image.detach().clamp(0, 1) + (image - image.detach())

    def forward(self, w: Float[Tensor, "b n d"]) -> Float[Tensor, "b 3 size size"]:
        """W+ to images, sRGB in [0, 1]."""
        return self.synthesize(self.styles(w))


@torch.no_grad()
def randomize_(module: nn.Module, clock: Clock) -> None:
    """Draw the weights of a generator, or of other networks of its layers, each from a stream of its name.

    They are those of the clock's step 0 wherever the clock is, so that a resumed run begins with the same.
    """
    start = replace(clock, index=0)
    for name, part in module.named_modules():
        match part:
            case EqualLinear():
                part.weight.copy_(start.normal(name, 1, part.weight.shape)[0] / part.rate)
            case ModulatedConv():
                part.weight.copy_(start.normal(name, 1, part.weight.shape)[0])
            case Constant():
                part.input.copy_(start.normal(name, 1, part.input.shape)[0])
