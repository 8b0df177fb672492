"""Sine waves of decorrelated colours, as in Lucid and aphantasia, that match the prompt."""

from pathlib import Path
from typing import Literal

from torch import Tensor

import guidance as g
from guidance import options


def main(
    prompt: options.Prompt,
    *,
    steps: int = 200,
    preset: Literal["page", "aphantasia"] = "page",
    size: options.Size = 160,
    width: options.Width = None,
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
    """Grow a prompt out of waves of colour; gives a picture and a film.

    Args:
        steps: How many times the waves are improved.
        preset: page, an object on white in nearly still views: best with a guide that was trained to draw,
            such as tiny; or aphantasia, its dense dreams of large models, there with --size 720 --width 1280
            --crops 190.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    frame = (size, size if width is None else width)
    if preset == "aphantasia":
        canvas = g.Fourier(frame, clock, b=best_of, sd=0.07, decay=1.5, lowest=4.0, colours=1.8, contrast=1.1)
        views = g.Crops.aphantasia(clock, crops)
        distance, smooth, betas = cosine_and_angle, g.linear(0.0, 0.0), (0.0, 0.999)
    else:
        # Slower falls of amplitude, or larger steps, dissolve the form into specks.
        rate = g.linear(0.05, 0.005)
        canvas = g.Fourier(frame, clock, b=best_of, decay=2.0, colour=(0.97, 0.97, 0.97), lr=rate)
        views = g.Crops.drifting(clock, crops)
        distance, smooth, betas = g.cosine_distance, g.linear(0.0, 0.7), (0.9, 0.999)
    canvas.to(where)

    guides = g.load_guides(clip, device=where, precision=precision)
    noise = {"noise": (smooth, g.total_variation)}
    losses = g.clip_losses(guides, prompts, views, distance, separate=report) | noise
    optimizer = g.adam(canvas)
    for group in optimizer.param_groups:
        group["betas"] = betas
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock, optimizer):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))


def cosine_and_angle(u: Tensor, v: Tensor) -> Tensor:
    """aphantasia's distance of embeddings, `[..., d]` to `[...]`."""
    return g.cosine_distance(u, v) + 0.25 * g.great_circle(u, v)
