"""StyleCLIPDraw (Schaldenbrand et al. 2022): strokes that show a prompt in the style of a picture."""

from math import inf
from pathlib import Path
from typing import Literal

import guidance as g
from guidance import options
from guidance.clock import Schedule, at
from guidance.optimization import Loss


def main(
    prompt: options.Prompt,
    picture: Path,
    *,
    steps: int = 180,
    paths: int = 256,
    preset: Literal["dabs", "styleclipdraw"] = "dabs",
    features: Literal["clip", "vgg16"] = "clip",
    style: float = 1.5,
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
    """Draw a prompt in the style of a picture; gives an SVG, a picture and a film.

    Args:
        picture: The picture whose colours and textures the drawing takes on; not what it shows.
        steps: How many times the strokes are improved; in the last tenth by the style alone.
        paths: How many strokes.
        preset: dabs, the short broad strokes of clipdraw, in calm views; or styleclipdraw, the paper's pen
            strokes in wild views. The paper has --preset styleclipdraw --features vgg16 --crops 10 --steps
            1000 --clip ViT-B-32/openai.
        features: What compares styles: the first guide's own layers, or VGG16, which is downloaded.
        style: The weight of the style beside the prompt's.
    """
    run = g.Run(__file__, locals())
    if not 0 <= style < inf:
        raise g.InputError(f"style must be a finite weight, 0 or more, got {style}")
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    example = g.read_image(picture).to(where)
    if preset == "styleclipdraw":
        canvas = g.Strokes(paths, size, clock, b=best_of)
        views = g.Crops.clipdraw(clock, crops)
    else:
        canvas = g.Strokes.dabs(paths, size, clock, b=best_of)
        views = g.Crops.calm(clock, crops)
    canvas.to(where)

    guides = g.load_guides(clip, device=where, precision=precision)
    _, first = next(iter(guides.values()))
    seen = g.vgg16_features(where) if features == "vgg16" else g.clip_features(first, (-4, -3, -2))
    losses: dict[str, tuple[Schedule, Loss]] = {
        name: (_until(0.9, weight), loss)
        for name, (weight, loss) in g.clip_losses(guides, prompts, views, separate=report).items()
    }
    losses["style"] = (style, g.StrotssLoss(seen, example, clock))
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))


def _until(end: float, weight: Schedule) -> Schedule:
    return lambda progress: at(weight, progress) if progress < end else 0.0
