"""A CLIP's text tower as the text encoder of a Stable Diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from open_clip import CLIP
from open_clip.tokenizer import get_clean_fn
from torch import Tensor, nn

from guidance.clip.encoder import Clip
from guidance.clip.interop import _LAYER, _NAMES, _activation, tokenizer_to_transformers
from guidance.clip.tokenize import FileTokenizer
from guidance.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerBase


def text_encoder(clip: Clip, *, width: int | None = None) -> tuple[CLIPTextModel, PreTrainedTokenizerBase]:
    """transformers' text encoder and tokenizer with the same embeddings of tokens, float32 on the CPU.

    `clip`: any whose text tower is a causal transformer, such as the embedded one, or what `guidance
    train-clip` makes. `width`: how many numbers a token the denoiser takes. Raises InputError for another
    width, another kind of text tower, and a tokenizer that transformers cannot be given.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    model: Any = clip._model
    blocks = model.transformer.resblocks if type(model) is CLIP else []
    kinds = {_activation(block) if isinstance(block.ls_1, nn.Identity) else "" for block in blocks}
    if kinds not in ({"gelu"}, {"quick_gelu"}) or model.attn_mask is None:
        raise InputError(
            f"the text tower of {clip.name!r} is no causal transformer of CLIP's kind, which a text encoder "
            "must be; take another model"
        )
    inner, ours = blocks[0].mlp.c_fc.weight.shape
    if width not in (None, ours):
        raise InputError(
            f"the text tower of {clip.name!r} has {ours} numbers a token, and the denoiser takes {width}; "
            "take a model of that width"
        )
    tokenizer = _tokenizer(clip)
    config = CLIPTextConfig(
        vocab_size=model.vocab_size,
        hidden_size=ours,
        intermediate_size=inner,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=model.context_length,
        hidden_act=kinds.pop(),
        layer_norm_eps=model.ln_final.eps,
        projection_dim=clip.embed_dim,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn before ours replace them
        converted = CLIPTextModel(config)
    names = converted.state_dict().keys()
    # Version 5 of transformers has no such level any more.
    prefix = "text_model." if any(name.startswith("text_model.") for name in names) else ""
    state = {theirs.replace("text_model.", prefix, 1): t for theirs, t in _weights(model, len(blocks))}
    missing = converted.load_state_dict(state, strict=False).missing_keys
    if any(not name.endswith("position_ids") for name in missing):
        raise RuntimeError(f"transformers' CLIPTextModel has other weights: {missing}")
    return converted.eval(), tokenizer


def _weights(model: Any, layers: int) -> Iterator[tuple[str, Tensor]]:
    """transformers' names of a text tower's weights, and the weights."""
    state = model.state_dict()
    for ours, theirs in _NAMES.items():
        if theirs.startswith("text_model."):
            yield theirs, state[ours]
    for i in range(layers):
        block, layer = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            for ours, theirs in _LAYER.items():
                yield f"{layer}.{theirs}.{kind}", state[f"{block}.{ours}.{kind}"]
            for name, part in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                yield f"{layer}.self_attn.{name}_proj.{kind}", part


def _tokenizer(clip: Clip) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not isinstance(clip._tokenizer, FileTokenizer):
        return tokenizer_to_transformers(clip)
    if clip._tokenizer._clean is not get_clean_fn("whitespace"):
        raise InputError(
            f"the tokenizer of {clip.name!r} cleans texts as transformers' cannot; take another model"
        )
    tokens = Tokenizer.from_str(clip._tokenizer._tokens.to_str())
    tokens.no_truncation()
    tokens.no_padding()
    own = [] if tokens.normalizer is None else [tokens.normalizer]
    cleaning = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokens.normalizer = normalizers.Sequence([*cleaning, *own])
    if tokens.pre_tokenizer is not None:
        # Not in a sequence, version 4 of transformers would change how it treats the first space.
        tokens.pre_tokenizer = pre_tokenizers.Sequence([tokens.pre_tokenizer])
    start, end = tokens.encode("").ids
    numbers = {"bos_token": start, "eos_token": end, "pad_token": clip._tokenizer._pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        model_max_length=clip._tokenizer.context_length,
        clean_up_tokenization_spaces=False,
        **{name: tokens.id_to_token(number) for name, number in numbers.items()},
    )
