"""Score distillation against the gradient by hand, and on a pipeline whose data are known."""

from dataclasses import replace

import analytic
import pytest
import torch

import guidance as g
from guidance.losses.distillation import DistillationLoss

KINDS = ["epsilon", "v_prediction", "sample", "flow_prediction"]


def pictures(b: int, size: int = 32) -> torch.Tensor:
    return g.Clock(seed=1).uniform("pictures", b, (3, size, size))


def loss(clock: g.Clock | None = None, *, kind: str = "epsilon", k: int = 1, **options) -> DistillationLoss:
    pipeline = analytic.pipeline(kind)
    return DistillationLoss(
        pipeline, pipeline.text.encode("a heart"), g.Crops(clock or g.Clock(), k), **options
    )


def gradient(of: DistillationLoss, images: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(of(images).sum(), images)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_w_times_the_error_of_the_noise(kind: str) -> None:
    """Equation 3 of DreamFusion by hand: through the autoencoder, not through the network."""
    at = 0.4
    distilled, images = loss(kind=kind, times=(at, at)), pictures(1).requires_grad_()
    z = distilled.pipeline.vae.encode(images)
    trained = distilled.pipeline.trained
    sigma = at / (1 - at) if trained.sigmas is None else trained.sigmas[round(at * 999)].item()
    noise = g.Clock().normal("distillation/noise/0", 1, (4, 8, 8))
    noisy = z.detach() + sigma * noise
    said = (noisy - analytic.denoise(noisy, sigma)) / sigma
    w = sigma**2 / (1 + sigma**2)
    (expected,) = torch.autograd.grad(z, images, w * (said - noise) / z.numel())
    found = gradient(distilled, images.detach())
    assert torch.allclose(found, expected, atol=2e-3 * expected.abs().max().item())


def test_classifier_free_guidance_leads_to_the_prompt_from_the_negative() -> None:
    class Told:
        dtype = torch.float32

        def __init__(self, config) -> None:
            self.config = config

        def __call__(self, seen, times, encoder_hidden_states, added_cond_kwargs, return_dict):
            return (encoder_hidden_states.mean((1, 2))[:, None, None, None].expand_as(seen),)

    pipeline = analytic.pipeline()
    pipeline = replace(pipeline, unet=Told(pipeline.unet.config))
    wanted, unwanted = (pipeline.text.encode(words) for words in ("a red heart", "blue"))
    a, b = wanted.hidden.mean(), unwanted.hidden.mean()
    views = g.Crops(g.Clock(), 2)
    many = DistillationLoss(pipeline, wanted, views, negative=unwanted, scale=100.0, weight=torch.ones_like)
    images = pictures(2)
    z = pipeline.vae.encode(views(images, 32).flatten(0, 1))
    noise = torch.stack([g.Clock().normal(f"distillation/noise/{v}", 2, z.shape[1:]) for v in range(2)], 1)
    error = b + 100 * (a - b) - noise.flatten(0, 1)
    expected = error.square().mean((1, 2, 3)).view(2, 2).mean(1) / 2
    assert torch.allclose(many(images), expected, rtol=1e-3)


def test_it_brings_pictures_to_what_the_pipeline_knows() -> None:
    clock = g.Clock(25)
    of = loss(clock)
    images = pictures(2)
    canvas = g.Latents(torch.sigmoid, torch.logit(images.clamp(0.05, 0.95)), lr=0.2)

    def distance() -> torch.Tensor:
        with torch.no_grad():
            return (of.pipeline.vae.encode(canvas()) - analytic.MEAN).square().mean((1, 2, 3))

    before = distance()
    for _ in g.optimize(canvas, {"distillation": of}, clock):
        pass
    assert (distance() < 0.5 * before).all()


def test_one_finite_number_an_image_of_any_size() -> None:
    for size in (17, 32, 50):
        value = loss(k=2)(pictures(3, size))
        assert value.shape == (3,)
        assert value.isfinite().all()
        assert (value > 0).all()


def test_members_are_those_of_single_runs() -> None:
    images = pictures(3)
    together, slopes = loss(g.Clock(seed=5), k=2), gradient(loss(g.Clock(seed=5), k=2), images)
    for i in range(3):
        alone = loss(g.Clock(seed=5 + i), k=2)
        assert torch.allclose(together(images)[i], alone(images[i : i + 1])[0], rtol=1e-5)
        assert torch.allclose(slopes[i], gradient(alone, images[i : i + 1])[0], atol=1e-7)


def test_the_draws_are_those_of_the_step() -> None:
    images = pictures(1)
    values = [loss(g.Clock(9, index=index))(images).item() for index in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_times_are_in_their_range_which_may_move() -> None:
    noises: list[torch.Tensor] = []

    def spy(sigma: torch.Tensor) -> torch.Tensor:
        noises.append(sigma)
        return sigma

    for index in (0, 9):
        loss(g.Clock(10, index=index), k=20, times=(0.2, g.linear(0.9, 0.3)), weight=spy)(pictures(1))
    sigmas = analytic.pipeline().trained.sigmas
    first, last = noises
    assert first.min() >= sigmas[199]
    assert sigmas[600] < first.max() <= sigmas[900]
    assert sigmas[200] <= last.min() < last.max() <= sigmas[361]


def test_more_views_are_no_stronger() -> None:
    sizes = []
    for k in (1, 8):
        slopes = [
            gradient(loss(g.Clock(seed=seed), k=k, times=(0.5, 0.5)), pictures(1)) for seed in range(12)
        ]
        sizes.append(torch.stack(slopes).mean(0).norm())
    assert 0.5 < sizes[1] / sizes[0] < 1.5


@pytest.mark.parametrize(
    "times", [(0.0, 0.5), (0.5, 0.2), (0.1, 1.0), (float("nan"), 0.5), (0.1, g.linear(0.5, 0))]
)
def test_times_out_of_range_are_told(times: tuple) -> None:
    with pytest.raises(g.InputError, match="times must be"):
        loss(times=times)
