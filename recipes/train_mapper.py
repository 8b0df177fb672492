"""StyleCLIP's mapper (Patashnik et al. 2021): a network that moves any latent of StyleGAN2 to a text."""

from pathlib import Path
from typing import Literal

import guidance as g
from guidance import options
from guidance.generator.loading import load_generator
from guidance.generator.mapper import MappedLatents, Mapper, save_mapper


def main(
    prompt: options.Prompt,
    *,
    generator: str = "tiny",
    groups: tuple[Literal["coarse", "medium", "fine"], ...] = ("coarse", "medium", "fine"),
    steps: int = 300,
    batch: int = 4,
    lr: float = 0.02,
    l2: float = 0.05,
    truncation: float = 0.7,
    seed: options.Seed = 0,
    clip: options.Clip = "tiny",
    crops: options.Crops = 1,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    film: options.Film = "mp4",
    metadata: options.Metadata = True,
    output: options.Output = Path("outputs"),
    resume: options.Resume = None,
) -> Path:
    """Train a mapper for `guidance edit --method mapper`; the final pictures are of new latents.

    Args:
        generator: tiny, or the file of a StyleGAN2: rosinality's .pt, or safetensors.
        groups: The layers that it changes: coarse, up to 8 pixels; medium, up to 32; fine, the others.
        steps: How many batches are learned from.
        batch: Latents a step, new ones each time.
        lr: Highest learning rate of Adam.
        l2: Weight of the mean squared change of the latents; the paper has 0.8, for large faces.
        truncation: How far drawn latents may be from their mean: 1, as they are drawn; 0, the mean itself.
    """
    run = g.Run(__file__, locals())
    clock = g.Clock(steps, seed)
    prompts = g.parse(prompt)
    views = g.Crops.calm(clock, crops)
    where = g.device(device)
    network = load_generator(generator, device=where)
    mapper = Mapper(network.style_dim, groups, clock).to(where)
    canvas = MappedLatents(network, mapper, clock, batch, truncation=truncation, lr=g.cosine(lr, 0.0))

    guides = g.load_guides(clip, device=where, precision=precision)
    losses = g.clip_losses(guides, prompts, views) | {"change": (l2, canvas.size_of_change)}
    for _ in run.optimize(canvas, losses, clock):
        pass

    save_mapper(run.folder / "mapper.safetensors", mapper)
    return run.finish(canvas, scores=g.guide_score(guides, prompts, canvas()))
