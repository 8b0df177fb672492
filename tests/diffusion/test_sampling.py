"""Sampling: against diffusers' own pipelines with the same network and noise; against closed forms."""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from small_pipelines import diffusers_pipeline, write
from torch import Tensor

from guidance.clock import Clock
from guidance.diffusion.denoiser import Denoiser, denoiser
from guidance.diffusion.noise import Trained
from guidance.diffusion.pipeline import Pipeline, load_pipeline
from guidance.diffusion.sampling import SampleStep, evaluations, sample
from guidance.diffusion.schedulers import SchedulerName, replace_scheduler
from guidance.errors import InputError

NAMES = get_args(SchedulerName)
SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    kinds = ("epsilon", "v_prediction", "sample")
    made = {kind: write(root / kind, prediction=kind) for kind in kinds}
    return made | {"xl": write(root / "xl", xl=True)}


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, Pipeline]:
    return {kind: load_pipeline(f"local-dir:{folder}") for kind, folder in folders.items()}


def guided(pipeline: Pipeline) -> Denoiser:
    encode = pipeline.text.encode
    return denoiser(pipeline, encode("a red heart"), encode("blue fish"), 3.0)


@torch.no_grad()
def run(denoise: Denoiser, scheduler: Any, b: int = 2, seed: int = 5, **more: Any) -> list[SampleStep]:
    clock = Clock(seed=seed)
    noise = clock.normal("latents", b, SHAPE)
    return list(sample(denoise, scheduler, noise, clock, **{"steps": 6} | more))


def same_noise(monkeypatch: pytest.MonkeyPatch, seed: int = 5) -> None:
    """Let diffusers' ancestral steps draw what ours draw."""
    clock = Clock(100, seed)

    def randn(shape: tuple[int, ...], **_: object) -> Tensor:
        drawn = clock.normal("step", shape[0], shape[1:])
        clock.index += 1
        return drawn

    module = diffusers.schedulers.scheduling_euler_ancestral_discrete
    monkeypatch.setattr(module, "randn_tensor", randn)


