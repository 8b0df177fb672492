"""Train a small StyleGAN2 generator on captioned pictures, such as the embedded one of `guidance edit`."""

import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import guidance as g
from guidance import options, training
from guidance.clip.data import CaptionedPictures, Placement, place, read_captioned
from guidance.generator.loading import load_generator, save_generator
from guidance.generator.stylegan2 import Generator, randomize_
from guidance.generator.train import Trainee, adam, fit_mapping, train
from guidance.media import sheet, write_png


def main(
    data: Path,
    *,
    names: str = r"\w+ (face|heart)",
    steps: int = 5000,
    channels: tuple[int, ...] = (96, 96, 64, 32, 16),
    style_dim: int = 64,
    mapping_layers: int = 4,
    batch: int = 8,
    lr: float = 5e-3,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: Path = Path("outputs/train_generator"),
) -> Path:
    """Train a generator on captioned pictures; the same command again goes on where it was stopped.

    Args:
        data: A folder with captions.csv (filepath, title).
        names: Of the pictures those whose whole name is like this regular expression: few that are alike are
            learned best.
        steps: How many batches are learned from.
        channels: Widths at 4, 8, 16, … pixels: five make pictures of 64.
        style_dim: Numbers of a latent.
        mapping_layers: Layers from z to w.
        batch: Pictures a step.
        lr: Highest learning rate of Adam.
        output: The folder of the generator, its checkpoint, its metrics, and a sheet of samples.
    """
    settings = {name: value for name, value in locals().items() if name not in ("output", "device")}
    where = g.device(device)
    clock = g.Clock(steps, seed)
    generator = Generator(channels, style_dim, mapping_layers)
    randomize_(generator, clock)
    pictures = choose(read_captioned(data, generator.size * 5 // 4), names, generator.size).to(where)
    training.check_batch(batch, len(pictures))
    trainee = Trainee(generator, len(pictures), clock).to(where)
    optimizer = adam(trainee)
    training.open_folder(output, settings)
    path = output / "generator.safetensors"

    def save() -> None:
        save_generator(path, generator)

    taught = train(trainee, pictures, clock, optimizer, batch=batch, lr=lr)
    training.record(taught, output, trainee, optimizer, clock, save)
    fit_mapping(generator, trainee.w.detach(), clock)
    save()
    saved = load_generator(path, device=where)
    write_png(output / "samples.png", sheet(saved(saved.draw(clock, 64, 1.0))))
    return output


def choose(pictures: CaptionedPictures, names: str, size: int) -> Float[Tensor, "n 3 s s"]:
    """The pictures with such names, whole on white, without those held out."""
    try:
        pattern = re.compile(names, re.IGNORECASE)
    except re.error as error:
        raise g.InputError(f"names must be a regular expression, got {names!r} ({error})") from error
    found = [pattern.fullmatch(captions[0]) is not None for captions in pictures.captions]
    rows = (torch.tensor(found) & ~pictures.held_out).nonzero()[:, 0]
    if len(rows) == 0:
        raise g.InputError(f"no picture has a name like {names!r}; give another expression")
    n = len(rows)
    whole = Placement(torch.full((n,), 0.95), torch.zeros(n), torch.zeros(n, 2), torch.ones(n, 3))
    return place(pictures.rgba[rows], whole, size)
