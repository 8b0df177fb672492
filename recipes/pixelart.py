"""Pixel art: a small grid of cells in a few colours that match the prompt."""

from pathlib import Path

import guidance as g
from guidance import options


def main(
    prompt: options.Prompt,
    *,
    steps: int = 200,
    cells: int = 32,
    colours: int = 8,
    palette: str | None = None,
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
    """Draw a prompt in pixel art, a few flat colours in crisp cells; gives a picture and a film.

    Args:
        steps: How many times the cells are improved.
        cells: How many cells a side.
        colours: How many colours to learn, or at most to take from a picture.
        palette: The colours to use, "#1d2b53, #ff004d, white", or those of a picture, "@sprite.png".
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    where = g.device(device)
    chosen = colours if palette is None else g.read_palette(palette, colours)
    canvas = g.Palette(cells, clock, b=best_of, colours=chosen)
    canvas.to(where)

    views = g.Crops.drifting(clock, crops)
    guides = g.load_guides(clip, device=where, precision=precision)
    # Of a picture of blocks only the pairs of pixels at their edges count.
    specks = (g.linear(0.0, 0.4 * canvas.block), g.total_variation)
    losses = g.clip_losses(guides, prompts, views, separate=report) | {"specks": specks}
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock):
        pass

    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
