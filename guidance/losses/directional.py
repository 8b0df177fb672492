"""The direction in which an image differs from another, against that in which texts differ."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses.chunks import Chunks
from guidance.losses.clip import Encoder, embed
from guidance.prompts import Prompt, normalized_weights

#: Changes of an embedding well below this length count for less; one that can be seen is 0.2 to 1 long. Else
#: the gradient at the source would be infinite, and rule Adam's steps for long.
_LEAST = 0.05


@final
class DirectionalLoss:
    """One minus the cosine between the change of an image and that of its description (StyleGAN-NADA, Gal et
    al. 2021, section 4.2): `1 − ΔI·ΔT / (√(‖ΔI‖² + 0.05²) ‖ΔT‖)`, mean over the crops, in [0, 2].

    ΔI leads from the views of `source` to the same views of the image, ΔT from the prompts `before` to the
    prompts `after`, each the weighted mean of their embeddings. Where both are pictures, ΔT is the paper's
    direction between images. The loss is 1, with a finite gradient, where the image equals the source.

    `source` is one image for all members of a population, or one for each, of any size. Raises InputError as
    `embed` does, and when `before` and `after` mean the same.
    """

    def __init__(
        self,
        clip: Encoder,
        source: Float[Tensor, "_ 3 _ _"],
        before: Sequence[Prompt],
        after: Sequence[Prompt],
        crops: Crops,
    ) -> None:
        self.clip = clip
        self.source = source.detach()
        self.crops = crops
        change = _mean(clip, after) - _mean(clip, before)
        if change.norm() < 1e-4:
            raise InputError("the texts before and after mean the same to this model; say what is to change")
        self._direction = F.normalize(change, dim=0)
        self._chunks = Chunks()

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        size = self.clip.image_size
        views = self.crops(image, size)
        # The views of a step are the same whatever they are of.
        sources = self.crops(self.source.expand(len(image), -1, -1, -1), size).flatten(0, 1)

        def loss(views: Float[Tensor, "n 3 s s"], rows: slice) -> Float[Tensor, " n"]:
            with torch.no_grad():
                start = self.clip.encode_image(sources[rows])
            change = self.clip.encode_image(views) - start
            return 1 - change @ self._direction / (change.square().sum(-1) + _LEAST**2).sqrt()

        return self._chunks(views.flatten(0, 1), loss).unflatten(0, views.shape[:2]).mean(-1)


def _mean(clip: Encoder, prompts: Sequence[Prompt]) -> Float[Tensor, " d"]:
    weights = torch.tensor(normalized_weights(prompts), device=clip.device)
    return weights @ embed(clip, prompts)
