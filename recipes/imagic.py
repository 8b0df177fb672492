"""Imagic (Kawar et al. 2023): a picture changed by words, between the embeddings of both."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import options
from guidance.diffusion.conditioning import Condition, blend, save_condition
from guidance.diffusion.learning import Learned, learn, read_pictures
from guidance.diffusion.pipeline import Precision, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.diffusion.schedulers import SchedulerName
from guidance.media import sheet, write_png


def main(
    picture: Path,
    prompt: str,
    *,
    strength: float = 0.7,
    preset: Literal["tiny", "imagic"] = "tiny",
    steps: int = 150,
    batch: int = 8,
    tune_steps: int = 0,
    tune_rate: float = 1e-4,
    model: options.Pipeline = "tiny",
    sampling: int = 20,
    scale: float = 4.0,
    scheduler: SchedulerName = "dpm++",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Change a picture by words; gives a picture, a sheet from the old one to the words, a film.

    Args:
        picture: The picture to change.
        prompt: What it shall show.
        strength: How far from the picture (0) to the words (1); the paper has 0.6 to 0.8.
        preset: The learning rate: tiny's, 0.02; or imagic, the paper's 0.001, with --steps 100 --batch 1
            --tune-steps 1500 --tune-rate 5e-7.
        steps: How often the embedding is brought nearer to the picture.
        batch: How many noisy versions of the picture a step sees.
        tune_steps: How often then the network is brought nearer to the picture as the embedding has it, for
            this run alone; 0 leaves it as it is.
        tune_rate: The learning rate of the network.
        sampling: How many steps it takes from noise to the picture.
        scale: How much more than a picture of nothing it shall be one of the embedding.
        scheduler: The sampler.
    """
    run = g.Run(__file__, locals())
    if not -inf < strength < inf:
        raise g.InputError(f"strength must be a finite number, got {strength}")
    if batch < 1:
        raise g.InputError(f"batch must be at least 1, got {batch}")
    if tune_steps < 0 or not 0 < tune_rate < inf:
        raise g.InputError(
            f"tune_steps must be at least 0 and tune_rate above 0, got {tune_steps} and {tune_rate}"
        )
    if tune_steps and (precision != "float32" or offload != "none"):
        raise g.InputError(
            f"a network is tuned in float32 and whole, got precision {precision} and offload {offload}; "
            "leave them out, or give --tune-steps 0"
        )
    clock = g.Clock(g.Clock(steps).steps + tune_steps, seed)
    where = g.device(device)
    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload)
    pipeline = pipeline.with_scheduler(scheduler)
    network = pipeline.unet if tune_steps else None
    sides = (pipeline.size, pipeline.size)
    empty = pipeline.text.encode_negative("")
    render = renderer(pipeline, pipeline.noise(clock, 1, sides), empty, steps=sampling, scale=scale)
    with torch.no_grad():
        latents = pipeline.vae.encode(read_pictures(picture, pipeline.size).to(where))
    target = pipeline.text.encode(prompt)
    falling = g.linear(0.02, 0.002)
    canvas = Learned(
        parts(target),
        lambda tensors: render(Condition(*tensors)),
        sides,
        lr=(lambda _: falling(clock.index / steps)) if preset == "tiny" else 0.001,
        network=network,
        network_lr=tune_rate,
    ).to(where)
    optimizer = g.adam(canvas)

    def caption(_: torch.Generator, __: int) -> Condition:
        return Condition(*canvas.tensors)

    def both() -> Iterator[g.Step]:
        yield from learn(canvas, caption, pipeline, latents, clock, optimizer, batch=batch, until=steps)
        canvas.tensors.requires_grad_(False)
        if network is not None:
            network.requires_grad_()
        yield from learn(canvas, caption, pipeline, latents, clock, optimizer, batch=batch)

    for _ in run.track(both(), canvas, optimizer, clock):
        pass

    with torch.no_grad():
        learned = Condition(*(tensor.detach() for tensor in canvas.tensors))
        save_condition(run.folder / "picture.safetensors", learned)
        way = [blend([learned, target], [1 - i / 5, i / 5]) for i in range(6)]
        write_png(run.folder / "way.png", sheet(torch.cat([render(condition) for condition in way])))
        wanted = blend([learned, target], [1 - strength, strength])
        for tensor, value in zip(canvas.tensors, parts(wanted), strict=True):
            tensor.copy_(value)
        return run.finish(canvas)


def parts(condition: Condition) -> list[torch.Tensor]:
    """The rows, and the pooled whole where there is one."""
    return [condition.hidden] if condition.pooled is None else [condition.hidden, condition.pooled]
