"""How far an image is from its prompts in CLIP's space."""

from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.clip.templates import check, fill
from guidance.clip.vectors import embedding
from guidance.crops import Crops, clean_views
from guidance.losses.chunks import Chunks, ViewLoss
from guidance.losses.regions import Region
from guidance.media import read_image
from guidance.prompts import Box, Prompt, normalized_weights

Distance = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Encoder(Protocol):
    """What the losses need of a CLIP model (`guidance.clip.Clip`): unit-norm float32 embeddings."""

    @property
    def image_size(self) -> int: ...

    @property
    def embed_dim(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def encode_image(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]: ...

    def encode_text(self, texts: list[str]) -> Float[Tensor, "n d"]: ...

    def encode_many(self, texts: list[str]) -> Float[Tensor, "n d"]: ...


def cosine_distance(u: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """One minus the cosine of the angle between unit vectors, in [0, 2], computed in at least float32."""
    u, v = _at_least_float32(u), _at_least_float32(v)
    return 1 - (u * v).sum(-1)


def great_circle(u: Float[Tensor, "... d"], v: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Half the squared angle between unit vectors, in [0, π²/2], computed in at least float32.

    The angle is 2 atan2(‖u − v‖, ‖u + v‖) (Kahan, How Futile are Mindless Assessments of Roundoff, 2006),
    exact everywhere. Peers write the same as 2 arcsin(‖u − v‖ / 2)², whose gradient is NaN at the antipode.
    """
    u, v = _at_least_float32(u), _at_least_float32(v)
    norm = torch.linalg.vector_norm
    return 2 * torch.atan2(norm(u - v, dim=-1), norm(u + v, dim=-1)) ** 2


def embed(clip: Encoder, prompts: Sequence[Prompt]) -> Float[Tensor, "p d"]:
    """The unit-norm embeddings of prompts: texts and pictures encoded, embeddings scaled.

    A text is the mean of its unit-norm embeddings in all its templates (Radford et al. 2021, section 3.1.4).
    A picture is seen whole, padded to a square with white. Raises InputError for an embedding of another
    width, for a template without exactly one {}, and for a picture or an embedding that cannot be read.
    """
    return F.normalize(torch.cat([_embed(clip, prompt) for prompt in prompts]), dim=-1)


@final
class ClipLoss:
    """The distance from images to prompts, weighted mean over the prompts, mean over the crops.

    Weights are those of the moment, divided by the sum of their absolute values; a negative one pushes away.
    A view that has reached a prompt's stop, in `distance`, still counts, but is not pulled any further. A
    prompt with a region has crops of its own, of nothing but that; each region is seen k more times.

    Prompts are encoded once, here. The crops have the encoder's own size, so that it does not resize them;
    fewer are seen at once when memory runs out. Raises InputError as `embed` does, for a mask that cannot be
    read, and for weights that are all zero.
    """

    def __init__(
        self, clip: Encoder, prompts: Sequence[Prompt], crops: Crops, distance: Distance = cosine_distance
    ) -> None:
        self.clip = clip
        self.prompts = list(prompts)
        self.crops = crops
        self.distance = distance
        normalized_weights(prompts, crops.clock.progress)
        targets = embed(clip, prompts)
        self._aims = [
            (region, rows, targets[rows], [prompts[row].stop for row in rows])
            for region, rows in _by_region(prompts)
        ]
        self._chunks = Chunks()

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        weights = normalized_weights(self.prompts, self.crops.clock.progress)
        total = image.new_zeros(len(image))
        for region, rows, targets, stops in self._aims:
            if any(weights[row] for row in rows):
                seen = region(image, self.crops.fill) if region else image
                views = self.crops(seen, self.clip.image_size)
                loss = self._towards(targets, [weights[row] for row in rows], stops)
                values = self._chunks(views.flatten(0, 1), loss)
                total = total + values.unflatten(0, views.shape[:2]).mean(-1)
        return total

    def _towards(self, targets: Float[Tensor, "p d"], weights: list[float], stops: list[float]) -> ViewLoss:
        signed = targets.new_tensor(weights)
        least = targets.new_tensor(stops) if max(stops) > -inf else None

        def loss(views: Float[Tensor, "n 3 s s"], _: slice) -> Float[Tensor, " n"]:
            distances = self.distance(self.clip.encode_image(views)[:, None], targets)
            if least is not None:  # VQGAN-CLIP's replace_grad(dists, maximum(dists, stop))
                reached = distances * signed.sign() < least
                distances = torch.where(reached, distances.detach(), distances)
            return (distances * signed).sum(-1)

        return loss


@torch.no_grad()
def clip_score(
    clip: Encoder, prompts: Sequence[Prompt], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """How well images match prompts: weighted mean cosine of `clean_views`, in [-1, 1]; higher is better.

    For judging, without gradient: of a story its last scene, of a region what is in it. Weights, prompts and
    InputError as in `ClipLoss`.
    """
    weights = torch.tensor(normalized_weights(prompts), device=clip.device)
    targets = embed(clip, prompts)
    total = images.new_zeros(len(images))
    for region, rows in _by_region(prompts):
        views = clean_views(region(images) if region else images, clip.image_size)
        seen = clip.encode_image(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        total += ((seen[:, :, None] * targets[rows]).sum(-1) * weights[rows]).sum(-1).mean(-1)
    return total


def _by_region(prompts: Sequence[Prompt]) -> list[tuple[Region | None, list[int]]]:
    """The regions of prompts, None for all of the picture, and which prompts act in each."""
    rows: dict[Box | Path | None, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt.region, []).append(row)
    return [(Region(where) if where else None, which) for where, which in rows.items()]


@torch.no_grad()
def _embed(clip: Encoder, prompt: Prompt) -> Float[Tensor, "1 d"]:
    if prompt.text is not None:
        check(prompt.templates)
        if len(prompt.templates) == 1:
            return clip.encode_text([fill(prompt.templates[0], prompt.text)])
        # `encode_text` warns about unknown words once for every template.
        return clip.encode_many([fill(t, prompt.text) for t in prompt.templates]).mean(0, keepdim=True)
    if prompt.image is not None:
        view = clean_views(read_image(prompt.image).to(clip.device), clip.image_size, spans=(1.0,))
        return clip.encode_image(view[:, 0])
    assert prompt.embedding is not None  # what is neither text nor picture
    return embedding(prompt.embedding, clip.embed_dim)[None].to(clip.device)


def _at_least_float32(x: Tensor) -> Tensor:
    """Unchanged, or in float32 where it is narrower: bfloat16 rounds small angles to zero."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
