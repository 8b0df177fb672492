"""Training a judge: a CLIP that names pictures however they are painted, and that never guides.

A judge of drawings must not fall for style: a network that has seen nothing but clean pictures ranks a heart
of brush strokes below a tangle. It learns contrastively, from pictures as they are and as canvases would show
them: painted with strokes, blurred, covered with noise, in few colours, in large pixels, faded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from guidance.clip.contrastive import info_nce
from guidance.clip.data import CaptionedPictures, Placement, choose, place
from guidance.clip.train import Captions, Trainee, learn
from guidance.clock import Clock


@dataclass(frozen=True)
class Judged:
    """What one training step saw: the contrastive loss, and the share of pictures that found their own
    caption in the batch."""

    index: int
    contrastive: float
    accuracy: float


def train_judge(
    trainee: Trainee,
    pictures: CaptionedPictures,
    tokenizer: Tokenizer,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    lr: float,
    brushes: Float[Tensor, "k s s"],
    precision: torch.dtype = torch.float32,
) -> Iterator[Judged]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock.

    A step sees `batch` pictures in many styles. `brushes` are what single strokes cover, in [0, 1], large
    ones first.
    """
    device, size = brushes.device, brushes.shape[-1]
    tokens = Captions(pictures.captions, tokenizer, trainee.model.context_length)
    # Variants (": medium skin tone") would outnumber the plain things three to two.
    plain = torch.tensor([":" not in captions[0] for captions in pictures.captions])
    weights = (~pictures.held_out).float() * torch.where(plain, 1.0, 0.4)
    while clock.index < clock.steps:
        generator = clock.generator("train")
        rows = choose(weights, batch, generator)
        placement = Placement.draw(batch, generator, zoom=(0.6, 1.15), shift=0.12, white=0.7, device=device)
        images = restyle(place(pictures.rgba[rows].to(device), placement, size), brushes, generator)
        captions = tokens.choose(rows, generator).to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            texts, seen = trainee.encode_text(captions), trainee.encode_image(images)
        loss = info_nce(seen, texts, trainee.model.logit_scale.exp())
        learn(trainee, optimizer, loss, clock, lr)
        right = (seen @ texts.T).argmax(1) == torch.arange(batch, device=device)
        clock.index += 1
        yield Judged(clock.index - 1, loss.item(), right.float().mean().item())


@torch.no_grad()
def restyle(
    images: Float[Tensor, "n 3 s s"], brushes: Float[Tensor, "k s s"], generator: torch.Generator
) -> Float[Tensor, "n 3 s s"]:
    """Each picture in a style of its own, a quarter of them painted; a little faded, tinted and noisy."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(images)

    def pick(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    n, size = len(images), images.shape[-1]
    kind = torch.randint(8, (n,), generator=generator).to(images.device)
    styled = images.clone()
    styled[kind < 2] = paint(images[kind < 2], brushes, generator, pick(64, 128, 256))
    styled[kind == 2] = _resized(images[kind == 2], size // pick(2, 4, 6), "bilinear")
    styled[kind == 3] = _resized(images[kind == 3], size // pick(2, 3, 4), "nearest")
    levels = pick(1, 2, 3)
    styled[kind == 4] = (images[kind == 4] * levels).round() / levels
    fading, tint = 1 - 0.6 * uniform(n, 1, 1, 1) ** 2, 0.2 * uniform(n, 3, 1, 1)
    styled = 1 - (1 - styled * (1 - tint)) * fading
    soft = functional.interpolate(uniform(n, 3, 8, 8) - 0.5, size=size, mode="bicubic")
    noise = torch.randn(images.shape, generator=generator).to(images)
    strength = 0.5 * (uniform(2, n, 1, 1, 1) - 0.6).clamp(min=0)
    return (styled + strength[0] * noise + 2 * strength[1] * soft).clamp(0, 1)


@torch.no_grad()
def paint(
    images: Float[Tensor, "n 3 s s"],
    brushes: Float[Tensor, "k s s"],
    generator: torch.Generator,
    strokes: int,
) -> Float[Tensor, "n 3 s s"]:
    """Painterly rendering (Hertzmann 1998): strokes in the mean colour of what they cover, large ones first.

    Each of so many random strokes is kept if it brings the painting nearer to the picture. The page begins in
    the colour of the picture's corner.
    """
    n = len(images)
    progress = (torch.arange(strokes) + torch.rand(n, strokes, generator=generator)) / strokes
    masks = brushes[(progress * len(brushes)).long().clamp(max=len(brushes) - 1)]
    colours = torch.einsum("nchw,nthw->ntc", images, masks) / (masks.sum((2, 3))[..., None] + 1e-6)
    opacity = (0.5 + 0.5 * torch.rand(n, strokes, 1, 1, 1, generator=generator)).to(images)
    page = images[:, :, :1, :1].expand_as(images)
    error = (page - images).square().sum((1, 2, 3))
    for t in range(strokes):
        painted = page.lerp(colours[:, t, :, None, None], masks[:, t, None] * opacity[:, t])
        after = (painted - images).square().sum((1, 2, 3))
        better = after < error
        page, error = torch.where(better[:, None, None, None], painted, page), torch.minimum(after, error)
    return page


def _resized(images: Float[Tensor, "n 3 s s"], side: int, mode: str) -> Float[Tensor, "n 3 s s"]:
    """So many pixels a side and back again."""
    small = functional.interpolate(images, size=side, mode="area")
    return functional.interpolate(small, size=images.shape[-1], mode=mode)
