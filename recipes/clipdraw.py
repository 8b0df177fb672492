"""CLIPDraw (Frans et al. 2021): brush strokes that CLIP finds to match the prompt."""

from pathlib import Path
from typing import Literal

import guidance as g
from guidance import options


def main(
    prompt: options.Prompt,
    *,
    steps: int = 180,
    paths: int = 256,
    preset: Literal["dabs", "clipdraw"] = "dabs",
    size: options.Size = 224,
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
    """Draw a prompt with brush strokes; gives an SVG, a picture and a film.

    Args:
        steps: How many times the strokes are improved.
        paths: How many strokes.
        preset: dabs, short broad strokes that begin nearly invisible, in calm views: best with a guide that
            was trained to draw, such as tiny; or clipdraw, the paper's pen strokes in wild views.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    if preset == "clipdraw":
        canvas = g.Strokes(paths, size, clock, b=best_of)
        views = g.Crops.clipdraw(clock, crops)
    else:
        canvas = g.Strokes.dabs(paths, size, clock, b=best_of)
        views = g.Crops.calm(clock, crops)
    canvas.to(where)

    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views, separate=report)
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
