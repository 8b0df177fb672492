"""Text encoders by name: a pipeline's own, or a CLIP's text tower in their place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from guidance.clip.names import MODELS
from guidance.devices import device as find_device
from guidance.diffusion.text_encoders import TextEncoders
from guidance.errors import InputError

#: More is refused before it is made; OpenCLIP's bigG, SDXL's second, has 32 layers of 1280 numbers.
_MOST = {
    "num_hidden_layers": 64,
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "vocab_size": 1_000_000,
    "max_position_embeddings": 8192,
    "projection_dim": 8192,
}


def load_text_encoders(name: str = "tiny", *, device: str | torch.device = "cpu") -> TextEncoders:
    """The frozen text encoders of a pipeline or a CLIP, float32.

    `name`: "tiny", those of the embedded pipeline; "local-dir:FOLDER", a pipeline in diffusers' layout; or a
    CLIP by any name of `load`, such as "local-dir:FOLDER" of a trained one, whose text tower is taken. Only
    names of models on the internet touch the network. Raises InputError for what cannot be read, is no
    safetensors, or is no text encoder of CLIP's kind.
    """
    where = find_device(str(device))
    folder = MODELS / "tiny_diffusion" if name == "tiny" else Path(name.removeprefix("local-dir:"))
    if (name == "tiny" or name.startswith("local-dir:")) and os.path.isdir(folder / "text_encoder"):
        return read_text_encoders(folder, device=where)
    from guidance.clip import load
    from guidance.diffusion.from_clip import text_encoder

    model, tokenizer = text_encoder(load(name))
    return TextEncoders([model.to(where)], [tokenizer])


def read_text_encoders(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TextEncoders:
    """The text encoders in a folder of diffusers' layout: `text_encoder`, `text_encoder_2`, one or both.

    Raises InputError for none, for missing or broken files, weights that are no safetensors, lack some or are
    of other shapes, and for another kind of model.
    """
    from transformers import AutoTokenizer

    names = [suffix for suffix in ("", "_2") if os.path.isdir(folder / f"text_encoder{suffix}")]
    if not names:
        raise InputError(f"there is no text encoder in {folder}: text_encoder is missing; check the path")
    models, tokenizers = [], []
    for suffix in names:
        place = folder / f"text_encoder{suffix}"
        try:
            models.append(_read(place).to(device, dtype))
            tokenizers.append(
                AutoTokenizer.from_pretrained(folder / f"tokenizer{suffix}", local_files_only=True)
            )
        except InputError:
            raise
        except Exception as error:  # the tokenizers' library raises bare Exception for a broken file
            message = " ".join(str(error).split())[:200]
            raise InputError(
                f"the text encoder in {place} cannot be loaded ({type(error).__name__}: {message}); "
                "copy its folder and its tokenizer's there again"
            ) from error
    return TextEncoders(models, tokenizers)


def _read(place: Path) -> Any:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    kinds = {kind.__name__: kind for kind in (CLIPTextModel, CLIPTextModelWithProjection)}
    kind = kinds.get((config.get("architectures") or ["unknown"])[0])
    if kind is None:
        raise InputError(f"{place} is a {config.get('architectures')}; give a CLIPTextModel")
    for name, most in _MOST.items():
        if not 0 < config.get(name, 1) <= most:
            raise InputError(f"{place} has {name} {config[name]}, beyond 1 to {most}; check its config.json")
    # Whatever is not in the checkpoint is an error here, but initialised first.
    with torch.random.fork_rng(devices=[]):
        model, report = kind.from_pretrained(
            place, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    if missing := [name for name in report["missing_keys"] if not name.endswith("position_ids")]:
        raise InputError(f"{place} lacks the weights {missing[0]}, …; copy it there again")
    return model
