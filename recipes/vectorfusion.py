"""VectorFusion (Jain et al. 2023): closed shapes that a Stable Diffusion takes for the prompt."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

import guidance as g
from guidance import options
from guidance.diffusion.pipeline import Precision, load_pipeline


def main(
    prompt: Annotated[str, Parameter(help="What to draw.")],
    *,
    steps: int = 250,
    paths: int = 64,
    preset: Literal["calm", "vectorfusion"] = "calm",
    model: options.Pipeline = "tiny",
    scale: float | None = None,
    times: tuple[float, float] = (0.05, 0.95),
    renew: int | None = None,
    negative: options.Negative = "",
    size: options.Size = 128,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 1,
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    start: options.Start = None,
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Draw a prompt with closed shapes by score distillation; gives an SVG, a picture and a film.

    Args:
        steps: How many times the shapes are improved.
        paths: How many shapes.
        preset: calm, nearly the whole picture and times that fall: best with a small pipeline, such as tiny;
            or vectorfusion, the paper's views and rates, which had --model hf-hub:… (Stable Diffusion 1.5)
            --paths 128 --steps 1000 --size 600, and for --start the best picture of diffuse --best-of 6.
        scale: Of classifier-free guidance; by the preset, 20 or the paper's 100.
        times: Between which shares of the noise, none to all, the drawing is judged.
        renew: Every how many steps shapes that are hardly seen are drawn anew, on top of the others, until
            three quarters are done; by the preset, 0, which is never, or the paper's 100.
        clip: The model that chooses the best.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    where = g.device(device)
    paper = preset == "vectorfusion"
    if renew is not None and renew < 0:
        raise g.InputError(f"renew must be at least 0, got {renew}")
    every = renew if renew is not None else 100 if paper else 0
    if paper:
        canvas = g.Shapes(paths, size, clock, b=best_of, radius=(20 / 600, 20 / 600), wobble=0.0)
        area = (512 / 600) ** 2
        views = g.Crops(clock, crops, scale=(area, area), perspective=0.5, perspective_p=0.7)
        optimizer = torch.optim.Adam(
            [
                {"name": "paper's points", "params": [canvas.points], "lr": 1 / size},
                {"name": "colour", "params": [canvas.colours], "lr": 0.01},
            ],
            betas=(0.9, 0.9),
            eps=1e-6,
        )
    else:
        canvas = g.Shapes(paths, size, clock, b=best_of, radius=(0.03, 0.12), opacity=(0.0, 0.1))
        views = g.Crops(clock, crops, scale=(0.85, 1.0), rotation=5.0)
        optimizer = g.adam(canvas)
    canvas.to(where)

    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload)
    latents = pipeline.vae.channels * (pipeline.size // pipeline.vae.factor) ** 2
    with torch.no_grad():
        condition, unwanted = pipeline.text.encode(prompt), pipeline.text.encode_negative(negative)
    distillation = g.DistillationLoss(
        pipeline,
        condition,
        views,
        negative=unwanted,
        scale=scale if scale is not None else 100.0 if paper else 20.0,
        times=times if paper else (times[0], g.linear(times[1], (times[0] + times[1]) / 2)),
    )
    # The paper's weight is for the sum over the latents, and ours is their mean.
    losses: dict[str, Any] = {"distillation": distillation}
    losses["crossing"] = (0.01 / latents, g.XingLoss(canvas))
    run.start(canvas)
    for _ in run.optimize(canvas, losses, clock, optimizer):
        if every and clock.index % every == 0 and clock.progress <= 0.75:
            unused = canvas.unused(opacity=0.05, area=64 / 600**2)
            # Those of calm begin fainter than what is unused.
            canvas.renew_(unused, clock, optimizer, None if paper else (0.1, 0.2))

    with torch.no_grad():
        judge = g.load_guides(clip, device=where)
        return run.finish(canvas, g.guide_score(judge, g.parse(prompt), canvas()))