WORDS = {"prompt": "a red heart", "negative_prompt": "blue fish", "guidance_scale": 3.0}
TWO = {"num_images_per_prompt": 2, "num_inference_steps": 6, "output_type": "latent"}


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        *((name, "epsilon") for name in NAMES if name != "flow-matching"),
        ("ddim", "v_prediction"),
        ("euler", "v_prediction"),
        ("dpm++", "v_prediction"),
    ],
)
def test_it_samples_as_diffusers_does(
    name: str, prediction: str, pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipelines[prediction].with_scheduler(name)
    ours = run(guided(pipeline), pipeline.scheduler)[-1].latents
    same_noise(monkeypatch)
    theirs = diffusers_pipeline(prediction=prediction)
    theirs.scheduler = pipeline.scheduler
    expected = theirs(**WORDS, **TWO, latents=Clock(seed=5).normal("latents", 2, SHAPE)).images
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
def test_other_noise_levels_are_diffusers_too(changes: dict, pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["epsilon"]
    scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **changes)
    ours = run(guided(pipeline), scheduler)[-1].latents
    theirs = diffusers_pipeline()
    theirs.scheduler = scheduler
    expected = theirs(**WORDS, **TWO, latents=Clock(seed=5).normal("latents", 2, SHAPE)).images
    torch.testing.assert_close(ours, expected, atol=2e-3, rtol=2e-3)


def test_xl_is_diffusers_too(pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["xl"].with_scheduler("euler")
    ours = run(guided(pipeline), pipeline.scheduler)[-1].latents
    theirs = diffusers_pipeline(xl=True)
    theirs.scheduler = pipeline.scheduler
    noise = Clock(seed=5).normal("latents", 2, SHAPE)
    expected = theirs(**WORDS, **TWO, latents=noise, height=16, width=16).images
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++"])
def test_from_a_picture_it_is_diffusers_too(name: str, pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["epsilon"].with_scheduler(name)
    start = Clock().normal("start", 2, SHAPE)
    ours = run(guided(pipeline), pipeline.scheduler, start=start, strength=0.7)
    assert len(ours) == evaluations(pipeline.scheduler, 6, 0.7) == 4
    theirs = StableDiffusionImg2ImgPipeline(
        **diffusers_pipeline().components | {"scheduler": pipeline.scheduler}, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    streams = [Clock(seed=5).generator("latents", member) for member in range(2)]
    expected = theirs(**WORDS, **TWO, image=start, strength=0.7, generator=streams).images
    torch.testing.assert_close(ours[-1].latents, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_in_a_mask_it_is_diffusers_too(name: str, pipelines: dict[str, Pipeline]) -> None:
    pipeline = pipelines["epsilon"].with_scheduler(name)
    start = Clock().normal("start", 1, SHAPE)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    ours = run(guided(pipeline), pipeline.scheduler, 1, start=start, mask=mask)[-1].latents
    theirs = StableDiffusionInpaintPipeline(
        **diffusers_pipeline().components | {"scheduler": pipeline.scheduler}, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        **WORDS,
        num_inference_steps=6,
        output_type="latent",
        image=start,
        masked_image_latents=start,  # not asked for, but made of pixels otherwise
        mask_image=mask.repeat_interleave(2, 2).repeat_interleave(2, 3),
        latents=Clock(seed=5).normal("latents", 1, SHAPE),
        height=16,
        width=16,
    ).images
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[..., :4], start[..., :4])


def test_flow_matching_is_eulers_method(pipelines: dict[str, Pipeline]) -> None:
    """A network trained for flow matching, by a loop written out."""
    known = pipelines["epsilon"]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    flow = load_like(known, scheduler)
    ours = run(denoiser(flow, known.text.encode("a red heart"), scale=1.0), scheduler)[-1].latents
    x, hidden = Clock(seed=5).normal("latents", 2, SHAPE), known.text.encode("a red heart").hidden
    levels = [*torch.linspace(1, 0.001, 6).tolist(), 0.0]
    for now, then in pairwise(levels):
        with torch.no_grad():
            x = x + (then - now) * known.unet(x, 1000 * now, hidden.expand(2, -1, -1)).sample
    torch.testing.assert_close(ours, x, atol=2e-3, rtol=2e-3)


def load_like(pipeline: Pipeline, scheduler: Any) -> Pipeline:
    """The same network, taken for one that was trained with another scheduler."""
    from dataclasses import replace

    return replace(pipeline, scheduler=scheduler, trained=Trained.of(scheduler))


def gaussian(x: Tensor, sigma: float | Tensor) -> Tensor:
    """The best denoiser for pictures that are 1 + N(0, 0.5²)."""
    return 1 + (x - 1) * 0.25 / (0.25 + float(sigma) ** 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_finds_the_distribution(name: str) -> None:
    scheduler = replace_scheduler(diffusers_pipeline().scheduler, name)
    drawn = run(gaussian, scheduler, b=32, steps=40)[-1].latents
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_begins_in_the_middle(name: str) -> None:
    scheduler = replace_scheduler(diffusers_pipeline().scheduler, name)
    start = 1 + 0.5 * Clock(seed=9).normal("start", 32, SHAPE)
    drawn = run(gaussian, scheduler, b=32, steps=40, start=start, strength=0.5)[-1].latents
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_noise_that_hides_the_picture_wholly(name: str, kind: str) -> None:
    """Zero terminal SNR, which only predictions of the picture can begin with."""
    config = dict(diffusers_pipeline().scheduler.config)
    more = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler.from_config(config, prediction_type=kind, **more)
    sigmas = Trained.of(scheduler).sigmas
    assert sigmas is not None
    assert 1000 < sigmas[-1] < 10_000
    drawn = run(gaussian, replace_scheduler(scheduler, name), b=32, steps=40)[-1].latents
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert drawn.std().item() == pytest.approx(0.5, rel=0.15)
    with pytest.raises(InputError, match="must grow with time"):
        Trained.of(diffusers.DDIMScheduler.from_config(config, prediction_type="epsilon", **more))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_a_scheduler_calls_the_prediction_does_not_matter(
    kind: str, pipelines: dict[str, Pipeline]
) -> None:
    pipeline = pipelines[kind]
    seen = [
        run(
            guided(pipeline),
            diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=p),
        )
        for p in ("epsilon", "v_prediction", "sample")
    ]
    torch.testing.assert_close(seen[0][-1].latents, seen[1][-1].latents, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(seen[0][-1].latents, seen[2][-1].latents, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_is_a_single_run(name: str) -> None:
    scheduler = replace_scheduler(diffusers_pipeline().scheduler, name)
    both = run(gaussian, scheduler)[-1].latents
    alone = run(gaussian, scheduler, b=1, seed=6)[-1].latents
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_where_it_was_stopped(name: str) -> None:
    scheduler = replace_scheduler(diffusers_pipeline().scheduler, name)
    whole = run(gaussian, scheduler)
    asked = []

    def counted(x: Tensor, sigma: float | Tensor) -> Tensor:
        asked.append(sigma)
        return gaussian(x, sigma)

    clock = Clock(seed=5)
    noise = clock.normal("latents", 2, SHAPE)
    seen = torch.zeros(evaluations(scheduler, 6), 2, *SHAPE)
    with torch.no_grad():
        first = sample(counted, scheduler, noise, clock, steps=6, seen=seen)
        assert [next(first).index for _ in range(3)] == [0, 1, 2]
        stopped = Clock(seed=5, index=clock.index)
        rest = list(sample(counted, scheduler, noise, stopped, steps=6, seen=seen))
    assert [step.index for step in rest] == list(range(3, len(whole)))
    assert len(asked) == len(whole)
    assert torch.equal(rest[-1].latents, whole[-1].latents)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be from 1 to 1000"),
        ({"steps": 1001}, "steps must be from 1 to 1000"),
        ({"strength": 0.0, "start": torch.zeros(1, *SHAPE)}, "strength must be above 0"),
        ({"strength": 0.1, "start": torch.zeros(1, *SHAPE)}, "leaves none of 6 steps"),
        ({"strength": 0.5}, "there is none; give a start"),
        ({"mask": torch.zeros(1, 1, 8, 8)}, "give a start"),
    ],
)
def test_mistakes_are_told(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(gaussian, diffusers_pipeline().scheduler, **settings)


def test_a_scheduler_that_does_not_tell_its_noise() -> None:
    with pytest.raises(InputError, match="IPNDMScheduler does not tell"):
        run(gaussian, diffusers.IPNDMScheduler())
    with pytest.raises(InputError, match=r"scheduler must be one of .*euler"):
        replace_scheduler(diffusers_pipeline().scheduler, "eular")
