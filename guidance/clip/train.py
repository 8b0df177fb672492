"""Training a CLIP that is a good guide: contrastive learning, and gradients that draw.

A CLIP that is trained to name pictures ranks names well, but its gradient, followed from a blank page, paints
a texture that fools it. Here the gradient itself is trained: at an unfinished drawing y of a picture x with
caption t, the direction in which the similarity rises, G = ∂/∂y cos(f(y), g(t)), shall point from y to x, in
detail and in the large:

    L = 1 - (cos(G, x - y) + cos(blur G, blur (x - y))) / 2,

which backpropagates through the gradient (double backward). It is denoising score matching (Vincent 2011)
with the drawings that guidance itself comes upon in place of noise: unfinished drawings are kept in a
sketchbook, and each is moved along its own G, with brushes or in blurs, so that training meets what a canvas
will meet.
"""

import json
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidance.clip.averaging import average_
from guidance.clip.bpe import write_tokenizer
from guidance.clip.contrastive import info_nce
from guidance.clip.data import CaptionedPictures, Placement, choose, place
from guidance.clip.model_folder import write_weights, write_words
from guidance.clip.parallel import rows_of_rank
from guidance.clip.tokenize import words
from guidance.clock import Clock, cosine, warm_up
from guidance.distributed import gather, mean_over_ranks_, world
from guidance.media import write_text

#: What an English caption may begin with when a person writes it.
OPENINGS = ("a ", "the ", "a drawing of ", "a picture of ", "an emoji of ")


class Trainee(nn.Module):
    """An open_clip model in training, the running mean of its weights, and the sketchbook it draws in.

    `drawings` are unfinished pictures of `subjects`, each to lie on its page as in `placements`.
    """

    drawings: Float[Tensor, "m 3 s s"]
    subjects: Int[Tensor, " m"]
    placements: Float[Tensor, "m 7"]
    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(self, model: CLIP, preprocess: dict[str, Any], sketches: int) -> None:
        """`preprocess` is open_clip's: the size, mean and std of what the image tower sees."""
        super().__init__()
        size = preprocess["size"]
        self.model = model
        self.mean_model = deepcopy(model).requires_grad_(False)
        self.register_buffer("drawings", torch.ones(sketches, 3, size, size))
        self.register_buffer("subjects", torch.full((sketches,), -1))
        self.register_buffer("placements", torch.zeros(sketches, 7))
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(-1, 1, 1), persistent=False)

    def encode_image(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.model.visual(images).float(), dim=-1)

    def encode_text(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """As open_clip's, but no longer than the longest text: what follows the end changes nothing."""
        model, length = self.model, tokens.shape[1]
        hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
        hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
        hidden = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(1)]
        return functional.normalize((hidden @ model.text_projection).float(), dim=-1)


@dataclass(frozen=True)
class Trained:
    """What one training step saw: the contrastive loss, the share of pictures that found their own caption in
    the batch, and the mean cosine between the gradient and the way to the picture."""

    index: int
    contrastive: float
    accuracy: float
    alignment: float


