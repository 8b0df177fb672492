"""To and from transformers' `CLIPModel`: the same weights under other names, the same embeddings.

Only what both sides can say is carried over: a vision transformer that is read at its class token, and a
causal text transformer that is read at the end of the text. Anything else is refused, never approximated.
Files are safetensors only.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from open_clip import CLIP
from open_clip.model import set_model_preprocess_cfg
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from open_clip.transformer import LayerScale, QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from guidance.clip.encoder import Clip, Precision
from guidance.clip.fast import PackedBlock, PackedPatches, plain_weights
from guidance.clip.transformers_folder import (
    OPENAI_VOCABULARY,
    read_model,
    read_preprocessing,
    read_tokenizer,
)
from guidance.devices import device as find_device
from guidance.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

#: As `eos_token_id` it says to transformers that a text ends at its highest token, whatever that is.
HIGHEST_TOKEN = 2

# open_clip's name of each weight, and transformers'.
_NAMES = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_PROJECTIONS = ("visual.proj", "text_projection")  # open_clip multiplies by them from the right
_LAYER = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def to_transformers(clip: Clip) -> "CLIPModel":
    """A transformers model with the same embeddings, float32 on the CPU.

    Raises InputError for what a `CLIPModel` cannot be (an image tower that is no plain vision transformer,
    other pooling, another kind of text tower), and for a model that was loaded in bfloat16 on the
    CPU, whose weights are rounded.
    """
    from transformers import CLIPModel

    model: Any = clip._model
    if obstacle := _obstacle(model):
        raise InputError(f"transformers' CLIPModel cannot be the model {clip.name!r}: {obstacle}")
    state = _state(model)
    config = _config(model, state, openai=_has_openai_tokenizer(clip))
    theirs: dict[str, Tensor] = {}
    for ours, names in _pairs(config):
        tensor = state[ours].float().cpu()
        parts = tensor.chunk(len(names)) if len(names) > 1 else [tensor.T if ours in _PROJECTIONS else tensor]
        theirs |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    theirs["logit_scale"] = theirs["logit_scale"].reshape(())
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn before ours replace them
        converted = CLIPModel(config)
    converted.load_state_dict(theirs)
    return converted.eval()


def tokenizer_to_transformers(clip: Clip) -> "CLIPTokenizer":
    """transformers' tokenizer of OpenAI's byte-pair encoding, with the model's context length.

    It differs on texts with HTML entities and broken Unicode, which OpenAI's mends first. Raises InputError
    for a model with a tokenizer of its own.
    """
    from transformers import CLIPTokenizer

    if not _has_openai_tokenizer(clip):
        raise InputError(f"the model {clip.name!r} has a tokenizer of its own, not OpenAI's; copy its files")
    tokenizer: Any = clip._tokenizer
    rename = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {rename.get(token, token): number for token, number in tokenizer.encoder.items()}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.bpe_ranks)]
    with TemporaryDirectory() as folder:  # the two files are what every version of transformers reads
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=tokenizer.context_length)


def save_transformers(clip: Clip, folder: Path) -> None:
    """Write a folder that transformers' `CLIPModel` and `CLIPProcessor` load.

    Raises InputError as `to_transformers` and `tokenizer_to_transformers` do, for preprocessing that
    `CLIPImageProcessor` has not, and for a folder that exists and is not empty.
    """
    from transformers import CLIPImageProcessor

    preprocess = clip.preprocessing
    if preprocess["resize_mode"] == "longest":
        raise InputError(
            f"the model {clip.name!r} pads images, which transformers' CLIPImageProcessor does not"
        )
    model, tokenizer = to_transformers(clip), tokenizer_to_transformers(clip)
    size = clip.image_size
    squash = preprocess["resize_mode"] == "squash"
    processor = CLIPImageProcessor(
        size={"height": size, "width": size} if squash else {"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=3 if preprocess["interpolation"] == "bicubic" else 2,  # PIL's numbers
        image_mean=list(preprocess["mean"]),
        image_std=list(preprocess["std"]),
    )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not an empty folder; name another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in (model, tokenizer, processor):
            part.save_pretrained(folder)
    except OSError as error:
        raise InputError(f"cannot write the model to {folder} ({error}); name another folder") from error


def from_transformers(
    source: "CLIPModel | Path | str",
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
) -> Clip:
    """A frozen Clip with the embeddings of a transformers model, or of a folder that holds one.

    A folder holds config.json and model.safetensors, and may hold tokenizer.json and the settings of a
    `CLIPImageProcessor`; what it lacks of these two, and a model alone, has OpenAI's tokenizer and
    preprocessing. Nothing is downloaded. Raises InputError for another kind of model, weights that are
    missing, broken or of other shapes, and where the tokenizer cannot be OpenAI's.
    """
    where = find_device(str(device))
    if isinstance(source, Path | str):
        folder, name = Path(source), f"local-dir:{source}"
        config, state = read_model(folder)
    else:
        folder, name = None, "transformers"
        config, state = source.config, source.state_dict()
    try:
        # Before the model is made: a configuration may promise more layers than fit into memory.
        parts = ((ours, [state[name].float() for name in names]) for ours, names in _pairs(config))
        weights = {ours: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for ours, tensors in parts}
        used = {name for _, names in _pairs(config) for name in names}
        if unused := [name for name in state if name not in used and not name.endswith("position_ids")]:
            raise ValueError(f"it has weights that its configuration has not, such as {unused[0]}")
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn before theirs replace them
            model = CLIP(**_model_cfg(config))
        model.load_state_dict(weights | {ours: weights[ours].T for ours in _PROJECTIONS})
    # Weights that are not there or of other shapes, a configuration that makes no sense: as PyTorch says it.
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        message = " ".join(str(error).split())[:200]
        raise InputError(f"the model {name!r} cannot be loaded: {message}; save it again") from error
    set_model_preprocess_cfg(model, read_preprocessing(folder, config.vision_config.image_size))
    return Clip(
        model,
        read_tokenizer(folder, config.text_config, name),
        name=name,
        embed_dim=config.projection_dim,
        device=where,
        precision=precision,
    )


def _model_cfg(config: "CLIPConfig") -> dict[str, Any]:
    """open_clip's arguments for transformers' configuration; raises ValueError for what it cannot say."""
    text, vision = config.text_config, config.vision_config
    if text.hidden_act != vision.hidden_act or text.hidden_act not in ("gelu", "quick_gelu"):
        acts = f"{vision.hidden_act} and {text.hidden_act}"
        raise ValueError(f"its activations are {acts}, and must be gelu or quick_gelu in both towers")
    if not isinstance(text.eos_token_id, int):
        raise ValueError(f"it has no one token that ends a text, but {text.eos_token_id}")

    def tower(part: Any) -> dict[str, Any]:
        return {
            "width": part.hidden_size,
            "layers": part.num_hidden_layers,
            "mlp_ratio": (part.intermediate_size + 0.5) / part.hidden_size,  # open_clip rounds down
            "norm_kwargs": {"eps": part.layer_norm_eps},
        }

    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": tower(vision)
        | {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
        },
        "text_cfg": tower(text)
        | {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            "pool_type": "argmax" if text.eos_token_id == HIGHEST_TOKEN else "eos",
            "eos_id": text.eos_token_id,
        },
    }


def _pairs(config: "CLIPConfig") -> Iterator[tuple[str, list[str]]]:
    """Each weight of open_clip's, and those of transformers' that it is made of, one above the other."""
    yield from ((ours, [theirs]) for ours, theirs in _NAMES.items())
    towers = (
        ("visual.transformer", "vision_model", config.vision_config.num_hidden_layers),
        ("transformer", "text_model", config.text_config.num_hidden_layers),
    )
    for tower, their_tower, layers in towers:
        for i in range(layers):
            block, layer = f"{tower}.resblocks.{i}", f"{their_tower}.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                for ours, theirs in _LAYER.items():
                    yield f"{block}.{ours}.{kind}", [f"{layer}.{theirs}.{kind}"]
                yield f"{block}.attn.in_proj_{kind}", [f"{layer}.self_attn.{x}_proj.{kind}" for x in "qkv"]


def _obstacle(model: Any) -> str:
    """Why a model of open_clip's is none that transformers' CLIPModel can be ("" where it can)."""
    visual = model.visual
    if type(visual) is not VisionTransformer:
        return f"its image tower is a {type(visual).__name__}, and must be a vision transformer"
    if type(model) is not CLIP or not isinstance(model.text_projection, nn.Parameter):
        return "its text tower is not of the kind of OpenAI's CLIP"
    if visual.attn_pool is not None or visual.pool_type != "tok" or isinstance(visual.ln_pre, nn.Identity):
        return "its image tower is not read at its class token between two layer norms"
    if isinstance(visual.conv1, PackedPatches) and visual.conv1.linear.dtype != torch.float32:
        return "its weights are rounded to bfloat16; load it with precision float32"
    ambiguous = model.text_pool_type == "eos" and model.text_eos_id == HIGHEST_TOKEN
    if model.attn_mask is None or model.text_pool_type not in ("argmax", "eos") or ambiguous:
        return "its text tower is not causal, or not read at the end of the text"
    if model.logit_bias is not None:
        return "it has a logit bias"
    kinds = {_activation(block) for tower in (visual, model) for block in tower.transformer.resblocks}
    return "" if kinds in ({"gelu"}, {"quick_gelu"}) else "it has blocks or activations of another kind"


def _activation(block: nn.Module) -> str:
    """The activation of a plain block by transformers' name, "" for a block of another kind."""
    mlp: Any = block.mlp if type(block) is ResidualAttentionBlock else None
    if not isinstance(block, PackedBlock) and mlp is None:
        return ""
    activation = block.activation if isinstance(block, PackedBlock) else mlp.gelu
    if isinstance(activation, nn.SiLU | QuickGELU):  # a packed QuickGELU is a SiLU
        return "quick_gelu"
    return "gelu" if isinstance(activation, nn.GELU) and activation.approximate == "none" else ""


