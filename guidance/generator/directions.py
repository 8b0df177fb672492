"""Global directions in StyleSpace (StyleCLIP, Patashnik et al. 2021, section 6).

A channel's relevance is the mean direction in CLIP's space in which the images move with it, found once for a
generator and a CLIP; a direction for a text is the channels that move where the text does.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.generator.stylegan2 import Generator, Styles
from guidance.losses.clip import Encoder, embed
from guidance.prompts import Prompt, normalized_weights

#: A channel is moved by so many standard deviations both ways (the paper's).
PUSH = 5.0


def deviations(generator: Generator, clock: Clock, *, count: int = 1000) -> Styles:
    """The standard deviation of every channel over random latents, `[1, channels]` for each layer."""
    return [style.std(0, keepdim=True) for style in generator.styles(generator.draw(clock, count, 1.0))]


@torch.no_grad()
def relevance(
    generator: Generator,
    clip: Encoder,
    w: Float[Tensor, "n layers d"],
    deviation: Styles,
    *,
    batch: int = 64,
) -> list[Float[Tensor, "_ e"]]:
    """For each layer, in the order of styles: the unit direction in which each channel moves the embedding.

    It is the mean over the latents w of the unit differences between the embeddings of the images with the
    channel 5 deviations higher and lower. Layers that make colours of channels get zeros: the paper leaves
    them out. Takes 2·n images for each channel.
    """
    styles = generator.styles(w)
    relevances = []
    for index, (layer, _) in enumerate(generator.layers()):
        found = torch.zeros(styles[index].shape[1], clip.embed_dim, device=w.device)
        if layer.demodulate:  # not one of the layers that make colours
            pushes = torch.diag(PUSH * deviation[index][0])
            for latent in range(len(w)):
                one = [style[latent : latent + 1] for style in styles]
                for rows in torch.arange(len(pushes), device=w.device).split(batch // 2):
                    moved = torch.cat([one[index] + pushes[rows], one[index] - pushes[rows]])
                    batch_styles = [style.expand(len(moved), -1) for style in one]
                    batch_styles[index] = moved
                    higher, lower = clip.encode_image(generator.synthesize(batch_styles)).chunk(2)
                    found[rows] += functional.normalize(higher - lower, dim=1)
        relevances.append(functional.normalize(found, dim=1))
    return relevances


def text_direction(clip: Encoder, source: Sequence[Prompt], target: Sequence[Prompt]) -> Float[Tensor, " e"]:
    """The unit direction in CLIP's space from prompts to others, weighted means each.

    Raises InputError when both are the same.
    """
    means = [torch.tensor(normalized_weights(p)).to(clip.device) @ embed(clip, p) for p in (source, target)]
    way = functional.normalize(means[1], dim=0) - functional.normalize(means[0], dim=0)
    if way.norm() < 1e-4:
        raise InputError("source and prompt are the same; let source say what the picture shows before")
    return functional.normalize(way, dim=0)


def direction(
    relevances: list[Float[Tensor, "_ e"]], deviation: Styles, way: Float[Tensor, " e"], beta: float
) -> Styles:
    """The change of styles for a direction in CLIP's space, at strength 1 (equation 3 of the paper).

    A channel moves by its standard deviation times its relevance to `way`; those whose relevance is below
    `beta` in size stay. The largest is scaled to one standard deviation. Raises InputError when all stay.
    """
    relevant = [relevance @ way for relevance in relevances]
    largest = max(r.abs().max().item() for r in relevant)
    if not 0 <= beta <= largest or largest == 0:
        raise InputError(
            f"beta must be from 0 to {largest:.3f}, the highest relevance of a channel, got {beta}"
        )
    kept = [torch.where(r.abs() >= beta, r, 0.0) / largest for r in relevant]
    return [k * d for k, d in zip(kept, deviation, strict=True)]


def text_change(
    generator: Generator,
    clip: Encoder,
    source: Sequence[Prompt],
    target: Sequence[Prompt],
    w: Float[Tensor, "n layers d"],
    beta: float,
) -> Styles:
    """The change of styles from prompts to others, at strength 1.

    The relevance of the channels is the mean over the latents w, which are in W+. Raises InputError as
    `text_direction` and `direction` do.
    """
    way = text_direction(clip, source, target)
    deviation = deviations(generator, Clock())
    return direction(relevance(generator, clip, w, deviation), deviation, way, beta)
