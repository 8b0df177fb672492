"""CLIPasso (Vinker et al. 2022): a picture as a few strokes of black ink, which CLIP finds alike."""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

import guidance as g
from guidance import options
from guidance.canvas.grids import check_members
from guidance.crops import clean_views


class Best(torch.nn.Module):
    """Every member's best points so far, and whether it is done: two looks within 1e-5 of its best.

    A part of the canvas, so that checkpoints hold it. A member that is done keeps its points, whatever the
    others do.
    """

    points: torch.Tensor
    losses: torch.Tensor
    still: torch.Tensor

    def __init__(self, canvas: g.Strokes) -> None:
        super().__init__()
        b = len(canvas.widths)
        self.register_buffer("points", canvas.points.detach().view(b, -1, 2).clone())
        self.register_buffer("losses", torch.full((b,), torch.inf))
        self.register_buffer("still", torch.zeros(b, dtype=torch.long))

    def look(self, canvas: g.Strokes, losses: torch.Tensor) -> bool:
        """Whether all members are done; CLIPasso's rule."""
        change, going = losses - self.losses, self.still < 2
        better = going & (change < -1e-5)
        self.points[better] = canvas.points.detach().view_as(self.points)[better]
        self.losses[better] = losses[better]
        self.still[better] = 0
        self.still[going & (change.abs() <= 1e-5)] += 1
        return bool((self.still >= 2).all())


def main(
    picture: Path,
    prompt: str = "",
    *,
    steps: int = 250,
    paths: int = 32,
    preset: Literal["outlines", "clipasso"] = "outlines",
    size: options.Size = 128,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 4,
    templates: options.Templates = "plain",
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Sketch a picture with strokes of black ink; gives an SVG, a picture and a film.

    Args:
        picture: The picture to sketch, best on a plain ground.
        prompt: What it should look like besides, in words.
        steps: How often the strokes are improved at most; the sketch is done when it no longer gets better.
        paths: How many strokes; fewer are more abstract.
        preset: outlines, which compares the sketch with the picture's outlines, since a guide such as tiny
            knows no sketches; or clipasso, the paper's, which compares it with the picture. The paper has
            --preset clipasso --clip RN101/openai --paths 16 --steps 2000 --size 224 --best-of 3.
    """
    run = g.Run(__file__, locals())
    check_members(best_of)
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates)) if prompt else []
    where = g.device(device)
    paper = preset == "clipasso"
    whole = g.read_image(picture).to(where)
    scale = 224 / max(whole.shape[2:])
    sides = [max(1, round(scale * side)) for side in whole.shape[2:]]
    whole = F.interpolate(whole, sides, mode="bilinear", antialias=True)
    drawn = (1 - g.outlines(whole, broad=paper)).expand_as(whole)
    # Outlines first, then squares: a picture's own frame is no outline.
    pictured, drawn = (clean_views(image, 224, spans=(1.0,))[:, 0] for image in (whole, drawn))
    lines = 1 - drawn[0, 0]
    views = g.Crops.clipasso(clock, crops) if paper else g.Crops.calm(clock, crops)

    guides = g.load_guides(clip, device=where, precision=precision)
    chart = torch.stack([share * g.salience(model, pictured, lines) for share, model in guides.values()])
    starts = g.salient_places(chart.sum(0), paths, clock, b=best_of, temperature=0.3 if paper else 1.0)
    canvas = g.Strokes(
        paths,
        size,
        clock,
        b=best_of,
        segments=(1, 1),
        reach=0.05 if paper else 0.1,
        width=(3 * size / 224,) * 2,
        width_limits=(0, size),
        starts=starts,
        ink=(0.0, 0.0, 0.0),
    )
    best = Best(canvas)
    canvas.add_module("best", best)
    canvas.to(where)

    target, layers = (pictured, (-3, -2)) if paper else (drawn, (-4, -3, -2))
    likeness = {
        f"likeness/{name}": (share, g.PerceptualLoss.clipasso(model, target, views, layers=layers))
        for name, (share, model) in guides.items()
    }
    losses: dict[str, Any] = dict(likeness)
    if not paper:
        losses["crossing"] = (0.1, g.XingLoss(canvas))
    if prompts:
        losses |= g.clip_losses(guides, prompts, views, separate=report)
    # The paper's rate is the same to the end; the canvas's own falls.
    optimizer = torch.optim.Adam([canvas.points], lr=1 / size) if paper else None

    def look() -> bool:
        with torch.no_grad():
            image = canvas()
        plain = torch.stack([share * loss.plain(image) for share, loss in likeness.values()])
        return best.look(canvas, plain.sum(0))

    for step in run.optimize(canvas, losses, clock, optimizer):
        if step.index % 10 == 9 and look():
            break
    look()

    with torch.no_grad():
        canvas.points.copy_(best.points.flatten(0, 1))
    return run.finish(canvas, scores=-best.losses)
