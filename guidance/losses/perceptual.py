"""How far an image is from a picture in what a network sees of both."""

from collections.abc import Sequence
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip import Clip
from guidance.clip.features import image_features
from guidance.crops import Crops, clean_views
from guidance.errors import InputError
from guidance.losses.chunks import Chunks
from guidance.losses.features import Features
from guidance.media import fitted


class PerceptualLoss:
    """The squared difference of the features of an image and of a picture, seen through the same views.

    The mean over each layer's numbers, weighted, summed over the layers; of the views of `crops` the mean,
    and to a fifth of a plain view, the whole padded to a square with white (so CLIPasso's five views count
    alike). All views have `size` pixels a side; fewer are seen at once when memory runs out. The picture is
    stretched to the image's size. Raises InputError when there is not one weight a layer.
    """

    def __init__(
        self,
        features: Features,
        picture: Float[Tensor, "1 3 H W"],
        weights: Sequence[float],
        crops: Crops,
        size: int,
    ) -> None:
        self.features = features
        self.picture = picture
        self.weights = weights
        self.crops = crops
        self.size = size
        self._chunks = Chunks()
        with torch.no_grad():
            layers = len(features(clean_views(picture, size, spans=(1.0,))[:, 0]))
        if layers != len(weights):
            raise InputError(f"{layers} layers need as many weights, got {len(weights)}")

    @classmethod
    def clipasso(
        cls,
        clip: Clip,
        picture: Float[Tensor, "1 3 H W"],
        crops: Crops,
        *,
        layers: Sequence[int] = (-3, -2),
        embedding: float = 0.1,
    ) -> "PerceptualLoss":
        """CLIPasso's loss (Vinker et al. 2022): the chosen layers, and `embedding`·(1 − cosine).

        The layers, numbered as in `image_features`, are by default the third and second from the end: of a
        ResNet its second and third stage of four, as in the paper, whose model is RN101.
        """
        # The mean square of this times the difference of unit vectors is 1 − cosine.
        scale = sqrt(clip.embed_dim / 2)

        def features(images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
            embeddings, found = image_features(clip, images, layers)
            return [*found, scale * embeddings[:, :, None, None]]

        return cls(features, picture, [1.0] * len(layers) + [embedding], crops, clip.image_size)

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        views, targets = (
            torch.cat([clean_views(x, self.size, spans=(1.0,)), self.crops(x, self.size)], 1)
            for x in (image, self._beside(image))
        )
        each = self._compare(views, targets)
        return 0.2 * each[:, 0] + 0.8 * each[:, 1:].mean(1)

    @torch.no_grad()
    def plain(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The loss of the plain view only, for judging: no randomness, no gradient."""
        views, targets = (clean_views(x, self.size, spans=(1.0,)) for x in (image, self._beside(image)))
        return self._compare(views, targets)[:, 0]

    def _beside(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return fitted(self.picture.to(image), (image.shape[-2], image.shape[-1])).expand_as(image)

    def _compare(
        self, views: Float[Tensor, "b k 3 s s"], targets: Float[Tensor, "b k 3 s s"]
    ) -> Float[Tensor, "b k"]:
        pictured = targets.flatten(0, 1)

        def loss(views: Float[Tensor, "n 3 s s"], rows: slice) -> Float[Tensor, " n"]:
            with torch.no_grad():
                wanted = self.features(pictured[rows])
            terms = [
                weight * (x - y).square().mean((1, 2, 3))
                for weight, x, y in zip(self.weights, self.features(views), wanted, strict=True)
            ]
            return torch.stack(terms).sum(0)

        return self._chunks(views.flatten(0, 1), loss).unflatten(0, views.shape[:2])
