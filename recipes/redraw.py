"""Goes on from an SVG: its paths move and change colour until CLIP finds them to match the prompt."""

from pathlib import Path
from typing import Literal

import guidance as g


def main(
    drawing: Path,
    prompt: str,
    *,
    steps: int = 120,
    size: int = 224,
    seed: int = 0,
    clip: str = "tiny",
    crops: int = 8,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs"),
    resume: Path | None = None,
) -> Path:
    """Change an SVG towards a prompt, path by path; gives an SVG, a picture and a film.

    Args:
        drawing: The SVG to begin with; what it has beyond paths, colours and gradients is named and left out.
        prompt: What it is to become: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5".
        steps: How many times the paths are improved: fewer stay closer to the drawing.
        size: Side of the canvas in pixels while drawing.
        seed: Another number gives other views, and so another result.
        clip: The model that judges: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        crops: How many augmented views of the drawing the model sees in a step.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support.
        output: The folder of all runs.
        resume: The folder of a run to go on with, which must have the same settings.
    """
    run = g.Run(__file__, locals())
    scene, (height, width) = g.read_svg(drawing)
    canvas = g.Drawing(scene, size, aspect=height / width)
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt)
    where = g.device(device)
    canvas.to(where)

    views = g.Crops(clock, crops, scale=(0.9, 1.0), whole=0.5, rotation=5.0, noise=g.linear(0.05, 0.0))
    model = g.load(clip, device=where, precision=precision)
    loss = g.ClipLoss(model, prompts, views)
    optimizer = g.adam(canvas)
    for _ in run.track(g.optimize(canvas, {"clip": loss}, clock, optimizer), canvas, optimizer, clock):
        pass

    return run.finish(canvas, scores=g.clip_score(model, prompts, canvas()))