def train(
    trainee: Trainee,
    pictures: CaptionedPictures,
    tokenizer: Tokenizer,
    clock: Clock,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int,
    sketches: int,
    lr: float,
    brushes: Float[Tensor, "k s s"],
    precision: torch.dtype = torch.float32,
) -> Iterator[Trained]:
    """Train from step `clock.index` to `clock.steps`, yielding every step; all draws come from the clock.

    A step sees `batch` pictures contrastively, noisy at many levels, on pages of which half are white, and
    moves and learns from `sketches` drawings of the sketchbook. `brushes` are what single strokes cover, in
    [0, 1].

    In a distributed run `batch` and `sketches` are those of all ranks together, multiples of their number;
    each takes its rows, and all draw the same numbers, keep the same sketchbook and yield the same steps. But
    for rounding the result is that of one process, except with batch norm, which sees a rank's rows alone.
    """
    model, device = trainee.model, trainee.drawings.device
    own, own_sketches = rows_of_rank(batch // world()), rows_of_rank(sketches // world())
    size = trainee.drawings.shape[-1]
    tokens = Captions(pictures.captions, tokenizer, model.context_length)
    # Variants (": medium skin tone") would outnumber the plain things three to two.
    plain = torch.tensor([":" not in captions[0] for captions in pictures.captions])
    seen = (~pictures.held_out).float()
    while clock.index < clock.steps:
        generator = clock.generator("train")

        def uniform(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.rand(*shape, generator=generator).to(device)

        def normal(n: int, rows: slice, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(n, 3, size, size, generator=generator)[rows].to(device)

        rows = choose(seen * torch.where(plain, 1.0, 0.6), batch, generator)
        placement = Placement.draw(batch, generator, zoom=(0.6, 1.15), shift=0.12, white=0.5, device=device)
        images = place(pictures.rgba[rows[own]].to(device), placement[own], size)
        images = images + normal(batch, own) * (uniform(batch, 1, 1, 1)[own] - 0.3).clamp(min=0) * 0.6

        slots = torch.randperm(len(trainee.drawings), generator=generator)[:sketches]
        _begin(trainee, slots, pictures, seen * torch.where(plain, 1.0, 0.15), brushes, generator)
        drawings = trainee.drawings[slots[own_sketches]]
        wanted = _goals(trainee, slots[own_sketches], pictures) - drawings
        levels = (uniform(sketches, 1, 1, 1)[own_sketches] - 0.3).clamp(min=0) * 0.4
        noisy = (drawings + normal(sketches, own_sketches) * levels).requires_grad_()

        captions = tokens.choose(torch.cat([rows, trainee.subjects[slots].cpu()]), generator).to(device)
        captions = torch.cat([captions[:batch][own], captions[batch:][own_sketches]])
        # Attention has a double backward in its plain form only.
        with (
            torch.autocast(device.type, precision, enabled=precision != torch.float32),
            sdpa_kernel(SDPBackend.MATH),
        ):
            texts, sketched_texts = trainee.encode_text(captions).tensor_split([len(images)])
            seen_images = trainee.encode_image(images)
            similarity = (trainee.encode_image(noisy) * sketched_texts).sum()
            (ways,) = torch.autograd.grad(similarity, noisy, create_graph=True)
        contrastive = info_nce(seen_images, texts, model.logit_scale.exp())
        alignment = (_cosine(ways, wanted) + _cosine(_blur(ways, 4), _blur(wanted, 4))) / 2

        learn(trainee, optimizer, contrastive + 2 * (1 - alignment), clock, lr)
        _stroke(trainee, slots, gather(ways.detach()), brushes, generator)
        found = (seen_images @ gather(texts.detach()).T).argmax(1) == torch.arange(batch, device=device)[own]
        told = torch.stack([contrastive, found.float().mean(), alignment]).detach()
        clock.index += 1
        yield Trained(clock.index - 1, *gather(told[None]).mean(0).tolist())


def learn(
    trainee: Trainee, optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], clock: Clock, lr: float
) -> None:
    """A step of the optimizer, warmed up and then along a cosine, and of the running mean of the weights.

    All ranks together: of their losses the mean counts.
    """
    model = trainee.model
    for group in optimizer.param_groups:
        group["lr"] = warm_up(cosine(lr, 0.0))(clock.progress)
    optimizer.zero_grad()
    loss.backward()
    # Not by DDP, which does not support torch.autograd.grad.
    mean_over_ranks_(parameter.grad for parameter in model.parameters())
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, log(60))
    average_(trainee.mean_model, model, 0.999, clock)


class Captions:
    """All captions as tokens, so that a batch is a look-up."""

    def __init__(
        self, captions: list[list[str]], tokenizer: Tokenizer, length: int, english: float = 0.5
    ) -> None:
        """The first caption of each picture is the English one; at least the share `english` it gives are."""
        self._english = english
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length)

        def encode(texts: list[str]) -> Int[Tensor, "n t"]:
            return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])

        self._plain = [encode(texts) for texts in captions]
        self._opened = [encode([opening + texts[0] for opening in OPENINGS]) for texts in captions]

    def choose(self, rows: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, "n t"]:
        """A caption for each row, of any language; of the English ones three in ten have an opening."""
        tokens = []
        for row, u, v in zip(
            rows.tolist(), *torch.rand(2, len(rows), generator=generator).tolist(), strict=True
        ):
            opened = 0.7 * self._english <= u < self._english
            texts = self._opened[row] if opened else self._plain[row][: 1 if u < self._english else None]
            tokens.append(texts[int(v * len(texts))])
        stacked = torch.stack(tokens)
        return stacked[:, : int(stacked.argmax(1).max()) + 1]


