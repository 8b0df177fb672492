"""How far an image is from its prompts in CLIP's space."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.crops import Crops, clean_views
from guidance.errors import InputError
from guidance.media import read_image
from guidance.prompts import Prompt, normalized_weights

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

    A picture is seen whole, padded to a square with white. Raises InputError for an embedding of another
    width and for a picture that cannot be read.
    """
    return F.normalize(torch.cat([_embed(clip, prompt) for prompt in prompts]), dim=-1)


class ClipLoss:
    """The distance from images to prompts, weighted mean over the prompts, mean over the crops.

    Weights are divided by the sum of their absolute values; a negative one pushes away. Prompts are encoded
    once, here. The crops have the encoder's own size, so that it does not resize them. Raises InputError as
    `embed` does, and for weights that are all zero.
    """

    def __init__(
        self, clip: Encoder, prompts: Sequence[Prompt], crops: Crops, distance: Distance = cosine_distance
    ) -> None:
        self.clip = clip
        self.crops = crops
        self.distance = distance
        self.weights, self.targets = _targets(clip, prompts)

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        views = self.crops(image, self.clip.image_size)
        seen = self.clip.encode_image(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        distances = self.distance(seen[:, :, None], self.targets)
        return (distances * self.weights).sum(-1).mean(-1)


@torch.no_grad()
def clip_score(
    clip: Encoder, prompts: Sequence[Prompt], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """How well images match prompts: weighted mean cosine of `clean_views`, in [-1, 1]; higher is better.

    For judging, without gradient. Weights, prompts and InputError as in `ClipLoss`.
    """
    weights, targets = _targets(clip, prompts)
    views = clean_views(images, clip.image_size)
    seen = clip.encode_image(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return ((seen[:, :, None] * targets).sum(-1) * weights).sum(-1).mean(-1)


def _targets(clip: Encoder, prompts: Sequence[Prompt]) -> tuple[Float[Tensor, " p"], Float[Tensor, "p d"]]:
    weights = torch.tensor(normalized_weights(prompts), device=clip.device)
    return weights, embed(clip, prompts)


@torch.no_grad()
def _embed(clip: Encoder, prompt: Prompt) -> Float[Tensor, "1 d"]:
    if prompt.text is not None:
        return clip.encode_text([prompt.text])
    if prompt.image is not None:
        view = clean_views(read_image(prompt.image).to(clip.device), clip.image_size, spans=(1.0,))
        return clip.encode_image(view[:, 0])
    embedding = torch.tensor(prompt.embedding, device=clip.device)[None]
    if embedding.shape[1] != clip.embed_dim:
        got = f"{clip.embed_dim} numbers, got {embedding.shape[1]}"
        raise InputError(f"an embedding for this model has {got}; give one that this model made")
    return embedding


def _at_least_float32(x: Tensor) -> Tensor:
    """Unchanged, or in float32 where it is narrower: bfloat16 rounds small angles to zero."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
