"""What a model to be trained takes over from another: its weights and its tokenizer."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from open_clip import CustomTextCLIP
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from guidance.clip.loading import read
from guidance.clip.tokenize import FileTokenizer, Tokenizer
from guidance.errors import InputError

Towers = Literal["both", "image", "text"]

# What may differ between an architecture and the weights it starts from.
_FREE = {
    *("image_size", "patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained", "output_tokens"),
    *("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "context_length"),
    *("hf_model_name", "hf_model_pretrained"),
}


class Start(NamedTuple):
    """A model with weights."""

    model: CLIP | CustomTextCLIP
    model_cfg: dict[str, Any]
    tokenizer: Tokenizer


def read_start(name: str) -> Start:
    """The model of a name that `load` takes, or of a folder."""
    folder = Path(name.removeprefix("local-dir:"))
    if not os.path.isdir(folder):
        return Start(*read(name))
    if os.path.isfile(folder / "config.json") and not os.path.isfile(folder / "open_clip_config.json"):
        raise InputError(f"{folder} is in transformers' format; start from a folder in open_clip's")
    return Start(*read(f"local-dir:{folder}"))


def adopt_tokenizer(start: Start, text: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of the model that training starts from, with the new model's context."""
    theirs = start.model_cfg["text_cfg"].copy()
    for key in ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "pad_id", "eos_id"):
        text.pop(key, None)
        if key in theirs:
            text[key] = theirs[key]
    if not text.get("hf_model_name"):
        text["vocab_size"] = start.model.vocab_size
    tokenizer = start.tokenizer
    match tokenizer:
        case FileTokenizer():
            tokenizer.save(folder)
        case HFTokenizer():
            tokenizer.save_pretrained(folder)
        case _:
            return SimpleTokenizer(context_length=text.get("context_length", 77))
    return FileTokenizer(folder, text)


def inherit_(
    model: CLIP | CustomTextCLIP,
    model_cfg: dict[str, Any],
    start: Start,
    take: Towers,
    siglip: bool,
    name: str,
) -> None:
    """Give a model the weights of another."""
    source, config = start.model, start.model_cfg
    ours, theirs = (bool(part.get("quick_gelu")) for part in (model_cfg, config))
    if ours != theirs:
        kinds = {True: "QuickGELU", False: "GELU"}
        raise InputError(
            f"the weights of {name} were trained with {kinds[theirs]}, the architecture has {kinds[ours]}; "
            "take the architecture whose name ends in -quickgelu, or not, or none"
        )
    if take != "text":
        _compare("vision_cfg", model_cfg, config, asdict(CLIPVisionCfg()), name)
    if take != "image":
        _compare("text_cfg", model_cfg, config, asdict(CLIPTextCfg()), name)
    if isinstance(source.visual, TimmModel):
        source.visual.set_input_size(model.visual.image_size)
    state = source.state_dict()
    if isinstance(source, CLIP) and not isinstance(model, CLIP):
        state = convert_to_custom_text_state_dict(state)
    fresh = {"logit_bias"} if model.logit_bias is None else set()
    if take != "both" or (siglip and source.logit_bias is None):
        fresh = {"logit_scale", "logit_bias"}

    def taken(key: str) -> bool:
        return key not in fresh and (take == "both" or key.startswith("visual.") == (take == "image"))

    state = {key: tensor for key, tensor in state.items() if taken(key)}
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    if lacking := {key for key in model.state_dict() if taken(key)} - set(state):
        raise InputError(f"{name} has no weights {min(lacking)}; leave the architecture out to take its own")
    model.load_state_dict(state, strict=False)


def _compare(
    part: str, model_cfg: dict[str, Any], config: dict[str, Any], defaults: dict[str, Any], name: str
) -> None:
    """Raise InputError where weights would mean something else, also where their shapes are the same."""
    ours, theirs = defaults | model_cfg[part], defaults | config[part]
    for key in sorted((ours | theirs).keys() - _FREE):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"the weights of {name} do not fit: {part} has {key} {theirs.get(key)} and the architecture "
                f"{ours.get(key)}; leave the architecture out"
            )