def _begin(
    trainee: Trainee,
    slots: Int[Tensor, " n"],
    pictures: CaptionedPictures,
    weights: Float[Tensor, " m"],
    brushes: Float[Tensor, "k s s"],
    generator: torch.Generator,
) -> None:
    """Begin new drawings in slots that are new, and in one of 24 others: a drawing has about 24 strokes.

    Two of seven pages are blank; the others have something on them, more or less strongly: another picture,
    a blur of one, a scribble, soft or sharp noise. Half of the drawings already show some of the goal.
    """
    device, size = trainee.drawings.device, trainee.drawings.shape[-1]
    fresh = (trainee.subjects[slots].cpu() < 0) | (torch.rand(len(slots), generator=generator) < 1 / 24)
    slots = slots[fresh]
    n = len(slots)
    if n == 0:
        return
    # All nearly in the same place and on white: where a goal may lie anywhere, the way there is a blur of all
    # such places, and a page of any colour has the whole page painted.
    placement = Placement.draw(
        n, generator, zoom=(0.93, 0.97), shift=0.01, white=1.0, angle=0.02, device=device
    )
    trainee.subjects[slots] = torch.multinomial(weights, n, replacement=True, generator=generator).to(device)
    trainee.placements[slots] = torch.cat(
        [placement.zoom[:, None], placement.angle[:, None], placement.shift, placement.page], 1
    )
    other = torch.multinomial(weights, n, replacement=True, generator=generator)
    elsewhere = Placement.draw(n, generator, zoom=(0.6, 1.15), shift=0.12, white=0.6, device=device)
    other_pictures = place(pictures.rgba[other].to(device), elsewhere, size)
    page = placement.page[:, :, None, None].expand_as(other_pictures)
    soft = torch.rand(n, 3, 8, 8, generator=generator).to(device)
    kinds = torch.stack(
        [
            page,
            page,
            other_pictures,
            _blur(other_pictures, 8),
            _scribble(page, brushes, generator),
            functional.interpolate(soft, size=size, mode="bicubic").clamp(0, 1),
            torch.rand(n, 3, size, size, generator=generator).to(device),
        ]
    )
    ground = kinds[torch.randint(len(kinds), (n,), generator=generator).to(device), torch.arange(n)]
    strength, done = torch.rand(2, n, 1, 1, 1, generator=generator).to(device)
    drawing = page.lerp(ground, strength)
    trainee.drawings[slots] = drawing.lerp(_goals(trainee, slots, pictures), (done - 0.5).clamp(min=0))


def _goals(
    trainee: Trainee, slots: Int[Tensor, " n"], pictures: CaptionedPictures
) -> Float[Tensor, "n 3 s s"]:
    zoom, angle, shift, page = trainee.placements[slots].split([1, 1, 2, 3], 1)
    placement = Placement(zoom[:, 0], angle[:, 0], shift, page)
    rgba = pictures.rgba[trainee.subjects[slots].cpu()].to(zoom)
    return place(rgba, placement, trainee.drawings.shape[-1])


def _scribble(
    page: Float[Tensor, "n 3 s s"], brushes: Float[Tensor, "k s s"], generator: torch.Generator
) -> Float[Tensor, "n 3 s s"]:
    """Twelve random strokes of any colour on each page."""
    for _ in range(12):
        mask = brushes[torch.randint(len(brushes), (len(page),), generator=generator)][:, None]
        page = page.lerp(torch.rand(len(page), 3, 1, 1, generator=generator).to(page), mask)
    return page


@torch.no_grad()
def _stroke(
    trainee: Trainee,
    slots: Int[Tensor, " n"],
    ways: Float[Tensor, "n 3 s s"],
    brushes: Float[Tensor, "k s s"],
    generator: torch.Generator,
) -> None:
    """Move drawings along their gradients: half as eight brushes can, the others in detail or in blurs."""
    masks = brushes[torch.randint(len(brushes), (len(slots), 8), generator=generator)]
    # What a brush can do to its pixels: the mean of what they want.
    wanted = torch.einsum("nchw,nkhw->nkc", ways, masks) / (masks.sum((2, 3)) + 1)[..., None]
    painted = torch.einsum("nkc,nkhw->nchw", wanted, masks)
    kinds = torch.stack([painted, painted, painted, ways, _blur(ways, 2), _blur(ways, 4)])
    way = kinds[torch.randint(len(kinds), (len(slots),), generator=generator), torch.arange(len(slots))]
    length = 0.02 + 0.06 * torch.rand(len(slots), 1, 1, 1, generator=generator).to(way)
    unit = way / (way.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-12)
    trainee.drawings[slots] = (trainee.drawings[slots] + length * unit).clamp(0, 1)


def _cosine(u: Float[Tensor, "n 3 h w"], v: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
    return functional.cosine_similarity(u.flatten(1), v.flatten(1), eps=1e-12).mean()


def _blur(images: Float[Tensor, "n 3 s s"], factor: int) -> Float[Tensor, "n 3 s s"]:
    small = functional.avg_pool2d(images, factor)
    return functional.interpolate(small, size=images.shape[-1], mode="bilinear")


def save_model(
    folder: Path, model: CLIP, config: dict[str, Any], tokenizer: Tokenizer, captions: Iterable[str]
) -> None:
    """Write a model in open_clip's local-dir layout, in half precision, with the words of its captions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, model, torch.float16)
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    write_tokenizer(folder, tokenizer, config["model_cfg"]["text_cfg"]["context_length"])
    write_words(folder, (word for text in (*captions, *OPENINGS) for word in words(text)))
