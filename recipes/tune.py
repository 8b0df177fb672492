"""Prompt tuning: the embedding of a prompt, moved until CLIP finds that its picture matches better."""

from math import inf
from pathlib import Path

import torch

import guidance as g
from guidance import options
from guidance.canvas.conditioning import Conditioning
from guidance.diffusion.conditioning import save_condition, stack
from guidance.diffusion.pipeline import Precision, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.diffusion.schedulers import SchedulerName
from guidance.media import write_png


def main(
    prompt: options.Prompt,
    *,
    begin: str | None = None,
    steps: int = 40,
    model: options.Pipeline = "tiny",
    sampling: int = 8,
    scale: float = 4.0,
    negative: options.Negative = "",
    scheduler: SchedulerName = "dpm++",
    rate: float = 0.02,
    radius: float = 0.5,
    smooth: float = 0.1,
    size: int | None = None,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 8,
    templates: options.Templates = "plain",
    best_of: options.BestOf = 1,
    device: options.Device = "auto",
    precision: Precision = "float32",
    offload: options.Offload = "none",
    on_nan: options.OnNan = "stop",
    report: options.Report = False,
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Improve what a Stable Diffusion is told of a prompt; gives pictures before and after, and a film.

    Args:
        begin: The words that the embedding begins as; those of the prompt if not given. A prompt that is a
            picture (@cat.png) needs some.
        steps: How many times the embedding is improved.
        sampling: How many steps it takes from noise to the picture, each time.
        scale: How much more than a picture of nothing it shall be one of the prompt; 7.5 suits large models.
        scheduler: The sampler.
        rate: Learning rate of Adam, the first; it fades. The embedding's numbers have about unit variance.
        radius: How far a token's row may go, in lengths of what it begins as.
        smooth: Weight of the total variation, which takes specks away.
        size: Side of the picture in pixels; that of the model's training if not given.
    """
    run = g.Run(__file__, locals())
    for name, value in (("rate", rate), ("smooth", smooth)):
        if not 0 <= value < inf:
            raise g.InputError(f"{name} must be a finite number, 0 or more, got {value}")
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt, g.read_templates(templates))
    words = begin if begin is not None else max(prompts, key=lambda one: one.weight).text
    if words is None:
        raise g.InputError("the embedding begins as words, and the prompt has none; give them: --begin cat")
    where = g.device(device)
    pipeline = load_pipeline(model, device=where, precision=precision, offload=offload)
    pipeline = pipeline.with_scheduler(scheduler)
    side = size or pipeline.size
    render = renderer(
        pipeline,
        pipeline.noise(clock, best_of, (side, side)),
        pipeline.text.encode_negative(negative),
        steps=sampling,
        scale=scale,
        seed=seed,
    )
    condition = stack([pipeline.text.encode(words)] * best_of)
    canvas = Conditioning(render, condition, lr=g.linear(rate, 0.1 * rate), radius=radius).to(where)

    guides = g.load_guides(clip, device=where)
    losses = g.clip_losses(guides, prompts, g.Crops.calm(clock, crops), separate=report)
    for _ in run.optimize(canvas, losses | {"smooth": (smooth, g.total_variation)}, clock):
        pass

    with torch.no_grad():
        scores = g.guide_score(guides, prompts, canvas())
        best = int(scores.argmax())
        write_png(run.folder / "before.png", render(condition)[best : best + 1])
        save_condition(run.folder / "embedding.safetensors", canvas.condition[best : best + 1])
        return run.finish(canvas, scores)
