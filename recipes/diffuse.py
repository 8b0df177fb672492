"""Stable Diffusion (Rombach et al. 2022): a picture of a prompt out of noise, without CLIP's gradient."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter
from torch.nn import functional

import guidance as g
from guidance import options
from guidance.diffusion.denoiser import denoiser
from guidance.diffusion.inversion import load_word, teach
from guidance.diffusion.pipeline import Precision, load_pipeline
from guidance.diffusion.sampled import Sampled
from guidance.diffusion.sampling import evaluations, sample
from guidance.diffusion.schedulers import SchedulerName
from guidance.media import read_fitted


def main(
    prompt: Annotated[
        str, Parameter(help="What to show; a => b: one after the other; weights as the dialect has them.")
    ],
    *,
    model: options.Pipeline = "tiny",
    steps: int = 20,
    scale: float = 4.0,
    negative: options.Negative = "",
    dialect: options.Dialect = "plain",
    embedding: options.Embedding = (),
    long: bool = False,
    clip_skip: int = 0,
    scheduler: SchedulerName | Literal["own"] = "dpm++",
    size: int | None = None,
    width: options.Width = None,
    strength: float = 0.6,
    mask: Path | None = None,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    tiling: bool = False,
    start: options.Start = None,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Show a prompt with a Stable Diffusion, out of noise or out of a picture; gives a picture and a film.

    Args:
        steps: How many steps it takes from noise to the picture.
        scale: How much more than a picture of nothing it shall be one of the prompt; 7.5 suits large models.
        long: What does not fit into a context goes on in the next, instead of being cut off.
        clip_skip: How many of the text encoder's last layers are left out.
        scheduler: The sampler, or own, the one of the model.
        size: Side of the picture in pixels; that of the model's training if not given.
        strength: Of start: how much of the noise is put on it, from 0, which leaves it, to 1, which leaves
            nothing of it.
        mask: Of start: a picture that is white where to paint; elsewhere the start stays.
        clip: The model that chooses the best.
        tiling: Decode the picture in pieces, for less memory.
    """
    run = g.Run(__file__, locals())
    if mask is not None and start is None:
        raise g.InputError("a mask says where the start stays as it is; give --start as well")
    where = g.device(device)
    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload, tiling=tiling)
    if scheduler != "own":
        pipeline = pipeline.with_scheduler(scheduler)
    height = size or pipeline.size
    sides = (height, width or height)
    strength = 1.0 if start is None else strength
    clock = g.Clock(evaluations(pipeline.scheduler, steps, strength), seed)
    noise = pipeline.noise(clock, best_of, sides)
    picture = None if start is None else read_fitted(start, sides).to(where)
    hole = None if mask is None else read_fitted(mask, sides).mean(1, keepdim=True).to(where)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        image = pipeline.vae.decode(latents)
        return image if hole is None or picture is None else picture.lerp(image, hole)

    with torch.no_grad():
        teach(pipeline.text, [load_word(path) for path in embedding])
        changing = pipeline.text.schedule(
            prompt, clock.steps, dialect=dialect, clip_skip=clip_skip, long=long
        )
        without = pipeline.text.encode_negative(negative, dialect=dialect, clip_skip=clip_skip, long=long)
        canvas = Sampled(decode, noise, clock.steps)
        steps_down = sample(
            # By steps, as in the tools that have such prompts, not by how much noise there is.
            denoiser(pipeline, lambda _: changing(clock.progress), without, scale),
            pipeline.scheduler,
            noise,
            clock,
            steps=steps,
            start=None if picture is None else pipeline.vae.encode(picture),
            strength=strength,
            mask=None if hole is None else functional.interpolate(hole, noise.shape[-2:], mode="area"),
            seen=canvas.seen,
        )
        followed = canvas.follow(steps_down, shown=film != "none")
        for _ in run.track(followed, canvas, torch.optim.SGD(canvas.parameters()), clock):
            pass
        scores = None
        if best_of > 1:
            judge = g.load(clip, device=where)
            scores = (judge.encode_image(canvas()) @ judge.encode_text([prompt]).T)[:, 0]
        return run.finish(canvas, scores)
