"""Closed shapes of one colour each, as diffvg's painterly blobs and LIVE have them, that match the prompt."""

from pathlib import Path

import guidance as g
from guidance import options


def main(
    prompt: options.Prompt,
    *,
    steps: int = 180,
    paths: int = 128,
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
    """Draw a prompt with closed filled shapes; gives an SVG, a picture and a film.

    Args:
        steps: How many times the shapes are improved.
        paths: How many shapes.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    # Like the strokes of clipdraw, the shapes begin nearly invisible.
    canvas = g.Shapes(paths, size, clock, b=best_of, radius=(0.03, 0.12), opacity=(0.0, 0.1))
    canvas.to(where)

    views = g.Crops.calm(clock, crops)
    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views, separate=report)
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
