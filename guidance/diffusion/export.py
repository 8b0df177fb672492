"""A folder in diffusers' Stable Diffusion layout, from its parts."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load, save
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from guidance.media import replacing, write_text

_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def save_pipeline(
    folder: Path,
    unet: UNet2DConditionModel,
    vae: Any,
    encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
    scheduler: DDIMScheduler,
) -> None:
    """Write the parts, in half precision and safetensors, as `StableDiffusionPipeline` loads them."""
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", encoder)):
        deepcopy(part).half().save_pretrained(folder / name)
        # Where it was trained is nobody's business.
        _rewrite(folder / name / "config.json", {"_name_or_path": None})
    _prefix(folder / "text_encoder" / "model.safetensors")
    scheduler.save_pretrained(folder / "scheduler")
    tokenizer.save_pretrained(folder / "tokenizer")
    # Without indentation it is half as large.
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"), pretty=False)
    # Version 5 of transformers writes a name that 4 does not know.
    _rewrite(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_text(folder / "model_index.json", json.dumps(_INDEX, indent=2) + "\n")


def _prefix(path: Path) -> None:
    """Name weights as version 4 of transformers needs them: 5 leaves out a prefix, and reads both."""
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": t for name, t in load(path.read_bytes()).items()
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(weights, {"format": "pt"}))


def _rewrite(path: Path, changes: dict[str, str | None]) -> None:
    """Change entries of a file in JSON, or take them out."""
    known = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in known.items() if name not in changes or value is not None}
    write_text(path, json.dumps(kept, indent=2) + "\n")
