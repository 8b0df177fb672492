"""What keeps the members of a population apart: the one loss in which they influence each other."""

from jaxtyping import Float
from torch import Tensor

from guidance.crops import Crops
from guidance.losses.clip import Encoder


class DiversityLoss:
    """The mean cosine of each member's CLIP embeddings with those of all others, over all pairs of views.

    In [-1, 1]; 0 for a population of one. Members of a population with this loss are not what single runs
    would give.
    """

    def __init__(self, clip: Encoder, crops: Crops) -> None:
        self.clip = clip
        self.crops = crops

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        views = self.crops(image, self.clip.image_size)
        seen = self.clip.encode_image(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(1)
        others = (seen @ seen.mT).fill_diagonal_(0)
        return others.sum(1) / max(len(image) - 1, 1)
