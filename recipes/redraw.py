"""Goes on from an SVG: its paths move and change colour until CLIP finds them to match the prompt."""

from pathlib import Path

import guidance as g
from guidance import options


def main(
    drawing: Path,
    prompt: options.Prompt,
    *,
    steps: int = 120,
    size: options.Size = 224,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 8,
    templates: options.Templates = "plain",
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Change an SVG towards a prompt, path by path; gives an SVG, a picture and a film.

    Args:
        drawing: The SVG to begin with; what it has beyond paths, colours and gradients is named and left out.
        steps: How many times the paths are improved: fewer stay closer to the drawing.
    """
    run = g.Run(__file__, locals())
    scene, (height, width) = g.read_svg(drawing)
    canvas = g.Drawing(scene, size, aspect=height / width)
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    canvas.to(where)

    views = g.Crops.calm(clock, crops)
    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views, separate=report)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
