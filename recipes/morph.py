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
    device: options.Device = "auto",
    precision: options.Precision = "float32",
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
    prompts = g.parse(prompt)
    where = g.device(device)
    canvas = g.Strokes(
        paths,
        size,
        clock,
        segments=(1, 1),
        extent=0.9,
        reach=0.2,
        width=(size / 28, size / 8),
        width_limits=(size / 224, size / 4),
        opacity=(0.0, 0.1),
    )
    canvas.to(where)

    views = g.Crops.calm(clock, crops)
    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views)
    # Without names, the groups keep their first rates: the last scene has as far to go as the others.
    optimizer = torch.optim.Adam(
        [{"params": group["params"], "lr": at(group["lr"], 0.0)} for group in canvas.param_groups()]
    )
    for _ in run.track(g.optimize(canvas, losses, clock, optimizer), canvas, optimizer, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
