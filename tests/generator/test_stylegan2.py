"""The generator against formulas written out one sample, one channel at a time."""

from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu, pad

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.generator.stylegan2 import Blur, Generator, ModulatedConv, randomize_


def upfirdn(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Zeros between pixels, zeros around, and a true convolution (StyleGAN2's upfirdn2d), of one plane."""
    h, w = x.shape
    spaced = torch.zeros(h * up, w * up)
    spaced[::up, ::up] = x
    spaced = pad(spaced, (*padding, *padding))
    rows, columns = spaced.shape[0] - len(kernel) + 1, spaced.shape[1] - len(kernel) + 1
    out = torch.zeros(rows, columns)
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            out += kernel[-1 - i, -1 - j] * spaced[i : i + rows, j : j + columns]
    return out


def modulated(weight: Tensor, style: Tensor, demodulate: bool) -> Tensor:
    """The weights of one sample, equations 1 and 3 of the paper."""
    weight = weight / sqrt(weight[0].numel()) * style[None, :, None, None]
    return weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else weight


def planes(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    return torch.stack([upfirdn(plane, kernel, up, padding) for plane in x])


def reference_layer(
    weights: dict[str, Tensor], place: str, x: Tensor, style: Tensor, noise: Tensor
) -> Tensor:
    """One sample through one of rosinality's StyledConv."""
    kernel = weights.get(f"{place}.conv.blur.kernel")
    weight = modulated(weights[f"{place}.conv.weight"][0], style, True)
    if kernel is None:
        x = conv2d(x[None], weight, padding=1)[0]
    else:
        # Zeros between pixels and a convolution with the weights as they are: a transposed convolution.
        spaced = torch.zeros(x.shape[0], 2 * x.shape[1] - 1, 2 * x.shape[2] - 1)
        spaced[:, ::2, ::2] = x
        x = planes(conv2d(spaced[None], weight.flip(2, 3), padding=2)[0], kernel, 1, (1, 1))
    x = x + weights[f"{place}.noise.weight"] * noise[0]
    return leaky_relu(x + weights[f"{place}.activate.bias"][:, None, None], 0.2) * sqrt(2)


def reference(weights: dict[str, Tensor], w: Tensor) -> Tensor:
    """One sample, W+ `[n, d]` to an image, from rosinality's weights."""

    def style(place: str, index: int) -> Tensor:
        scaled = weights[f"{place}.conv.modulation.weight"] / sqrt(w.shape[1])
        return scaled @ w[index] + weights[f"{place}.conv.modulation.bias"]

    def colours(place: str, x: Tensor, index: int) -> Tensor:
        weight = modulated(weights[f"{place}.conv.weight"][0], style(place, index), False)
        return conv2d(x[None], weight)[0] + weights[f"{place}.bias"][0]

    x = reference_layer(
        weights, "conv1", weights["input.input"][0], style("conv1", 0), weights["noises.noise_0"][0]
    )
    image = colours("to_rgb1", x, 1)
    for i in range(len(w) // 2 - 1):
        for layer in (2 * i, 2 * i + 1):
            place = f"convs.{layer}"
            x = reference_layer(
                weights, place, x, style(place, layer + 1), weights[f"noises.noise_{layer + 1}"][0]
            )
        larger = planes(image, weights[f"to_rgbs.{i}.upsample.kernel"], 2, (2, 1))
        image = larger + colours(f"to_rgbs.{i}", x, 2 * i + 3)
    return (image / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_one_of_each_samples_own_weights(up: bool, demodulate: bool) -> None:
    conv = ModulatedConv(3, 4, 3, 5, up=up, demodulate=demodulate)
    randomize_(conv, Clock())
    draw = torch.Generator().manual_seed(0)
    x, styles = torch.randn(2, 3, 6, 5, generator=draw), torch.randn(2, 3, generator=draw)
    for sample, (plane, style) in enumerate(zip(x, styles, strict=True)):
        weight = modulated(conv.weight[0], style, demodulate)
        if conv.blur is None:
            wanted = conv2d(plane[None], weight, padding=1)[0]
        else:
            spaced = torch.zeros(3, 11, 9)
            spaced[:, ::2, ::2] = plane
            wanted = planes(
                conv2d(spaced[None], weight.flip(2, 3), padding=2)[0], conv.blur.kernel, 1, (1, 1)
            )
        torch.testing.assert_close(conv(x, styles)[sample], wanted, atol=1e-5, rtol=1e-5)


def test_the_filter_is_upfirdn() -> None:
    blur = Blur()
    blur.kernel = blur.kernel + torch.arange(16.0).view(
        4, 4
    )  # of a kernel that is symmetric nobody would see
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    for b in range(2):
        torch.testing.assert_close(blur(x)[b], planes(x[b], blur.kernel, 1, (1, 1)))
        torch.testing.assert_close(blur.upsample(x)[b], planes(x[b], blur.kernel, 2, (2, 1)))
    # An even picture stays even inside.
    even = Blur().upsample(torch.ones(1, 1, 6, 6))
    torch.testing.assert_close(even[..., 2:-2, 2:-2], torch.ones(1, 1, 8, 8))


def test_the_whole_is_rosinalitys(generator: Generator) -> None:
    draw = torch.Generator().manual_seed(1)
    w = torch.randn(2, generator.w_count, 10, generator=draw)
    assert generator.w_count == 6
    images = generator(w)
    assert images.shape == (2, 3, 16, 16)
    assert images.std() > 0.1
    for image, one in zip(images, w, strict=True):
        torch.testing.assert_close(image, reference(generator.state_dict(), one), atol=1e-5, rtol=1e-4)


def test_the_mapping_network(generator: Generator) -> None:
    z = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    w = z / z.square().mean(1, keepdim=True).sqrt()
    for layer in list(generator.style)[1:]:
        w = leaky_relu(0.01 * (w @ (layer.weight.T / sqrt(10)) + layer.bias), 0.2) * sqrt(2)
    torch.testing.assert_close(generator.mapping(z), w)
    torch.testing.assert_close(generator.mapping(3 * z), w)


def test_truncation_goes_to_the_mean(generator: Generator) -> None:
    w = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    wanted = generator.latent_avg + 0.7 * (w - generator.latent_avg)
    torch.testing.assert_close(generator.truncate(w, 0.7), wanted)
    drawn = generator.draw(Clock(seed=3), 2, 0.0)
    torch.testing.assert_close(drawn, generator.latent_avg.expand(2, 6, 10))


def test_drawn_latents_depend_on_the_seed_alone(generator: Generator) -> None:
    drawn = generator.draw(Clock(seed=3), 3, 0.7)
    assert torch.equal(drawn, generator.draw(Clock(seed=3), 3, 0.7))
    assert not torch.allclose(drawn, generator.draw(Clock(seed=4), 3, 0.7))
    assert torch.equal(drawn[:, 0], drawn[:, 5])
    assert torch.pdist(drawn[:, 0]).min() > 0.1
    with pytest.raises(InputError, match="latents must be from 1 to 10000, got 0"):
        generator.draw(Clock(), 0, 0.7)
    with pytest.raises(InputError, match="truncation must be from 0 to 2, got 3"):
        generator.draw(Clock(), 1, 3.0)


def test_images_are_in_range_and_let_the_gradient_through(generator: Generator) -> None:
    w = (10 * generator.draw(Clock(), 1, 1.0)).requires_grad_()
    image = generator(w)
    outside = (image == 0) | (image == 1)
    assert outside.any()
    assert image.min() >= 0
    assert image.max() <= 1
    (gradient,) = torch.autograd.grad(image[outside].sum(), w)
    assert gradient.abs().max() > 0
