"""The text encoders of a pipeline by its name, without the rest of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.clip.names import MODELS
from guidance.devices import device as find_device
from guidance.diffusion.shards import check_shards
from guidance.diffusion.text_encoders import TextEncoders
from guidance.errors import InputError

#: More is refused before it is made; SDXL's second text encoder has 32 layers of 1280 numbers.
_MOST = {
    "num_hidden_layers": 64,
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "vocab_size": 1_000_000,
    "max_position_embeddings": 8192,
    "projection_dim": 8192,
}


def load_text_encoders(name: str = "tiny", *, device: str | torch.device = "cpu") -> TextEncoders:
    """The frozen text encoders of a pipeline in diffusers' layout, float32.

    `name`: "tiny", the embedded one; "local-dir:FOLDER"; or "hf-hub:ORG/NAME", which alone touches the
    network, and then fetches nothing but the text encoders. Raises InputError for another name, a pipeline
    without a text encoder, files that are missing or broken, weights that are no safetensors, lack some or
    are of other shapes, and for another kind of model.
    """
    where = find_device(str(device))
    scheme, _, rest = name.partition(":")
    if name != "tiny" and (scheme not in ("local-dir", "hf-hub") or not rest):
        raise InputError(f"unknown pipeline {name!r}; use tiny, local-dir:FOLDER or hf-hub:ORG/NAME")
    place = rest or str(MODELS / "tiny_diffusion")
    try:
        # Whatever is not in the files is an error, but initialised first.
        with torch.random.fork_rng(devices=[]):
            models, tokenizers, zeros = _read(place, local=scheme != "hf-hub")
    except InputError:
        raise
    except Exception as error:  # the library of tokenizers raises bare Exception
        message = " ".join(str(error).split())[:200]
        raise InputError(
            f"the text encoders of {name!r} cannot be loaded ({type(error).__name__}: {message}); "
            "check the name and the files"
        ) from error
    return TextEncoders([model.to(where) for model in models], tokenizers, zeros=zeros)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bar for what takes a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_text_encoder(
    place: str, part: str, index: dict[str, Any], *, local: bool, dtype: torch.dtype
) -> Any:
    """A text encoder of a pipeline, on the CPU; `part` is its folder, `index` its model_index.json.

    Raises InputError as `check_text_encoder` does and for weights that are missing; whatever transformers
    raises for files that are broken.
    """
    kind = check_text_encoder(place, part, index, local=local)
    check_shards(place, part, "model", local=local)
    with _without_bars():
        model, report = kind.from_pretrained(
            place,
            subfolder=part,
            use_safetensors=True,
            local_files_only=local,
            torch_dtype=dtype,
            output_loading_info=True,
        )
    if missing := [key for key in report["missing_keys"] if not key.endswith("position_ids")]:
        raise InputError(f"the {part} of {place} lacks the weights {missing[0]}, …; copy it there again")
    return model


def unpack_text_encoder(
    place: str, part: str, index: dict[str, Any], tensors: dict[str, Tensor], *, dtype: torch.dtype
) -> Any:
    """A text encoder of a local pipeline whose weights are among those of all its parts, on the CPU.

    Stable Diffusion 1's has transformers' names, 2's open_clip's, and XL has one of either. Raises InputError
    as `read_text_encoder` does.
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    kind = check_text_encoder(place, part, index, local=True)
    model = kind(kind.config_class.from_pretrained(place, subfolder=part, local_files_only=True))
    found: dict[str, Tensor] = {}
    for prefix in ("cond_stage_model.", f"conditioner.embedders.{int(part.endswith('_2'))}."):
        start = f"{prefix}transformer."
        found |= {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
        found |= convert_open_clip_checkpoint(model, tensors, prefix=f"{prefix}model.")
    # Whether all names begin so depends on the kind of model and on the version of transformers.
    found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    own = {name: found.get(name.removeprefix("text_model.")) for name in model.state_dict()}
    if missing := [name for name, tensor in own.items() if tensor is None]:
        raise InputError(
            f"the file in {place} lacks weights of its {part} ({missing[0]}, …); take a whole one"
        )
    model.load_state_dict(own)
    return model.to(dtype)


def check_text_encoder(place: str, part: str, index: dict[str, Any], *, local: bool) -> Any:
    """The class of a text encoder in transformers, its configuration read but nothing made of it.

    Raises InputError for another kind of model, for absurd sizes, and for a configuration that names code to
    fetch and run (an attention kernel on the hub), quantised weights or another file of weights.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = {kind.__name__: kind for kind in (CLIPTextModel, CLIPTextModelWithProjection)}.get(index[part][1])
    if kind is None:
        raise InputError(
            f"the {part} of {place} is a {index[part][1]}, and must be a CLIPTextModel; "
            "take a Stable Diffusion 1, 2 or XL"
        )
    config, _ = kind.config_class.get_config_dict(place, subfolder=part, local_files_only=local)
    for told in (config, config.get("text_config") or {}):  # of a whole CLIP, the text's own
        for name, most in _MOST.items():
            if not 0 < told.get(name, 1) <= most:
                raise InputError(f"the {part} of {place} has {name} {told[name]}; check its config.json")
        asked = ("attn_implementation", "_attn_implementation", "quantization_config", "transformers_weights")
        for name in asked:
            if told.get(name) not in (None, "eager", "sdpa"):
                raise InputError(
                    f"the {part} of {place} asks for the {name} {str(told[name])[:80]!r}, which is refused; "
                    "take it out of its config.json"
                )
    return kind


def read_tokenizer(place: str, part: str, index: dict[str, Any], *, local: bool) -> Any:
    """The tokenizer in a folder of a pipeline; no code that a pipeline brings along is ever run."""
    import transformers

    # The names, in versions 4 and 5, of what reads any tokenizer.json; CLIPTokenizer is OpenAI's alone.
    own = index[part][1] in ("PreTrainedTokenizerFast", "TokenizersBackend")
    kind = transformers.PreTrainedTokenizerFast if own else transformers.CLIPTokenizer
    return kind.from_pretrained(place, subfolder=part, local_files_only=local)


def forces_zeros(index: dict[str, Any]) -> bool:
    """Whether a pipeline's model_index.json asks for zeros in place of no prompt; an XL's does if silent."""
    return "XL" in str(index.get("_class_name")) and bool(index.get("force_zeros_for_empty_prompt", True))


def _read(place: str, *, local: bool) -> tuple[list[Any], list[Any], bool]:
    from huggingface_hub import hf_hub_download

    index_file = str(Path(place, "model_index.json")) if local else hf_hub_download(place, "model_index.json")
    index = json.loads(Path(index_file).read_text(encoding="utf-8"))
    parts = [part for part in ("text_encoder", "text_encoder_2") if (index.get(part) or [None, None])[1]]
    if not parts:
        raise InputError(f"the pipeline {place} has no text encoder; take a whole Stable Diffusion")
    models = [read_text_encoder(place, part, index, local=local, dtype=torch.float32) for part in parts]
    folders = [part.replace("text_encoder", "tokenizer") for part in parts]
    tokenizers = [read_tokenizer(place, folder, index, local=local) for folder in folders]
    return models, tokenizers, forces_zeros(index)
