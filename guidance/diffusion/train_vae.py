"""Training a small variational autoencoder on captioned pictures: the embedded `tiny_vae`.

As Rombach et al. (2022) train theirs, without the discriminator: L1, a perceptual distance (Zhang et al.
2018; here between the features of an embedded CLIP), and a little of the KL divergence to a standard normal.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from guidance.clip import Clip
from guidance.clip.averaging import average_
from guidance.clip.data import CaptionedPictures, Placement, choose, place
from guidance.clip.features import image_features
from guidance.clock import Clock, cosine, warm_up

#: The first of four channels (colour, -colour, level, -level) for each of red, green and blue.
LANES = (0, 4, 8)
#: Large against colours, which are in [-1, 1].
LEVEL = 4.0

#: The stages of the CLIP's convolutional tower that the perceptual distance looks at.
STAGES = (0, 1, 2)


class VaeTrainee(nn.Module):
    """An autoencoder in training, and the running mean of its weights."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.mean_vae = deepcopy(vae).requires_grad_(False)


@torch.no_grad()
def begin_linear_(vae: AutoencoderKL) -> None:
    """Make an untrained autoencoder one whose latent has the mean colours in its first channels, in place.

    All that is not linear is for training to add: residual branches begin as zero (Zhang et al. 2019). With
    diffusers' random weights, colours were still wrong after 2000 steps, at a mean error of 0.07; from here
    it is 0.05 after 200. A group norm takes a picture's level of colour away; so each colour goes with its
    negative and a constant with its, which makes the norm's mean 0 and its deviation nearly constant, and
    silu(u) - silu(-u) = u undoes the activation. The finest level must have 16 channels or more, in 4 groups.
    """
    encoder, decoder = vae.encoder, vae.decoder
    point, box = torch.zeros(3, 3), torch.zeros(3, 3)
    point[1, 1] = 1
    box[:2, :2] = 1 / 4
    tent = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for conv in (encoder.conv_in, decoder.conv_in):
        for colour, lane in enumerate(LANES):
            _only(conv, lane, {colour: point})
            _only(conv, lane + 1, {colour: -point})
    for half, blocks in ((encoder, encoder.down_blocks), (decoder, decoder.up_blocks)):
        residuals = [*(r for block in blocks for r in block.resnets), *half.mid_block.resnets]
        for residual in residuals:
            nn.init.zeros_(residual.conv2.weight)
            nn.init.zeros_(residual.conv2.bias)
        passing = [(r.conv_shortcut, torch.ones(1, 1)) for r in residuals if r.conv_shortcut is not None]
        if half is encoder:
            passing += [(sampler.conv, box) for block in blocks for sampler in block.downsamplers or []]
        else:
            passing += [(sampler.conv, tent) for block in blocks for sampler in block.upsamplers or []]
        for conv, kernel in passing:
            for lane in LANES:
                _only(conv, lane, {lane: kernel})
                _only(conv, lane + 1, {lane + 1: kernel})
        last = half.mid_block.resnets[-1] if half is encoder else decoder.up_blocks[-1].resnets[-1]
        group = half.conv_norm_out.num_channels // half.conv_norm_out.num_groups
        for colour, lane in enumerate(LANES):
            last.conv2.bias[lane + 2], last.conv2.bias[lane + 3] = LEVEL, -LEVEL
            neighbours = sum(lane // group == other // group for other in LANES)
            deviation = LEVEL * (2 * neighbours / group) ** 0.5
            _only(half.conv_out, colour, {lane: deviation * point, lane + 1: -deviation * point})
    for conv in (vae.quant_conv, vae.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    # The logarithm of the variance: little noise.
    encoder.conv_out.weight[vae.config.latent_channels :] = 0
    encoder.conv_out.bias[vae.config.latent_channels :] = -6


def _only(conv: nn.Conv2d, channel: int, kernels: dict[int, Tensor]) -> None:
    """Make one channel that a convolution gives depend on a few of those that it gets."""
    assert conv.bias is not None  # diffusers' convolutions have one
    conv.weight[channel], conv.bias[channel] = 0, 0
    for source, kernel in kernels.items():
        conv.weight[channel, source] = kernel


@dataclass(frozen=True)
class VaeStep:
    """What one step saw: the mean absolute error of pixels, the perceptual distance, and the KL divergence
    in nats for each number of the latents."""

    index: int
    pixels: float
    perceptual: float
    kl: float


def train_vae(
    trainee: VaeTrainee,
    pictures: CaptionedPictures,
    judge: Clip,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    size: int,
    batch: int,
    lr: float,
    perceptual: float,
    kl: float,
    precision: torch.dtype = torch.float32,
) -> Iterator[VaeStep]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock.

    A step sees `batch` pictures of `size` pixels a side on pages of which half are white. `kl` weighs the sum
    over a latent against the sum over a picture, as Rombach et al. count.
    """
    device = next(trainee.parameters()).device
    seen = (~pictures.held_out).float()
    while clock.index < clock.steps:
        generator = clock.generator("train")
        images = views(pictures, choose(seen, batch, generator), size, generator, device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            posterior = trainee.vae.encode(2 * images - 1).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = trainee.vae.decode(posterior.mean + posterior.std * noise).sample
        decoded = decoded.float() / 2 + 0.5
        error = (decoded - images).abs().mean()
        # Where it has no weight it is not computed, which takes a third of a step.
        distance = perceptual_distance(judge, decoded, images).mean() if perceptual else torch.zeros(())
        divergence = posterior.kl().float().sum()

        for group in optimizer.param_groups:
            group["lr"] = warm_up(cosine(lr, 0.0))(clock.progress)
        optimizer.zero_grad()
        (error + perceptual * distance + kl * divergence / images.numel()).backward()
        nn.utils.clip_grad_norm_(trainee.vae.parameters(), 1.0)
        optimizer.step()
        average_(trainee.mean_vae, trainee.vae, 0.995, clock)
        clock.index += 1
        nats = divergence.item() / posterior.mean.numel()
        yield VaeStep(clock.index - 1, error.item(), distance.item(), nats)


def views(
    pictures: CaptionedPictures,
    rows: Int[Tensor, " n"],
    size: int,
    generator: torch.Generator,
    device: torch.device,
) -> Float[Tensor, "n 3 {size} {size}"]:
    """Pictures from near and far, on random pages: a latent that is larger shows things from nearer."""
    placement = Placement.draw(len(rows), generator, zoom=(0.6, 1.5), shift=0.15, white=0.5, device=device)
    return place(pictures.rgba[rows].to(device), placement, size)


def perceptual_distance(
    clip: Clip, images: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, " n"]:
    """Half the squared distance between unit feature vectors, mean over places and stages, in [0, 2].

    LPIPS (Zhang et al. 2018) without its learned weights. The targets get no gradient.
    """
    _, ours = image_features(clip, images, STAGES)
    with torch.no_grad():
        _, theirs = image_features(clip, targets, STAGES)
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([(1 - functional.cosine_similarity(u, v)).mean((1, 2)) for u, v in pairs]).mean(0)


@torch.no_grad()
def standardise_(vae: AutoencoderKL, images: Float[Tensor, "n 3 h w"]) -> None:
    """Give every channel of the latents mean 0 and variance 1 over pictures, in place.

    The shift and the scale go into the two 1×1 convolutions around the latent, so that the pictures stay as
    they are and `scaling_factor` is 1.
    """
    means = torch.cat([vae.encode(2 * chunk - 1).latent_dist.mean for chunk in images.split(64)])
    shift, scale = means.mean((0, 2, 3)), means.std((0, 2, 3))
    inward, outward = vae.quant_conv, vae.post_quant_conv
    # First come the channels of the mean, then those of the logarithm of the variance.
    inward.weight /= torch.cat([scale, torch.ones_like(scale)])[:, None, None, None]
    inward.bias.copy_(
        torch.cat([(inward.bias[: len(scale)] - shift) / scale, inward.bias[len(scale) :] - 2 * scale.log()])
    )
    outward.bias += outward.weight[:, :, 0, 0] @ shift
    outward.weight *= scale[:, None, None]
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: CaptionedPictures, which: Bool[Tensor, " n"], size: int) -> float:
    """Peak signal-to-noise ratio in dB of whole pictures on white, over all pixels of those chosen."""
    n = int(which.sum())
    plain = Placement(torch.full((n,), 0.9), torch.zeros(n), torch.zeros(n, 2), torch.ones(n, 3))
    device = next(vae.parameters()).device
    errors = [
        (vae.decode(vae.encode(2 * view - 1).latent_dist.mean).sample.clamp(-1, 1) - (2 * view - 1)) / 2
        for view in place(pictures.rgba[which], plain, size).to(device).split(64)
    ]
    return -10 * torch.cat(errors).square().mean().log10().item()
