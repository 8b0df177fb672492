"""Closed shapes of one colour each, as diffvg's painterly blobs and LIVE have them, that match the prompt."""

from pathlib import Path
from typing import Literal

import guidance as g


def main(
    prompt: str,
    *,
    steps: int = 180,
    paths: int = 128,
    size: int = 224,
    seed: int = 0,
    clip: str = "tiny",
    crops: int = 8,
    best_of: int = 1,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    output: Path = Path("outputs"),
    resume: Path | None = None,
) -> Path:
    """Draw a prompt with closed filled shapes; gives an SVG, a picture and a film.

    Args:
        prompt: What to draw; several prompts with weights: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5".
        steps: How many times the shapes are improved.
        paths: How many shapes.
        size: Side of the canvas in pixels while drawing.
        seed: Another number gives another drawing.
        clip: The model that judges: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        crops: How many augmented views of the drawing the model sees in a step.
        best_of: How many drawings are made at once; the best is kept.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support.
        output: The folder of all runs.
        resume: The folder of a run to go on with, which must have the same settings.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt)
    where = g.device(device)
    # Like the strokes of clipdraw, the shapes begin nearly invisible.
    canvas = g.Shapes(paths, size, clock, b=best_of, radius=(0.03, 0.12), opacity=(0.0, 0.1))
    canvas.to(where)

    views = g.Crops(clock, crops, scale=(0.9, 1.0), whole=0.5, rotation=5.0, noise=g.linear(0.05, 0.0))
    model = g.load(clip, device=where, precision=precision)
    loss = g.ClipLoss(model, prompts, views)
    optimizer = g.adam(canvas)
    for _ in run.track(g.optimize(canvas, {"clip": loss}, clock, optimizer), canvas, optimizer, clock):
        pass

    return run.finish(canvas, scores=g.clip_score(model, prompts, canvas()))
