"""CLIP-guided diffusion (Crowson 2021; Dhariwal and Nichol 2021): a Stable Diffusion that CLIP steers."""

import sys
import time
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter

import guidance as g
from guidance import options
from guidance.diffusion.denoiser import Denoiser, denoiser
from guidance.diffusion.guided import is_guided
from guidance.diffusion.pipeline import Precision, load_pipeline
from guidance.diffusion.sampled import Sampled
from guidance.diffusion.sampling import evaluations, sample
from guidance.diffusion.schedulers import SchedulerName
from guidance.media import read_fitted


def main(
    prompt: Annotated[
        str, Parameter(help="What to show: conditions the pipeline, and CLIP guides it there.")
    ],
    *,
    guidance: str | None = None,
    model: options.Pipeline = "tiny",
    steps: int = 20,
    scale: float = 4.0,
    negative: options.Negative = "",
    clip_scale: float = 3.0,
    clamp: float = 0.3,
    every: int = 1,
    window: tuple[float, float] = (0.0, 0.8),
    gradient: Literal["picture", "full"] = "picture",
    checkpointed: bool = False,
    scheduler: SchedulerName | Literal["own"] = "dpm++",
    size: int | None = None,
    width: options.Width = None,
    strength: float = 0.6,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 8,
    templates: options.Templates = "plain",
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    start: options.Start = None,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Show a prompt with a Stable Diffusion that CLIP guides, out of noise or out of a picture.

    Args:
        guidance: What CLIP guides to, if not to the prompt; several with weights: "blue:0.5 | @cat.png".
        steps: How many steps it takes from noise to the picture.
        scale: Of the prompt without CLIP (classifier-free guidance); 7.5 suits large models.
        clip_scale: How strongly CLIP guides; 0 not at all.
        clamp: How far CLIP may move the picture in a step, of what is still open in it: 0.3 is three tenths.
        every: Every how many steps CLIP guides, then as much longer.
        window: The part of the steps in which CLIP guides.
        gradient: picture, to the predicted picture only, for less time and memory, and better with tiny; or
            full, through the network, as the papers have it, where a clip_scale of 1 is strong.
        checkpointed: Less memory for a third more time.
        scheduler: The sampler, or own, the one of the model.
        size: Side of the picture in pixels; that of the model's training if not given.
        strength: Of start: how much of the noise is put on it, from 0, which leaves it, to 1, which leaves
            nothing of it.
    """
    run = g.Run(__file__, locals())
    if offload != "none" and gradient == "full":
        raise g.InputError(
            f"a gradient through the network needs it whole, and offload {offload} takes it away; give "
            "--gradient picture, or leave offload out"
        )
    prompts = g.parse(prompt if guidance is None else guidance, g.read_templates(templates))
    where = g.device(device)
    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload)
    if scheduler != "own":
        pipeline = pipeline.with_scheduler(scheduler)
    height = size or pipeline.size
    sides = (height, width or height)
    strength = 1.0 if start is None else strength
    clock = g.Clock(evaluations(pipeline.scheduler, steps, strength), seed)
    noise = pipeline.noise(clock, best_of, sides)
    views = g.Crops.calm(clock, crops)
    picture = None if start is None else read_fitted(start, sides).to(where)
    guides = g.load_guides(clip, device=where)

    with torch.no_grad():
        condition, without = pipeline.text.encode(prompt), pipeline.text.encode_negative(negative)
        plain = denoiser(pipeline, condition, without, scale)
        losses: dict[str, torch.Tensor] = {}
        towards = g.guide(
            plain,
            g.clip_losses(guides, prompts, views),
            pipeline.vae.decode,
            clock,
            clip_scale,
            every=every,
            window=window,
            clamp=clamp,
            limit=pipeline.trained.limit(torch.tensor([inf], dtype=torch.float64)).item(),
            through_network=gradient == "full",
            checkpointed=checkpointed,
            record=losses,
        )
        if resume is None:
            print(cost(plain, towards, noise, clock, every, window), file=sys.stderr)
        canvas = Sampled(pipeline.vae.decode, noise, clock.steps)
        taken = sample(
            towards,
            pipeline.scheduler,
            noise,
            clock,
            steps=steps,
            start=None if picture is None else pipeline.vae.encode(picture),
            strength=strength,
            seen=canvas.seen,
        )
        followed = canvas.follow(taken, losses, shown=film != "none")
        for _ in run.track(followed, canvas, torch.optim.SGD(canvas.parameters()), clock):
            pass
        return run.finish(canvas, g.guide_score(guides, prompts, canvas()))


def cost(
    plain: Denoiser,
    towards: Denoiser,
    x: torch.Tensor,
    clock: g.Clock,
    every: int,
    window: tuple[float, float],
) -> str:
    """What guidance takes, by taking one step of either kind."""
    guided = [i for i in range(clock.steps) if is_guided(g.Clock(clock.steps, index=i), every, window)]
    seconds = []
    for denoise, index in ((plain, 0), (towards, guided[0] if guided else 0)):
        began, clock.index = time.monotonic(), index
        denoise(x, 1.0).sum().item()  # which waits for a GPU
        seconds.append(time.monotonic() - began)
    clock.index = 0
    total = clock.steps * seconds[0] + len(guided) * (seconds[1] - seconds[0])
    return (
        f"{clock.steps} evaluations of the network, {len(guided)} of them guided: about {total:.0f} s, "
        f"{clock.steps * seconds[0]:.0f} s without guidance"
    )
