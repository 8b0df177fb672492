"""A model's folder in open_clip's local-dir layout: what `load("local-dir:…")` takes."""

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from safetensors.torch import save as to_bytes
from torch import nn

from guidance.clip.tokenize import FileTokenizer, Tokenizer
from guidance.clip.towers import TEXT_FOLDER
from guidance.media import replacing, write_text


def save(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    words: Iterable[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model that `new_model` made, with its tokenizer, so that `load` gives the same embeddings.

    `words`: those of the captions that it was trained on (`tokenize.words`), so that prompts with others are
    warned about. Every file is replaced at once, the weights last. open_clip loads the folder as well, unless
    the text tower is a `TextTower`; with one of transformers' it must be started in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, FileTokenizer):
        tokenizer.save(folder)
    if words is not None:
        write_words(folder, words)
    if not isinstance(model, CLIP) and isinstance(model.text, HFTextEncoder):
        (folder / TEXT_FOLDER).mkdir(exist_ok=True)
        write_text(folder / TEXT_FOLDER / "config.json", model.text.config.to_json_string())
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    write_weights(folder, model, dtype)


def write_weights(folder: Path, model: nn.Module, dtype: torch.dtype) -> None:
    """Write the weights as safetensors, floating-point ones in `dtype`."""
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }
    # Not save_file, whose error on a full disk is not the system's.
    data = to_bytes(tensors)
    with replacing(folder / "open_clip_model.safetensors") as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # some file systems find only then that they are full


def write_words(folder: Path, words: Iterable[str]) -> None:
    """Write the words that a model was trained on."""
    with replacing(folder / "words.txt.gz") as temporary:
        temporary.write_bytes(gzip.compress("\n".join(sorted(set(words))).encode(), mtime=0))
