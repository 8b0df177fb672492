"""What networks see in images, for losses that compare pictures: a list of layers each."""

from collections.abc import Callable, Sequence

import timm
import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from guidance.clip import Clip
from guidance.clip.features import image_features
from guidance.errors import InputError

#: From images `[n, 3, h, w]` in [0, 1] to layers `[n, c, gh, gw]`, each of its own size; differentiable.
Features = Callable[[Float[Tensor, "n 3 h w"]], list[Float[Tensor, "n _ _ _"]]]

#: VGG16's nine layers of STROTSS, as numbers of its modules: relu1_1, 1_2, 2_1, 2_2, 3_1, 3_2, 3_3, 4_3, 5_3.
STROTSS_LAYERS = (1, 3, 6, 8, 11, 13, 15, 22, 29)


def clip_features(clip: Clip, layers: Sequence[int]) -> Features:
    """Chosen layers of a CLIP's image tower, numbered as in `image_features`."""
    return lambda images: image_features(clip, images, layers)[1]


def vgg16_features(device: torch.device, layers: Sequence[int] = STROTSS_LAYERS) -> Features:
    """Chosen layers of VGG16 (Simonyan & Zisserman 2015) trained on ImageNet: timm downloads its weights.

    Images need at least 16 pixels a side. Raises InputError when the weights cannot be had.
    """
    name = "vgg16.tv_in1k"
    try:
        network = timm.create_model(name, pretrained=True)
    # Whatever goes wrong in a download (OSError, httpx's and the hub's own errors), there are no weights.
    except Exception as error:
        raise InputError(
            f"cannot download the weights of {name} ({error}); use another network, or go online once"
        ) from error
    return sequential_features(network.features.to(device), layers)


def sequential_features(network: nn.Sequential, layers: Sequence[int]) -> Features:
    """The outputs of chosen modules of a network that takes ImageNet's normalised pictures; it is frozen."""
    modules = list(network.eval().requires_grad_(False))[: max(layers) + 1]
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))

    def features(images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        x, found = (images - mean.to(images)) / std.to(images), {}
        for i, module in enumerate(modules):
            x = module(x)
            if i in layers:
                found[i] = x
        return [found[i] for i in layers]

    return features
