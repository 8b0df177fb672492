"""Plain pixels that grow from coarse to fine until they match the prompt."""

from pathlib import Path
from typing import Literal

from torch import Tensor

import guidance as g
from guidance import options


def main(
    prompt: options.Prompt,
    *,
    steps: int = 200,
    preset: Literal["page", "pixray"] = "page",
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
    """Paint a prompt in pixels, the large forms first; gives a picture and a film.

    Args:
        steps: How many times the pixels are improved.
        preset: page, an object on white in nearly still views: best with a guide that was trained to draw,
            such as tiny; or pixray, from grey noise in pixray's wild views, for guides that know photographs.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    frame = (size, size if width is None else width)
    if preset == "pixray":
        canvas = g.Pixels(frame, clock, b=best_of, colour=(0.5, 0.5, 0.5), noise=0.2)
        views = g.Crops.pixray(clock, crops)
    else:
        canvas = g.Pixels(frame, clock, b=best_of, lr=0.06)
        views = g.Crops.drifting(clock, crops)
    canvas.to(where)

    guides = g.load_guides(clip, device=where, precision=precision)
    noise = {"noise": (g.linear(0.0, 0.7), g.total_variation)}
    losses = g.clip_losses(guides, prompts, views, separate=report) | noise
    if preset == "page":
        # Without the first, some scenes fill the page with a pattern; without the second, edges stay pale.
        losses |= {
            "ink": (g.linear(0.1, 0.3), ink),
            "paleness": (lambda progress: max(0.0, 4 * progress - 2), paleness),
        }
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))


def ink(image: Tensor) -> Tensor:
    """How far the pixels are from white, `[b, 3, h, w]` to `[b]`."""
    return (1 - image).mean((1, 2, 3))


def paleness(image: Tensor) -> Tensor:
    """How far the channels are from all or nothing, `[b, 3, h, w]` to `[b]`."""
    return (image * (1 - image)).mean((1, 2, 3))
