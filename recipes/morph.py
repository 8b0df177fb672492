"""A story in film: the picture turns into one scene of the prompt after the other."""

from pathlib import Path

import torch

import guidance as g
from guidance import options
from guidance.clock import at


def main(
    prompt: options.Prompt,
    *,
    steps: int = 450,
    paths: int = 192,
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
    """Film a story, such as "red heart => blue heart => green heart", in brush strokes.

    Args:
        steps: How many times the strokes are improved, in all scenes together.
        paths: How many strokes.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    canvas = g.Strokes.dabs(paths, size, clock, b=best_of)
    canvas.to(where)

    views = g.Crops.calm(clock, crops)
    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views, separate=report)
    # Without names, the groups keep their first rates: the last scene has as far to go as the others.
    optimizer = torch.optim.Adam(
        [{"params": group["params"], "lr": at(group["lr"], 0.0)} for group in canvas.param_groups()]
    )
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock, optimizer):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
