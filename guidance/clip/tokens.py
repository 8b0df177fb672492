"""What a model makes of every patch of an image and every token of a text, before they become one vector.

FILIP compares these; a language model's head and priors of diffusion models read them.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from open_clip import CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn

from guidance.clip.text_tower import TextTower
from guidance.errors import InputError


def encode_patches(
    model: CLIP | CustomTextCLIP, images: Float[Tensor, "n 3 s s"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n p d"]]:
    """Embeddings of images, not normalised, and of each of their patches in the same space.

    A patch is taken there as if it were the whole image: by the projection that follows pooling; in
    ModifiedResNet by the values of the attention that pools (MaskCLIP, Zhou et al. 2022). Patches that patch
    dropout leaves out are missing. Raises InputError for a tower that pools by attention to learned queries.
    """
    visual = model.visual
    match visual:
        case VisionTransformer(attn_pool=None):
            found = visual.forward_intermediates(
                images, indices=1, normalize_intermediates=True, output_fmt="NLC"
            )
            return found["image_features"], found["image_intermediates"][-1] @ visual.proj
        case ModifiedResNet():
            found = visual.forward_intermediates(images, indices=1)
            pool = visual.attnpool
            patches = found["image_intermediates"][-1].flatten(2).mT
            return found["image_features"], pool.c_proj(pool.v_proj(patches))
        case TimmModel():
            return _encode_patches_by_timm(visual, images)
    raise InputError(f"the image tower {type(visual).__name__} has no embeddings of patches; take another")


def _encode_patches_by_timm(
    visual: TimmModel, images: Float[Tensor, "n 3 s s"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n p d"]]:
    trunk = visual.trunk
    features = trunk.forward_features(images)
    n = len(features)
    if features.ndim == 3:
        # Where a transformer pools, what comes before the patches is left out or all that is read.
        prefix = trunk.num_prefix_tokens
        patches = features[:, prefix:]
        alone = patches.flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
    else:
        last = features.shape[1] != trunk.num_features  # some have their channels last
        patches = features.flatten(1, 2) if last else features.flatten(2).mT
        alone = patches.flatten(0, 1)[:, None, None] if last else patches.flatten(0, 1)[..., None, None]
    embeddings = visual.head(trunk.forward_head(alone))
    return visual.head(trunk.forward_head(features)), embeddings.view(n, patches.shape[1], -1)


class Texts(ABC):
    """How one kind of text tower encodes tokens.

    `width`: how many numbers stand for a token in the last layer; `embedding`: what stands for it in the
    first; `embed_dim`: how many numbers are an embedding of a text.
    """

    width: int
    embed_dim: int
    embedding: nn.Embedding

    @abstractmethod
    def present(self, tokens: Int[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
        """Where a text has tokens, and what follows its end changes nothing."""

    @abstractmethod
    def encode(
        self, tokens: Int[Tensor, "n t"], present: Bool[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n l width"]]:
        """Embeddings of texts, not normalised, and the last layer at each token up to the longest text's."""

    @abstractmethod
    def project(self, hidden: Float[Tensor, "n l width"]) -> Float[Tensor, "n l d"]:
        """Embeddings of tokens in the space of the whole texts'."""


def read_texts(model: CLIP | CustomTextCLIP, pad_id: int) -> Texts:
    """How a model's texts are encoded; `pad_id`: the token that fills texts up, for towers that mask none.

    Raises InputError for a tower with a class token of open_clip's, as CoCa's.
    """
    if isinstance(model, CLIP):
        return _OpenClip(model, pad_id, model.text_pool_type, model.text_eos_id)
    match model.text:
        case TextTower() as tower:
            return _Ours(tower)
        case HFTextEncoder() as tower:
            return _HuggingFace(tower)
        case TextTransformer(cls_emb=None) as tower:
            return _OpenClip(tower, pad_id, tower.pool_type, tower.eos_id)
    name = type(model.text).__name__
    raise InputError(f"this kind of text tower ({name}) cannot be trained; take another")


