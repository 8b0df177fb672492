"""What a CLIP sees on the way to its embedding: layers of its towers, and an embedding for every place.

For images everything is differentiable, as in `Clip.encode_image`: perceptual losses compare layers
(CLIPasso, Vinker et al. 2022), maps of relevance compare places with a text.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from guidance.clip.encoder import Clip
from guidance.errors import InputError


def image_features(
    clip: Clip, images: Float[Tensor, "n 3 h w"], layers: Sequence[int]
) -> tuple[Float[Tensor, "n d"], list[Float[Tensor, "n _ _ _"]]]:
    """Embeddings of images as `encode_image` gives them, and the outputs of chosen layers in the same pass.

    Layers are numbered from 0, or from -1 backwards, and come in the order asked for, float32:
    of a vision transformer its blocks (patches without the class token, not normalised); of a ResNet the stem
    and the four stages, the five that CLIPasso weighs with 0, 0, 1, 1, 0; of timm's towers their stages.
    Raises InputError for a layer that there is not.
    """
    tower: Any = clip._model.visual
    count = _layers(tower)
    wanted = [_index(layer, count, clip.name) for layer in layers]
    # The last is always asked for: open_clip's ResNet stops at the last one that is, and pools what it has.
    indices = sorted({*wanted, count - 1})
    with clip._casting():
        out = tower.forward_intermediates(clip._pixels(images), indices=indices)
    found = dict(zip(indices, out["image_intermediates"], strict=True))
    return F.normalize(out["image_features"].float(), dim=-1), [found[i].float() for i in wanted]


def image_tokens(clip: Clip, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d gh gw"]:
    """The last layer at every place, as unit vectors of the embeddings' space, to be compared with texts.

    Each place goes through what the pooled one goes through: layer norm and projection of a vision
    transformer, the head of one of timm's convolutional towers. Differentiable. Raises InputError for towers
    that pool by attention (OpenAI's ResNets, SigLIP), whose places have no such embedding.
    """
    tower: Any = clip._model.visual
    if isinstance(tower, VisionTransformer) and tower.attn_pool is None:
        _, (last,) = image_features(clip, images, [-1])
        places = (tower.ln_post(last.movedim(1, -1)) @ tower.proj).movedim(-1, 1)
        return F.normalize(places, dim=1)
    if isinstance(tower, TimmModel) and "pool" not in dict(tower.head.named_children()):
        with clip._casting():
            last = tower.trunk.forward_features(clip._pixels(images))
            if last.ndim == 4:
                n, _, gh, gw = last.shape
                # A picture of one place is its own mean, so the pooling in the head changes nothing.
                single = last.movedim(1, -1).flatten(0, 2)[:, :, None, None]
                places = tower.head(tower.trunk.forward_head(single)).view(n, gh, gw, -1).movedim(-1, 1)
                return F.normalize(places.float(), dim=1)
    raise InputError(f"the model {clip.name!r} has no embedding of single places; use image_features")


def text_features(
    clip: Clip, texts: list[str], layers: Sequence[int]
) -> tuple[Float[Tensor, "n d"], list[Float[Tensor, "n l c"]]]:
    """Embeddings of texts as `encode_text` gives them, and the outputs of chosen layers, at all `l` tokens.

    Layers are numbered as in `image_features`; what follows a text's end is padding. Raises InputError for a
    layer that there is not, and for a text tower of transformers'.
    """
    model: Any = _own_text(clip)
    count = len(model.transformer.resblocks)
    wanted = [_index(layer, count, clip.name) for layer in layers]
    indices = sorted({*wanted, count - 1})
    with torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
        tokens = clip._tokenizer(texts).to(clip.device)
        out = model.forward_intermediates(text=tokens, text_indices=indices)
    found = dict(zip(indices, out["text_intermediates"], strict=True))
    return out["text_features"].float(), [found[i].float() for i in wanted]


def text_tokens(clip: Clip, texts: list[str]) -> list[Float[Tensor, "l d"]]:
    """The last layer at every token of each text, start to end, as unit vectors of the embeddings' space.

    The last of a text is its embedding. Raises InputError for towers that are not read at a text's end.
    """
    model: Any = _own_text(clip)
    tokens = clip._tokenizer(texts).to(clip.device)
    _, (last,) = text_features(clip, texts, [-1])
    with torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
        places = F.normalize((model.ln_final(last) @ model.text_projection).float(), dim=-1)
    return [row[: end + 1] for row, end in zip(places, _ends(model, tokens, clip).tolist(), strict=True)]


def _ends(model: CLIP, tokens: Int[Tensor, "n l"], clip: Clip) -> Int[Tensor, " n"]:
    if model.text_pool_type == "argmax":
        return tokens.argmax(dim=1)
    if model.text_pool_type == "eos":
        return (tokens == model.text_eos_id).int().argmax(dim=1)
    raise InputError(f"the texts of the model {clip.name!r} are not read at their end; use text_features")


def _layers(tower: Any) -> int:
    if isinstance(tower, VisionTransformer):
        return len(tower.transformer.resblocks)
    return 5 if isinstance(tower, ModifiedResNet) else len(tower.trunk.feature_info)


def _index(layer: int, count: int, name: str) -> int:
    if not -count <= layer < count:
        raise InputError(f"the model {name!r} has layers 0 to {count - 1}, got {layer}")
    return layer % count


def _own_text(clip: Clip) -> CLIP:
    model = clip._model
    if type(model) is not CLIP or not isinstance(model.text_projection, nn.Parameter):
        raise InputError(
            f"the model {clip.name!r} has a text tower whose tokens cannot be read; use another one"
        )
    return model
