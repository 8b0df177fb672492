"""A tokenizer of its own for a CLIP that is trained from scratch: byte-level BPE over any language."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from guidance.errors import InputError
from guidance.media import write_text

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016) on NFKC-normalised, lower-cased texts.

    Padding is token 0 and the end of the text the last token, since open_clip's text tower is read at the
    highest token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=[PAD, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    return tokenizer


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `write_tokenizer` wrote; raises InputError for none and for a broken one."""
    path = folder / "tokenizer.json"
    if not os.path.isfile(path):  # Path's own raises for a name that is too long
        raise InputError(f"there is no trained model in {folder}: {path.name} is missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path} is broken ({error}); start from another") from error


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """Write `tokenizer.json` and what transformers needs beside it to load the folder as a tokenizer."""
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "pad_token": PAD,
        "bos_token": START,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
