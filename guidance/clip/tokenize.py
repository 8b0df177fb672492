"""From text to tokens, and honest warnings about what is lost on the way."""

import gzip
import json
import re
import unicodedata
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from guidance.errors import InputError
from guidance.media import replacing

#: The model that a warning recommends.
LARGER = "ViT-B-32/laion2b_s34b_b79k"

# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class PromptWarning(UserWarning):
    """A prompt was understood in part only."""


@runtime_checkable
class Tokenizer(Protocol):
    """What open_clip's tokenizers are; rows start with a start token and are padded or cut to the context."""

    context_length: int

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor: ...


class FileTokenizer:
    """A model folder's `tokenizer.json`, read by the `tokenizers` library alone.

    Same tokens as open_clip's HFTokenizer, which takes seconds to start and may ask the internet.
    """

    def __init__(self, folder: Path, text_cfg: dict[str, Any]):
        from open_clip.tokenizer import get_clean_fn
        from tokenizers import Tokenizer as Tokens

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"the model folder {folder} has no tokenizer.json; copy it there")
        try:
            self._tokens = Tokens.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"the tokenizer {file} is broken ({error}); copy it there again") from error
        settings = folder / "tokenizer_config.json"
        try:
            special = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        except (OSError, ValueError) as error:
            raise InputError(f"{settings} cannot be read ({error}); copy it there again") from error
        if not isinstance(special, dict):
            raise InputError(f"{settings} is not a tokenizer's configuration; copy it there again")
        self._files = {name.name: name.read_bytes() for name in (file, settings) if name.is_file()}
        #: How many tokens there are.
        self.vocab_size: int = self._tokens.get_vocab_size()
        self._pad = self._id(special.get("pad_token"), text_cfg.get("pad_id", 0))
        options = text_cfg.get("tokenizer_kwargs", {})
        self._separator = self._id(special.get("sep_token"), -1) if options.get("strip_sep_token") else -1
        self._clean: Callable[[str], str] = get_clean_fn(options.get("clean", "whitespace"))
        self.context_length: int = text_cfg.get("context_length", 77)

    def _id(self, token: str | dict[str, Any] | None, default: int) -> int:
        """The number of a special token, which is written as its text or with properties of it."""
        text = token["content"] if isinstance(token, dict) else token
        number = None if text is None else self._tokens.token_to_id(text)
        return default if number is None else number

    def __call__(self, texts: list[str], context_length: int | None = None) -> Int[Tensor, "n context"]:
        length = context_length or self.context_length
        self._tokens.enable_truncation(length)
        self._tokens.enable_padding(length=length, pad_id=self._pad)
        rows = self._tokens.encode_batch([self._clean(text) for text in texts])
        tokens = torch.tensor([row.ids for row in rows], dtype=torch.long).view(len(texts), length)
        return torch.where(tokens == self._separator, 0, tokens)

    def save(self, folder: Path) -> None:
        """Write the files that it was read from."""
        for name, content in self._files.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)


def words(text: str) -> list[str]:
    """The words of a text in any language, in lower case; each character is one where a script has no spaces.

    A word is a run of letters, marks and digits (Unicode's L, M and N). The list of the words that a model
    was trained on is made with this function, so that a prompt's words compare with it.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return _PIECE.findall(text)


def read_words(folder: Path) -> frozenset[str] | None:
    """The words a model was trained on, one a line of its folder's words.txt.gz or words.txt; or None.

    Raises InputError when the file is broken.
    """
    for name, unpack in (("words.txt.gz", gzip.decompress), ("words.txt", bytes)):
        file = folder / name
        if file.is_file():
            try:
                return frozenset(unpack(file.read_bytes()).decode().split("\n"))
            except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
                raise InputError(f"{file} cannot be read ({error}); copy it there again") from error
    return None


def overflow(tokenizer: Tokenizer, text: str) -> str:
    """The end of a text that does not fit into a tokenizer's context, in whole words ("" when all fits)."""
    padding = _growth("", tokenizer)
    pieces = list(_PIECE.finditer(text))

    def cut(count: int) -> bool:
        return count > 0 and _growth(text[: pieces[count - 1].end()], tokenizer) != padding

    first = bisect_left(range(len(pieces) + 1), True, key=cut)
    return text[pieces[first - 1].start() :] if first <= len(pieces) else ""


def _growth(text: str, tokenizer: Tokenizer) -> int:
    """What fills one more place in the context: padding where the text fits, a token of it where not."""
    longer = tokenizer([text], tokenizer.context_length + 1)
    return int(longer.sum() - tokenizer([text], tokenizer.context_length).sum())


def warn(
    text: str, tokenizer: Tokenizer, vocabulary: frozenset[str] | None, name: str, stacklevel: int
) -> None:
    """Give a PromptWarning for the part of a prompt that a model cannot see, and for words new to it."""
    tell = partial(warnings.warn, category=PromptWarning, stacklevel=stacklevel + 1)
    if lost := overflow(tokenizer, text):
        tell(
            f"the prompt is too long for the model {name!r} ({tokenizer.context_length} tokens): "
            f"it does not see {lost!r}; shorten the prompt"
        )
    if vocabulary is not None and (new := _unseen(words(text), vocabulary)):
        tell(
            f"the model {name!r} has never seen {', '.join(map(repr, new))}; "
            f"say it in other words, or use a larger model such as {LARGER}"
        )


def _unseen(prompt: Sequence[str], vocabulary: frozenset[str]) -> list[str]:
    return list(dict.fromkeys(word for word in prompt if word not in vocabulary))
