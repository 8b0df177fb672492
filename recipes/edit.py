"""StyleCLIP (Patashnik et al. 2021): text moves a latent of StyleGAN2, in the paper's three ways."""

from math import inf, isfinite
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import options
from guidance.generator.directions import text_change
from guidance.generator.loading import load_generator
from guidance.generator.mapper import load_mapper
from guidance.generator.moves import Moved, difference, strip, styleclip_rate, sweep
from guidance.media import write_png


def main(
    prompt: options.Prompt,
    *,
    method: Literal["latent", "mapper", "direction"] = "latent",
    source: str = "face",
    start: options.Start = None,
    generator: str = "tiny",
    steps: int = 300,
    l2: float = 0.002,
    mapper: Path | None = None,
    strength: float | None = None,
    beta: float = 0.15,
    latents: int = 8,
    draws: int = 64,
    truncation: float = 0.7,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 4,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Change what a StyleGAN2 shows towards a prompt; gives pictures before and after, a strip, a film.

    Args:
        method: latent, the latent is optimised; mapper, it is moved by a network that `guidance train-mapper`
            trained; or direction, it is moved in one direction for all latents, from `source` to the prompt.
        source: What the picture shows before: the best match of some drawn latents is edited, unless `start`
            is given.
        generator: tiny, or the file of a StyleGAN2: rosinality's .pt, or safetensors.
        steps: How many times the latent is improved; of the other methods, pictures in the film.
        l2: Of latent: weight of the squared distance from the start; the paper has 0.008, for large faces.
        mapper: Of mapper: the mapper.safetensors.
        strength: How far: of mapper in its changes, 1 if not given; of direction in standard deviations of
            the channel that moves most, 3 if not given.
        beta: Of direction: channels that are less relevant than this stay as they are.
        latents: Of direction: how many latents the relevance of channels is the mean of; the paper has 100.
        draws: How many latents are drawn to find `source`.
        truncation: How far drawn latents may be from their mean: 1, as they are drawn; 0, the mean itself.
    """
    run = g.Run(__file__, locals())
    for name, value in (("l2", l2), ("beta", beta)):
        if not 0 <= value < inf:
            raise g.InputError(f"{name} must be a finite number, 0 or more, got {value}")
    if strength is not None and not isfinite(strength):
        raise g.InputError(f"strength must be a finite number, got {strength}")
    if method == "latent" and strength is not None:
        raise g.InputError("the method latent has no strength; take more or fewer --steps, or another --l2")
    clock = g.Clock(steps, seed)
    prompts, neutral = g.parse(prompt), g.parse(source)
    views = g.Crops.calm(clock, crops)
    where = g.device(device)
    if method == "direction" and "|" in clip:
        raise g.InputError(f"a direction is computed by one model, got {clip!r}; give one")
    if (method == "mapper") != (mapper is not None):
        raise g.InputError(
            "the method mapper needs a mapper, the others none; train one by guidance train-mapper"
        )
    network = load_generator(generator, device=where)
    trained = None if mapper is None else load_mapper(mapper, network)
    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views, separate=report)

    drawn = network.draw(clock, draws, truncation)
    with torch.no_grad():
        best = g.guide_score(guides, neutral, network(drawn)).argmax()
    latent = g.Latents(network.forward, drawn[best][None], lr=styleclip_rate(0.1))
    run.start(latent)
    w = latent.latents.detach().clone()
    styles = network.styles(w)

    canvas: g.Canvas = latent
    if method == "latent":
        strength = 1.0
        near = (l2 * w.numel(), g.LatentLoss(latent.latents))
        for _ in run.optimize(latent, losses | {"near": near}, clock):
            pass
        change = difference(network.styles(latent.latents.detach()), styles)
    else:
        if trained is not None:
            strength = 1.0 if strength is None else strength
            change = difference(network.styles(w + trained(w)), styles)
        else:
            strength = 3.0 if strength is None else strength
            _, model = next(iter(guides.values()))
            change = text_change(network, model, neutral, prompts, network.draw(clock, latents, 1.0), beta)
        canvas = moved = Moved(network, styles, change)
        optimizer = g.adam(moved)
        steps_up = sweep(moved, strength, losses, clock)
        for _ in run.track(steps_up, moved, optimizer, clock):
            pass

    with torch.no_grad():
        write_png(run.folder / "before.png", network(w))
        write_png(run.folder / "strip.png", strip(network, styles, change, strength))
        return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
