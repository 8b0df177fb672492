"""What needs a GPU or real weights: half precision, offloading, Stable Diffusion and XL as diffusers'."""

import diffusers
import pytest
import torch
from torch import Tensor

import guidance as g
from guidance.clock import Clock
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.guided import guide
from guidance.diffusion.pipeline import Offload, Pipeline, Precision, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.diffusion.sampling import sample
from guidance.diffusion.text_encoders import TextEncoders

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
XL = "stabilityai/stable-diffusion-xl-base-1.0"


def picture(pipeline: Pipeline, *, guided: bool = False) -> Tensor:
    """A red heart in eight steps, towards blue if guided, on the CPU."""
    pipeline = pipeline.with_scheduler("euler")
    clock = Clock(8)
    denoise = denoiser(pipeline, pipeline.text.encode("a red heart"), pipeline.text.encode("a fish"), 3.0)
    if guided:
        losses = {"blue": lambda images: 1 - images[:, 2].mean((1, 2))}
        denoise = guide(denoise, losses, pipeline.vae.decode, clock, 50.0, through_network=False)
    with torch.no_grad():
        for step in sample(denoise, pipeline.scheduler, pipeline.noise(clock, 2, (64, 64)), clock, steps=8):
            latents = step.latents
        return pipeline.vae.decode(latents).cpu()


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "near"), [("float32", 0.01), ("float16", 0.1), ("bfloat16", 0.3)])
@pytest.mark.parametrize("guided", [False, True])
def test_the_gpu_draws_what_the_cpu_draws(precision: Precision, near: float, guided: bool) -> None:
    expected = picture(load_pipeline("tiny"), guided=guided)
    found = picture(load_pipeline("tiny", device="cuda", precision=precision), guided=guided)
    assert found.isfinite().all()
    assert (found - expected).abs().mean() < near


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_nothing(offload: Offload) -> None:
    whole = load_pipeline("tiny", device="cuda")
    away = load_pipeline("tiny", device="cuda", offload=offload)
    for guided in (False, True):
        torch.testing.assert_close(
            picture(away, guided=guided), picture(whole, guided=guided), atol=1e-3, rtol=0
        )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_gradient_of_a_prompt_on_the_gpu(precision: Precision) -> None:
    gradients = []
    for device, kind in (("cpu", "float32"), ("cuda", precision)):
        pipeline = load_pipeline("tiny", device=device, precision=kind).with_scheduler("ddim")
        condition = pipeline.text.encode("a red heart")
        condition.hidden.requires_grad_()
        noise = pipeline.noise(Clock(), 1, (64, 64))
        render = renderer(pipeline, noise, pipeline.text.encode(""), steps=4)
        render(condition)[:, 2].mean().backward()
        gradients.append(condition.hidden.grad.flatten().cpu())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.network
@pytest.mark.parametrize("xl", [False, True])
def test_real_pipelines_predict_what_diffusers_predicts(xl: bool) -> None:
    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    place, size = (XL, 256) if xl else (SD1, 128)
    ours = load_pipeline(f"hf-hub:{place}").with_scheduler("ddim")
    theirs = kind.from_pretrained(place, torch_dtype=torch.float32, use_safetensors=True)
    theirs.scheduler = ours.scheduler
    noise = ours.noise(Clock(), 1, (size, size))
    denoise = denoiser(ours, ours.text.encode("a fox, oil on canvas"), ours.text.encode_negative(""), 5.0)
    with torch.no_grad():
        for step in sample(denoise, ours.scheduler, noise, Clock(2), steps=2):
            found = step.latents
        expected = theirs(
            "a fox, oil on canvas",
            height=size,
            width=size,
            num_inference_steps=2,
            guidance_scale=5.0,
            latents=noise,
            output_type="latent",
        ).images
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.network
def test_stable_diffusion_1_listens_to_openais_vit_l_14() -> None:
    pipeline = load_pipeline(f"hf-hub:{SD1}")
    found = pipeline.text.encode("a red heart").hidden
    assert found.shape == (1, 77, 768)
    model, tokenizer = text_encoder(g.load("ViT-L-14/openai"))
    expected = TextEncoders([model], [tokenizer]).encode("a red heart").hidden
    torch.testing.assert_close(found[:, :5], expected[:, :5], atol=1e-2, rtol=1e-2)
