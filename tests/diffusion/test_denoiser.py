"""The denoiser: guidance, kinds of prediction, noise and time."""

from dataclasses import replace

import pytest
import torch
from small_pipelines import scheduler, write
from torch import Tensor

from guidance.clock import Clock
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.noise import Trained, clean, predicted
from guidance.diffusion.pipeline import Pipeline, load_pipeline
from guidance.errors import InputError

KINDS = ["epsilon", "v_prediction", "sample", "flow_prediction"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load_pipeline(f"local-dir:{write(tmp_path_factory.mktemp('pipelines') / 'sd')}")


def latents(b: int = 2) -> Tensor:
    return Clock().normal("latents", b, (4, 8, 8))


def test_kinds_of_prediction_mean_the_same_picture() -> None:
    """By their definitions at one noise, each in its own scale."""
    x0, noise = latents(), Clock(seed=9).normal("noise", 2, (4, 8, 8))
    sigma = torch.tensor([0.3, 5.0])[:, None, None, None]
    signal, spread = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
    said = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * x0,
        "sample": x0,
        "flow_prediction": noise - x0,
    }
    for kind in KINDS:
        x = x0 + sigma * noise
        torch.testing.assert_close(clean(kind, said[kind], x, sigma), x0, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(predicted(kind, x0, x, sigma), said[kind], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_sees_its_own_scale(kind: str, pipeline: Pipeline) -> None:
    trained = replace(pipeline.trained, kind=kind)
    if kind == "flow_prediction":
        trained = Trained(kind, None, 1000)
        time, sigma = 400.0, 0.4 / 0.6
    else:
        time, sigma = 400, pipeline.trained.sigmas[400].item()
    x, condition = latents(), pipeline.text.encode("a red heart")
    scale = 1 + sigma if kind == "flow_prediction" else (1 + sigma**2) ** 0.5
    with torch.no_grad():
        ours = denoiser(replace(pipeline, trained=trained), condition, scale=1.0)(x, sigma)
        said = pipeline.unet(x / scale, time, condition.hidden.expand(2, -1, -1)).sample
    expected = clean(kind, said, x, torch.full((2, 1, 1, 1), sigma))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_guidance_is_linear_and_may_change(pipeline: Pipeline) -> None:
    condition, negative = pipeline.text.encode("a red heart"), pipeline.text.encode("blue fish")
    x, sigma = latents(), 3.0
    seen = {s: denoiser(pipeline, condition, negative, s)(x, sigma) for s in (0.0, 1.0, 4.0)}
    torch.testing.assert_close(seen[4.0], seen[0.0] + 4 * (seen[1.0] - seen[0.0]), atol=1e-4, rtol=1e-4)
    assert (seen[0.0] - seen[1.0]).abs().max() > 0.01
    torch.testing.assert_close(seen[0.0], denoiser(pipeline, negative, scale=1.0)(x, sigma))
    late = denoiser(pipeline, condition, negative, lambda progress: 4.0 if progress > 0.5 else 1.0)
    low, high = pipeline.trained.sigmas[[300, 700]].tolist()
    torch.testing.assert_close(late(x, high), denoiser(pipeline, condition, scale=1.0)(x, high))
    torch.testing.assert_close(late(x, low), denoiser(pipeline, condition, negative, 4.0)(x, low))


@torch.no_grad()
def test_no_negative_is_the_empty_prompt(pipeline: Pipeline) -> None:
    condition = pipeline.text.encode("a red heart")
    told = denoiser(pipeline, condition, pipeline.text.encode(""), 3.0)
    assert torch.equal(denoiser(pipeline, condition, None, 3.0)(latents(), 2.0), told(latents(), 2.0))


@torch.no_grad()
def test_members_have_their_own_prompts_and_noise(pipeline: Pipeline) -> None:
    prompts, sigmas = ["a red heart", "blue fish"], torch.tensor([0.5, 7.0])
    both = denoiser(pipeline, pipeline.text.encode(prompts), None, 3.0)(latents(), sigmas)
    for i, prompt in enumerate(prompts):
        alone = denoiser(pipeline, pipeline.text.encode(prompt), None, 3.0)(
            latents()[i : i + 1], sigmas[i : i + 1]
        )
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_more_noise_than_was_trained_with_is_taken_for_the_most(pipeline: Pipeline) -> None:
    most = pipeline.trained.sigmas[-1].item()
    denoise = denoiser(pipeline, pipeline.text.encode("a red heart"), scale=1.0)
    noise = latents()
    torch.testing.assert_close(denoise(1e4 * noise, 1e4), denoise(most * noise, most), atol=1e-3, rtol=1e-3)


def test_gradients_flow_to_prompts_and_latents(pipeline: Pipeline) -> None:
    condition = pipeline.text.encode("a red heart")
    hidden, x = condition.hidden.clone().requires_grad_(), latents(1).requires_grad_()
    denoiser(pipeline, Condition(hidden), None, 3.0)(x, 2.0).square().sum().backward()
    assert hidden.grad.abs().max() > 0
    assert x.grad.abs().max() > 0


def test_time_is_that_of_the_noise() -> None:
    trained = Trained.of(scheduler())
    times = torch.tensor([0.0, 1.0, 250.5, 999.0], dtype=torch.float64)
    below = trained.sigmas[times.floor().long()]
    above = trained.sigmas[times.ceil().long()]
    torch.testing.assert_close(trained.time((below + above) / 2), times)


def test_what_does_not_fit_is_told(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="scale must be a finite number, got nan"):
        denoiser(pipeline, pipeline.text.encode("a"), scale=float("nan"))
    with pytest.raises(InputError, match="takes 32 numbers a token, got 7"):
        denoiser(pipeline, Condition(torch.zeros(1, 12, 7)), scale=1.0)(latents(), 1.0)
    with pytest.raises(InputError, match="one for each of the 2 pictures, got 3"):
        denoiser(pipeline, pipeline.text.encode(["a", "b", "c"]), scale=1.0)(latents(), 1.0)
