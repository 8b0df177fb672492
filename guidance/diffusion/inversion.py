"""Textual inversion (Gal et al. 2022): words that are learned from pictures, in the files of other tools."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.diffusion.text_encoders import TextEncoders
from guidance.errors import InputError
from guidance.media import replacing

#: Larger files are refused unread: 75 vectors of SDXL take 614 kB.
_MAX_BYTES = 20_000_000

#: What dialects give a meaning, and blanks, cannot be in a word.
_WORD = re.compile(r"""[^\s()\[\]{}|:,.;"'+\\^&]+""")


@dataclass(frozen=True)
class Word:
    """A learned word: its text, and the embeddings of its k tokens in each text encoder."""

    text: str
    vectors: list[Float[Tensor, "_ _"]]


def begin_word(encoders: TextEncoders, text: str, initial: str, vectors: int | None = None) -> Word:
    """A word that so far means what `initial` means.

    `vectors`: how many tokens it takes, each beginning as one of those of `initial`, in turn; as many as
    those if None. Raises InputError for a text that is no single word, for an `initial` without tokens, and
    for more vectors than a context takes.
    """
    check_word(text)
    rows = encoders.vectors(initial)
    if not all(map(len, rows)):
        raise InputError(f"the word to begin with must have a token, got {initial!r}; name a kind of thing")
    room = encoders.context_length - 2
    if vectors is not None and not 1 <= vectors <= room:
        raise InputError(f"a word has from 1 to {room} vectors here, got {vectors}")
    return Word(text, [row[torch.arange(vectors or len(row)) % len(row)] for row in rows])


def check_word(text: str) -> None:
    """Raises InputError unless a text can be a learned word in every dialect."""
    if not _WORD.fullmatch(text) or not text.isprintable() or len(text) > 100:
        raise InputError(
            f"a learned word is one word without brackets and signs that weigh, got {text[:100]!r}; "
            "write it like <fox>"
        )


def save_word(path: Path, word: Word) -> None:
    """Write a learned word as safetensors, atomically, as diffusers, webui and ComfyUI read it.

    For Stable Diffusion 1 and 2 one tensor [k, d], called like the word; for SDXL `clip_l` and `clip_g`,
    which tell no name, so that other tools take the file's (ours is in the metadata as well). Raises
    InputError where nothing can be written.
    """
    from safetensors.torch import save

    names = [word.text] if len(word.vectors) == 1 else ["clip_l", "clip_g"]
    rows = [rows.detach().float().cpu().contiguous() for rows in word.vectors]
    content = save(dict(zip(names, rows, strict=True)), {"word": word.text})
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); name another file") from error


def load_word(path: Path, text: str | None = None) -> Word:
    """A learned word of a safetensors file, ours or another tool's, on the CPU.

    `text`: what to call it, instead of what the file says: the tensor's name; where that is a tool's own
    (emb_params, clip_l, clip_g) the metadata's `word`, or the file's name. Raises InputError for a pickle
    (.pt, .bin), which may run code; for a file that is missing, broken, too large or holds something else;
    for numbers that are not finite, and for a name that is no word.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"learned words are read from .safetensors, got {str(path)!r}; a pickle (.pt, .bin) may run "
            "code: convert it with a tool of yours"
        )
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such file")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes are too many")
        with safe_open(path, "pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            told = (file.metadata() or {}).get("word")
        if tensors.keys() == {"clip_l", "clip_g"}:
            rows, name = [tensors["clip_l"], tensors["clip_g"]], told or path.stem
        elif len(tensors) == 1:
            ((key, tensor),) = tensors.items()
            rows, name = [tensor], (told or path.stem) if key == "emb_params" else key
        else:
            told = ", ".join(sorted(tensors))[:200] or "none"
            raise ValueError(f"its tensors are {told}, which is no word")
        rows = [row[None] if row.dim() == 1 else row for row in rows]
        for row in rows:
            if row.dim() != 2 or 0 in row.shape or not row.is_floating_point():
                raise ValueError(f"a word is tokens × numbers, and it holds {list(row.shape)}")
            if not row.isfinite().all():
                raise ValueError("some of its numbers are not finite")
    except (OSError, ValueError, MemoryError, SafetensorError) as error:
        raise InputError(f"cannot read the word in {path} ({error}); save it again") from error
    check_word(text or name)
    return Word(text or name, [row.float() for row in rows])


def teach(encoders: TextEncoders, words: Sequence[Word]) -> None:
    """Let prompts use learned words; raises InputError for a word that was learned for another model."""
    for word in words:
        encoders.learn(word.text, word.vectors)