@final
class _OpenClip(Texts):
    def __init__(self, tower: CLIP | TextTransformer, pad_id: int, pool: str, eos_id: int) -> None:
        self._tower, self._pad_id, self._pool, self._eos_id = tower, pad_id, pool, eos_id
        self.width, self.embedding = tower.ln_final.weight.shape[0], tower.token_embedding
        match tower.text_projection:
            case None:
                self.embed_dim = self.width
            case nn.Linear() as linear:
                self.embed_dim = linear.out_features
            case matrix:
                self.embed_dim = matrix.shape[1]

    def present(self, tokens: Int[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
        if self._pool not in ("argmax", "eos"):
            return (tokens != self._pad_id) | (torch.arange(tokens.shape[1], device=tokens.device) == 0)
        ends = (tokens == self._eos_id).int() if self._pool == "eos" else tokens
        return torch.arange(tokens.shape[1], device=tokens.device) <= ends.argmax(1, keepdim=True)

    def encode(
        self, tokens: Int[Tensor, "n t"], present: Bool[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n l width"]]:
        tower, mask = self._tower, self._tower.attn_mask
        # Only where tokens see those before them does padding change nothing.
        length = tokens.shape[1]
        if mask is not None and self._pool in ("argmax", "eos", "first"):
            length = _longest(present)
        hidden = self.embedding(tokens[:, :length]) + tower.positional_embedding[:length]
        mask = None if mask is None else mask[:length, :length]
        hidden = tower.ln_final(tower.transformer(hidden, attn_mask=mask))
        if self._pool in ("argmax", "eos"):
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), present.sum(1) - 1]
        else:
            pooled = text_global_pool(hidden, pool_type=self._pool)
        return self._project(pooled), hidden

    def project(self, hidden: Float[Tensor, "n l width"]) -> Float[Tensor, "n l d"]:
        return self._project(hidden)

    def _project(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... d"]:
        projection = self._tower.text_projection
        if projection is None:
            return hidden
        return projection(hidden) if isinstance(projection, nn.Linear) else hidden @ projection


@final
class _HuggingFace(Texts):
    def __init__(self, tower: HFTextEncoder) -> None:
        self._tower = tower
        self.width, self.embedding = tower.config.hidden_size, tower.transformer.get_input_embeddings()
        self.embed_dim = tower.output_dim

    def present(self, tokens: Int[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
        return tokens != self._tower.config.pad_token_id

    def encode(
        self, tokens: Int[Tensor, "n t"], present: Bool[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n l width"]]:
        length = _longest(present)
        mask = present[:, :length].long()
        out = self._tower.transformer(input_ids=tokens[:, :length], attention_mask=mask)
        return self._tower.proj(self._tower.pooler(out, mask)), out.last_hidden_state

    def project(self, hidden: Float[Tensor, "n l width"]) -> Float[Tensor, "n l d"]:
        return self._tower.proj(hidden)


@final
class _Ours(Texts):
    def __init__(self, tower: TextTower) -> None:
        self._tower = tower
        self.width, self.embedding = tower.ln_final.weight.shape[0], tower.token_embedding
        self.embed_dim = tower.text_projection.out_features

    def present(self, tokens: Int[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
        return tokens != self._tower.pad_id

    def encode(
        self, tokens: Int[Tensor, "n t"], present: Bool[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n l width"]]:
        hidden, seen = self._tower.encode_tokens(tokens[:, : _longest(present)])
        first = 0 if self._tower.cls is None else 1
        return self._tower.pool(hidden, seen), hidden[:, first:]

    def project(self, hidden: Float[Tensor, "n l width"]) -> Float[Tensor, "n l d"]:
        return self._tower.text_projection(hidden)


def _longest(present: Bool[Tensor, "n t"]) -> int:
    """How many tokens the longest text has, at least one."""
    numbers = torch.arange(1, present.shape[1] + 1, device=present.device)
    return max(1, int((present.any(0) * numbers).max()))
