"""What the training of an autoencoder is made of, against closed forms."""

from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

import guidance as g
from guidance.clip.data import CaptionedPictures
from guidance.clock import Clock
from guidance.diffusion.train_vae import (
    STAGES,
    VaeTrainee,
    begin_linear_,
    perceptual_distance,
    standardise_,
    train_vae,
)


def new(channels: tuple[int, ...] = (16, 32)) -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=channels,
            down_block_types=["DownEncoderBlock2D"] * len(channels),
            up_block_types=["UpDecoderBlock2D"] * len(channels),
            norm_num_groups=4,
            mid_block_add_attention=False,
        )


def smooth(n: int = 4, size: int = 32) -> torch.Tensor:
    return functional.interpolate(
        Clock().uniform("smooth", n, (3, 3, 3)), size=(size, size), mode="bicubic"
    ).clamp(0, 1)


def pictures(n: int = 5) -> CaptionedPictures:
    rgba = torch.cat([smooth(n, 20), torch.ones(n, 1, 20, 20)], 1)
    return CaptionedPictures(rgba, [["a"]] * n, torch.arange(n) == 0)


@torch.no_grad()
@pytest.mark.parametrize("channels", [(16, 32), (32, 32, 48)])
def test_it_begins_with_mean_colours(channels: tuple[int, ...]) -> None:
    vae, images = new(channels), smooth()
    begin_linear_(vae)
    factor = 2 ** (len(channels) - 1)
    latents = vae.encode(2 * images - 1).latent_dist.mean
    means = functional.avg_pool2d(2 * images - 1, factor)
    assert (latents[:, :3] - means).abs().max() < 0.1
    decoded = vae.decode(latents).sample / 2 + 0.5
    away = (
        slice(None),
        slice(None),
        slice(factor, -factor),
        slice(factor, -factor),
    )  # from black beyond the edge
    assert (decoded - images)[away].abs().mean() < 0.05
    assert (0.5 - images)[away].abs().mean() > 0.15


@torch.no_grad()
def test_standard_latents_have_mean_0_and_variance_1_and_the_same_pictures() -> None:
    vae, images = new(), smooth(16)
    changed = deepcopy(vae)
    standardise_(changed, images)
    before, after = (model.encode(2 * images - 1).latent_dist for model in (vae, changed))
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    # The noise is scaled with the mean.
    torch.testing.assert_close(
        after.std / before.std, (1 / before.mean.std((0, 2, 3)))[:, None, None].expand_as(after.std)
    )
    torch.testing.assert_close(
        changed.decode(after.mean).sample, vae.decode(before.mean).sample, atol=1e-4, rtol=0
    )
    assert changed.config.scaling_factor == 1


def test_the_perceptual_distance_is_between_unit_features() -> None:
    clip = g.load("tiny")
    images, targets = smooth(2).requires_grad_(), smooth(4)[2:]
    distance = perceptual_distance(clip, images, targets)
    expected = []
    for u, v in zip(*(g.image_features(clip, x, STAGES)[1] for x in (images, targets)), strict=True):
        u, v = (x / x.norm(dim=1, keepdim=True) for x in (u, v))
        expected.append((u - v).square().sum(1).mean((1, 2)) / 2)
    torch.testing.assert_close(distance, torch.stack(expected).mean(0))
    assert (perceptual_distance(clip, targets, targets) < 1e-6).all()
    distance.sum().backward()
    assert images.grad is not None
    assert images.grad.any()


def run(data: CaptionedPictures, lr: float, batch: int = 4) -> tuple[list[float], VaeTrainee]:
    trainee, clock = VaeTrainee(new((16, 16))), Clock(10)
    steps = train_vae(
        trainee,
        data,
        g.load("tiny"),
        clock,
        torch.optim.AdamW(trainee.vae.parameters()),
        size=16,
        batch=batch,
        lr=lr,
        perceptual=0.0,
        kl=1e-4,
    )
    return [step.pixels for step in steps], trainee


def test_training_lowers_the_error_and_never_sees_what_is_held_out() -> None:
    errors, trainee = run(pictures(), 3e-3)
    untrained, _ = run(pictures(), 0.0)  # of the same views
    assert sum(errors[-4:]) < 0.95 * sum(untrained[-4:])
    changed = pictures()
    changed.rgba[0] = 0.5
    again, twin = run(changed, 3e-3)
    assert again == errors
    for ours, theirs in zip(trainee.mean_vae.parameters(), twin.mean_vae.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    now, mean = trainee.vae.decoder.conv_out.weight, trainee.mean_vae.decoder.conv_out.weight
    begun = new((16, 16)).decoder.conv_out.weight
    assert 0 < (mean - begun).norm() < (now - begun).norm()  # the running mean lags behind
