"""The style of a picture: what its places look like, wherever they are."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.losses.features import Features

#: Rows are grey and two axes of colour, orthonormal: the decorrelated space of STROTSS.
_DECORRELATED = (
    (0.577350, 0.577350, 0.577350),
    (-0.577350, 0.788675, -0.211325),
    (-0.577350, -0.211325, 0.788675),
)


class StrotssLoss:
    """The style loss of STROTSS (Kolkin et al. 2019, equations 4-8): a picture's style, without its content.

    Image and picture are compared at `places` random places each, others at every step of the clock, member i
    of a population with those of `clock.seed + i`. A place is its hypercolumn: its colour and all layers
    there, interpolated. The loss is the mean, with weights 1, 1 and `palette`, of

    - the relaxed earth mover's distance of hypercolumns, by cosine distance;
    - the mean absolute difference of their means plus that of their covariances;
    - the relaxed earth mover's distance of decorrelated colours, by Euclidean distance.

    Raises InputError without a place.
    """

    def __init__(
        self,
        features: Features,
        picture: Float[Tensor, "1 3 H W"],
        clock: Clock,
        *,
        places: int = 1024,
        palette: float = 1.0,
    ) -> None:
        if places < 1:
            raise InputError(f"places must be at least 1, got {places}")
        self.features = features
        self.clock = clock
        self.places = places
        self.palette = palette
        with torch.no_grad():
            self.layers = [picture, *features(picture)]

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        x = self._columns("image", [image, *self.features(image)], len(image))
        y = self._columns("picture", self.layers, len(image))
        cosines = F.normalize(x, dim=2) @ F.normalize(y, dim=2).mT
        decorrelate = x.new_tensor(_DECORRELATED)
        # A distance of zero has no gradient; a millionth has.
        shift = (x[:, :, None, :3] - y[:, None, :, :3]) @ decorrelate.T
        colours = (shift.square().sum(-1) + 1e-12).sqrt()
        terms = relaxed_emd(1 - cosines) + moment_distance(x, y) + self.palette * relaxed_emd(colours)
        return terms / (2 + self.palette)

    def _columns(self, name: str, layers: list[Tensor], b: int) -> Float[Tensor, "b n c"]:
        places = self.clock.uniform(f"style/{name}", b, (1, self.places, 2)).to(layers[0])
        sampled = [
            F.grid_sample(
                layer.expand(b, -1, -1, -1), 2 * places - 1, align_corners=False, padding_mode="border"
            )
            for layer in layers
        ]
        return torch.cat(sampled, 1)[:, :, 0].mT


def relaxed_emd(costs: Float[Tensor, "b n m"]) -> Float[Tensor, " b"]:
    """The relaxed earth mover's distance of two sets with these costs of moving one's point to the other's.

    Every point goes to the nearest of the other set: the mean cost, of the dearer direction (Kusner et al.
    2015; STROTSS, equation 6). Never above the exact distance.
    """
    return torch.maximum(costs.amin(2).mean(1), costs.amin(1).mean(1))


def moment_distance(x: Float[Tensor, "b n d"], y: Float[Tensor, "b m d"]) -> Float[Tensor, " b"]:
    """The mean absolute difference of means, plus that of covariances, of two sets (STROTSS, equation 7)."""

    def moments(z: Float[Tensor, "b _ d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d d"]]:
        mean = z.mean(1)
        away = z - mean[:, None]
        return mean, away.mT @ away / z.shape[1]

    (x_mean, x_cov), (y_mean, y_cov) = moments(x), moments(y)
    return (x_mean - y_mean).abs().mean(1) + (x_cov - y_cov).abs().mean((1, 2))


class GramLoss:
    """The style loss of Gatys et al. (2016, equations 4-5): which features of a layer occur together.

    A quarter of the mean squared difference of Gram matrices, averaged over the layers. A Gram matrix is the
    mean over places of the products of two features, so pictures of any size can be compared.
    """

    def __init__(self, features: Features, picture: Float[Tensor, "1 3 H W"]) -> None:
        self.features = features
        with torch.no_grad():
            self.grams = [gram(layer) for layer in features(picture)]

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        terms = [
            (gram(layer) - target).square().mean((1, 2)) / 4
            for layer, target in zip(self.features(image), self.grams, strict=True)
        ]
        return torch.stack(terms).mean(0)


def gram(layer: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """The products of all pairs of features, averaged over the places."""
    flat = layer.flatten(2)
    return flat @ flat.mT / flat.shape[2]