def _state(model: Any) -> dict[str, Tensor]:
    """The weights of a model of open_clip's before its image tower was packed, LayerScale multiplied in."""
    state: dict[str, Tensor] = model.state_dict()
    if isinstance(model.visual.conv1, PackedPatches):
        size = model.visual.conv1.size
        state["visual.conv1.weight"] = model.visual.conv1.linear.plain().view(-1, 3, size, size)
    for tower, prefix in ((model.visual, "visual."), (model, "")):
        for i, block in enumerate(tower.transformer.resblocks):
            name = f"{prefix}transformer.resblocks.{i}."
            if isinstance(block, PackedBlock):
                state |= {name + key: tensor for key, tensor in plain_weights(block).items()}
                continue
            for branch, scale in (("attn.out_proj", block.ls_1), ("mlp.c_proj", block.ls_2)):
                if isinstance(scale, LayerScale):
                    weight, bias = f"{name}{branch}.weight", f"{name}{branch}.bias"
                    state[weight] = scale.gamma[:, None] * state[weight]
                    state[bias] = scale.gamma * state[bias]
    return state


def _config(model: Any, state: dict[str, Tensor], *, openai: bool) -> "CLIPConfig":
    from transformers import CLIPConfig

    first = model.visual.transformer.resblocks[0]
    embed_dim = state["visual.proj"].shape[1]

    def tower(blocks: nn.ModuleList, prefix: str, heads: int, norm: nn.LayerNorm) -> dict[str, Any]:
        inner, width = state[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": heads,
            "hidden_act": _activation(blocks[0]),
            "layer_norm_eps": norm.eps,
            "projection_dim": embed_dim,
        }

    vision = tower(
        model.visual.transformer.resblocks,
        "visual.",
        first.heads if isinstance(first, PackedBlock) else first.attn.num_heads,
        model.visual.ln_post,
    )
    blocks = model.transformer.resblocks
    text = tower(blocks, "", blocks[0].attn.num_heads, model.ln_final)
    eos = model.text_eos_id if model.text_pool_type == "eos" else HIGHEST_TOKEN
    special = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": eos}
    if openai:
        special = {"bos_token_id": 49406, "pad_token_id": 49407, "eos_token_id": 49407}
    return CLIPConfig(
        vision_config=vision
        | {"image_size": model.visual.image_size[0], "patch_size": model.visual.patch_size[0]},
        text_config=text
        | {"vocab_size": model.vocab_size, "max_position_embeddings": model.context_length}
        | special,
        projection_dim=embed_dim,
        logit_scale_init_value=state["logit_scale"].item(),
    )


def _has_openai_tokenizer(clip: Clip) -> bool:
    tokenizer: Any = clip._tokenizer
    plain = isinstance(tokenizer, SimpleTokenizer) and tokenizer.clean_fn is get_clean_fn("lower")
    return plain and clip._model.vocab_size == tokenizer.vocab_size == OPENAI_VOCABULARY
