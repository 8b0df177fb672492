"""Training a small latent diffusion model on captioned pictures: the embedded pipeline `tiny`.

As Rombach et al. (2022) train theirs: a U-Net in the latents of a frozen autoencoder sees the tokens of a
frozen text encoder by cross-attention. It predicts v (Salimans and Ho 2022).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidance.clip.data import CaptionedPictures, Placement, place
from guidance.clip.tokenize import Tokenizer, words
from guidance.clock import Clock
from guidance.diffusion.vae import Vae
from guidance.errors import InputError

#: Pictures are seen tinted as well, so that colours are learned apart from the things that have them.
TINTS = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.98, 0.82, 0.15),
    "green": (0.2, 0.62, 0.2),
    "blue": (0.13, 0.4, 0.86),
    "purple": (0.52, 0.2, 0.72),
    "pink": (0.96, 0.45, 0.68),
    "brown": (0.48, 0.3, 0.16),
    "black": (0.14, 0.14, 0.16),
    "white": (0.88, 0.89, 0.91),
}


class DiffusionTrainee(nn.Module):
    """A U-Net in training, and the running mean of its weights."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        self.mean_unet = deepcopy(unet).requires_grad_(False)


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: latents, the rows of captions of each, how often each is seen.

    `captions` are token numbers of all texts; latent i is described by the rows from `first[i]` to
    `last[i]`, of which the first is English. `nothing` are the tokens of the empty text.
    """

    latents: Float[Tensor, "n c s s"]
    weights: Float[Tensor, " n"]
    captions: Int[Tensor, "m t"]
    first: Int[Tensor, " n"]
    last: Int[Tensor, " n"]
    nothing: Int[Tensor, " t"]


@dataclass(frozen=True)
class _View:
    row: int
    weight: float
    captions: list[str]
    colour: str | None

    def picture(self, pictures: CaptionedPictures) -> Float[Tensor, "4 s s"]:
        rgba = pictures.rgba[self.row]
        return rgba if self.colour is None else tint(rgba, TINTS[self.colour])


@torch.no_grad()
def prepare(
    pictures: CaptionedPictures, vae: Vae, tokenizer: Tokenizer, size: int, clock: Clock, *, views: int = 3
) -> Lesson:
    """Encode every picture on white, `views` times whole and, where its name has no colour, as often tinted.

    Tinted pictures of a thing are named `blue thing`; they are a sixth of what is seen.
    """
    whole, tinted = [], []
    generator, tints = clock.generator("tints"), list(TINTS)
    for row in (~pictures.held_out).nonzero()[:, 0].tolist():
        name = pictures.captions[row][0]
        # Variants (": medium skin tone") would outnumber the plain things three to two.
        whole.append(_View(row, 0.2 if ":" in name else 1.0, pictures.captions[row], None))
        if ":" not in name and not set(words(name)) & {*tints, "flag", "skin"}:
            picks = [tints[i] for i in torch.randperm(len(tints), generator=generator)[:views].tolist()]
            tinted += [_View(row, 0.25, [f"{colour} {name}"], colour) for colour in picks]
    seen = whole * views + tinted

    generator, latents = clock.generator("views"), []
    for i in range(0, len(seen), 64):
        chunk = seen[i : i + 64]
        n = len(chunk)
        rgba = torch.stack([view.picture(pictures) for view in chunk])
        jitter = 2 * torch.rand(3, n, generator=generator) - 1
        placement = Placement(0.92 + 0.04 * jitter[0], torch.zeros(n), 0.03 * jitter[1:].T, torch.ones(n, 3))
        latents.append(vae.encode(place(rgba, placement, size)))
    counts = torch.tensor([len(view.captions) for view in seen])
    last = counts.cumsum(0)
    return Lesson(
        torch.cat(latents),
        torch.tensor([view.weight for view in seen]),
        tokenizer([text for view in seen for text in view.captions]).int(),
        last - counts,
        last,
        tokenizer([""])[0].int(),
    )


def tint(rgba: Float[Tensor, "4 h w"], colour: tuple[float, float, float]) -> Float[Tensor, "4 h w"]:
    """A premultiplied picture in shades of one colour, from near black over it to near white."""
    grey = (rgba[:3] / rgba[3:].clamp(min=1e-6) * torch.tensor([0.3, 0.59, 0.11])[:, None, None]).sum(0)
    opaque = grey[rgba[3] > 0.5]
    low, high = (opaque.quantile(0.05), opaque.quantile(0.95)) if opaque.numel() else (grey.min(), grey.max())
    middle, reach = (low + high) / 2, (high - low).clamp(min=0.2)
    shade = ((grey - middle) / reach + 0.5).clamp(0, 1)
    full = torch.tensor(colour)[:, None, None]
    shaded = torch.where(
        shade < 0.5, full * (0.35 + 1.3 * shade), full.lerp(torch.ones(3, 1, 1), shade - 0.5)
    )
    return torch.cat([shaded * rgba[3:], rgba[3:]])


def inherit(unet: UNet2DConditionModel, start: nn.Module, name: str) -> None:
    """Give a U-Net the weights of another of the same shape; what only the first has stays as it is.

    Raises InputError, naming `name`, when the other has weights that the first has no place for.
    """
    have, given = unet.state_dict(), start.state_dict()
    for key, value in given.items():
        if key not in have or have[key].shape != value.shape:
            raise InputError(
                f"{name!r} has another U-Net than the one to be trained: {key} is {tuple(value.shape)}, "
                f"and here {tuple(have[key].shape) if key in have else 'missing'}; give the channels and "
                "the text tower that it was trained with"
            )
    unet.load_state_dict(given, strict=False)


@dataclass(frozen=True)
class DiffusionStep:
    """What one step saw: the mean squared error of v."""

    index: int
    loss: float


def train_diffusion(
    trainee: DiffusionTrainee,
    lesson: Lesson,
    text_encoder: nn.Module,
    scheduler: DDIMScheduler,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    lr: float,
    drop: float = 0.1,
    precision: torch.dtype = torch.float32,
) -> Iterator[DiffusionStep]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock.

    A share `drop` of the latents is seen with the empty text, for classifier-free guidance (Ho and Salimans
    2022). `text_encoder` makes a tuple of tokens, hidden states first, as transformers' do; it is frozen.
    `scheduler` says how noise grows with time; its prediction type must be v_prediction.
    """
    device = next(trainee.parameters()).device
    alphas = scheduler.alphas_cumprod.to(device)
    while clock.index < clock.steps:
        generator = clock.generator("train")
        rows = torch.multinomial(lesson.weights, batch, replacement=True, generator=generator)
        tokens = _captions(lesson, rows, drop, generator).to(device)
        x0 = lesson.latents[rows].to(device)
        # One time from each of `batch` equal spans: less noise in the loss.
        spans = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times = (spans * len(alphas)).long().to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        signal, spread = (a[:, None, None, None] for a in (alphas[times].sqrt(), (1 - alphas[times]).sqrt()))
        # PyTorch's fused attention is slower for so few tokens: a step took a quarter longer with it.
        with (
            torch.autocast(device.type, precision, enabled=precision != torch.float32),
            sdpa_kernel(SDPBackend.MATH),
        ):
            with torch.no_grad():
                hidden = text_encoder(tokens)[0]
            seen = trainee.unet(signal * x0 + spread * noise, times, hidden).sample
        loss = functional.mse_loss(seen.float(), signal * noise - spread * x0)

        warm_up = min(1.0, clock.index / (0.02 * clock.steps + 1))
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_up * (1 + torch.cos(torch.tensor(torch.pi * clock.progress)).item()) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.unet.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(0.999, (1 + clock.index) / (10 + clock.index))
            torch._foreach_lerp_(
                list(trainee.mean_unet.parameters()), list(trainee.unet.parameters()), 1 - decay
            )
        clock.index += 1
        yield DiffusionStep(clock.index - 1, loss.item())


def _captions(
    lesson: Lesson, rows: Int[Tensor, " n"], drop: float, generator: torch.Generator
) -> Int[Tensor, "n t"]:
    """A caption for each row, English for three in four, and none for a share of `drop`."""
    u, v, w = torch.rand(3, len(rows), generator=generator)
    first, last = lesson.first[rows], lesson.last[rows]
    picks = torch.where(u < 0.75, first, first + (v * (last - first)).long())
    return torch.where((w < drop)[:, None], lesson.nothing, lesson.captions[picks]).long()
