"""A model folder as transformers writes it: config.json, model.safetensors, tokenizer, preprocessing."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from guidance.clip.tokenize import FileTokenizer, Tokenizer
from guidance.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPConfig

#: How many tokens OpenAI's byte-pair encoding has; the last two begin and end a text.
OPENAI_VOCABULARY = 49408


def read_model(folder: Path) -> tuple["CLIPConfig", dict[str, Tensor]]:
    """The configuration and the weights in a folder of transformers'."""
    from transformers import CLIPConfig

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = content["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"cannot read {folder / 'config.json'} ({error}); copy it there again") from error
    if kind != "clip":
        raise InputError(f"the model in {folder} is a {kind!r} for transformers; only 'clip' can be loaded")
    try:
        config = CLIPConfig(**content)
    except Exception as error:  # its checks of types raise their own kinds
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'config.json'} is broken ({message}); copy it there again") from error
    try:
        return config, load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read {folder / 'model.safetensors'} ({error}); save the model in one such file"
        ) from error


def read_tokenizer(folder: Path | None, text: Any, name: str) -> Tokenizer:
    """The tokenizer of a folder, for a text configuration of transformers'; OpenAI's without a folder.

    Raises InputError where it cannot be OpenAI's.
    """
    length: int = text.max_position_embeddings
    if folder is not None and (folder / "tokenizer.json").is_file():
        return FileTokenizer(folder, {"context_length": length})
    if text.vocab_size != OPENAI_VOCABULARY:
        raise InputError(
            f"the model {name!r} has {text.vocab_size} tokens, so its tokenizer is not OpenAI's; "
            "save both into one folder, with tokenizer.json, and load that"
        )
    return SimpleTokenizer(context_length=length)


def read_preprocessing(folder: Path | None, side: int) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` for the `CLIPImageProcessor` of a folder; OpenAI's without one."""
    ours = asdict(PreprocessCfg(size=side))
    file = None if folder is None else folder / "preprocessor_config.json"
    if file is None or not file.is_file():
        return ours
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
        size = theirs.get("size", side)
        sides = set(size.values()) if isinstance(size, dict) else {size}
        if sides != {side}:
            raise ValueError(f"it resizes to {size}, and the model sees {side} pixels a side")
        ours["resize_mode"] = "squash" if isinstance(size, dict) and "height" in size else "shortest"
        ours["interpolation"] = {2: "bilinear", 3: "bicubic"}[theirs.get("resample", 3)]  # PIL's numbers
        for name in ("mean", "std"):
            numbers = theirs.get(f"image_{name}", ours[name])
            ours[name] = tuple(float(number) for number in numbers)
            if len(numbers) != 3:
                raise ValueError(f"image_{name} is not three numbers")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be followed ({error}); save the image processor again") from error
    return ours
