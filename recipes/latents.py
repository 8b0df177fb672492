"""VQGAN-CLIP (Crowson et al. 2022): an autoencoder's latent that CLIP finds to match the prompt."""

import os
from math import inf
from pathlib import Path
from typing import Literal

import torch

import guidance as g
from guidance import options
from guidance.media import read_fitted


def main(
    prompt: options.Prompt,
    *,
    steps: int = 120,
    vae: str = "tiny",
    preset: Literal["calm", "vqgan-clip"] = "calm",
    size: options.Size = 64,
    smooth: float = 0.3,
    checkpointed: bool = False,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 8,
    templates: options.Templates = "plain",
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    start: options.Start = None,
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Draw a prompt with an autoencoder, which knows how pictures look close by; gives a picture and a film.

    Args:
        steps: How many times the latent is improved.
        vae: The autoencoder: tiny; local-dir:… or hf-hub:…, an AutoencoderKL or a VQModel of diffusers'; or a
            .safetensors file.
        preset: calm, calm views and a learning rate that fades: best with a guide that was trained to draw,
            such as tiny; or vqgan-clip, the paper's wild views, loss and rate (it had 500 steps, 32 crops).
        smooth: Of calm: weight of the total variation, which takes specks away.
        checkpointed: Less memory for a third more time.
    """
    run = g.Run(__file__, locals())
    if not 0 <= smooth < inf:
        raise g.InputError(f"smooth must be a finite weight, 0 or more, got {smooth}")
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    space = g.load_vae(vae, device=where, precision=precision)
    latents = space.noise(clock, best_of, (size, size)).to(where)
    sides = (space.factor * latents.shape[-2], space.factor * latents.shape[-1])
    if preset == "calm":
        # A page with little on it: what is drawn on pure noise keeps its specks.
        with torch.no_grad():
            latents = space.encode(torch.ones(best_of, 3, *sides, device=where)) + 0.2 * latents
    if start is not None and not os.path.isdir(start) and resume is None:
        # From here the fit to the picture, which follows, has little left to do.
        with torch.no_grad():
            latents = space.encode(read_fitted(start, sides).to(where)).expand_as(latents)
    if preset == "vqgan-clip":
        canvas = g.Latents(space.decode, latents, lr=0.1, bounds=space.bounds, checkpointed=checkpointed)
        views, distance = g.Crops.vqgan_clip(clock, crops), g.great_circle
    else:
        rate, bounds = g.linear(0.1, 0.01), space.bounds or (-4.0, 4.0)
        canvas = g.Latents(space.decode, latents, lr=rate, bounds=bounds, checkpointed=checkpointed)
        views, distance = g.Crops.calm(clock, crops), g.cosine_distance
    canvas.to(where)

    guides = g.load_guides(clip, device=where, precision=precision)
    specks = {"smooth": (smooth, g.total_variation)} if preset == "calm" else {}
    losses = g.clip_losses(guides, prompts, views, distance, separate=report) | specks
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    with torch.no_grad():
        return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
