r"""compel's dialect: `word+` × 1.1 for each plus, `word-` × 0.9, `(some words)1.3`; blends, conjunctions.

`("a fox", "a cat").blend(0.7, 0.3)` is a weighted mean of prompts; `("a fox", "a cat").and(1, 0.5)` has them
one after the other, each in a context of its own. A backslash makes a character of what is syntax. As compel
2.5 reads it; stricter for unbalanced brackets, for weights such as 1.2.3, and for `.swap()`, `withLora()` and
blends in the middle of a prompt, which are an InputError: compel leaves them out or takes them for text.
"""

import re
from typing import NoReturn

from guidance.diffusion.dialects.phrases import (
    Fragment,
    Passage,
    Phrase,
    check_brackets,
    merged,
    number,
    short,
)
from guidance.errors import InputError

_PLUS, _MINUS = 1.1, 0.9

_SYNTAX = r'()",.+\-='
# A sign inside of a word belongs to it, as in hot-dog.
_WORD = re.compile(rf"(?:\\[{_SYNTAX}]|[-+](?![\s{_SYNTAX}]|\Z)|[^\s{_SYNTAX}])+")
_SIGNS = re.compile(r"\++|-+")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:\.\d[.\d]*)?")
_OPERATOR = re.compile(r"\.(attend|swap|blend|and|add)\(([^()]*)\)")
_WHOLE = re.compile(r"\s*\.(blend|and|add)\s*\(([^()]*)\)\s*")
_LORA = re.compile(r"(?:use|with)Lora\(")
_ESCAPED = re.compile(rf"\\([{_SYNTAX}])")


def parse_compel(prompt: str) -> list[Passage]:
    """A passage for each part of a conjunction; raises InputError as `parse_prompt` does."""
    check_brackets(prompt, "()")
    text = re.sub(r",(\S)", r", \1", prompt).strip()
    end = _closing(text, 0) if text.startswith("(") else 0
    whole = _WHOLE.fullmatch(text, end + 1) if end else None
    if whole is None:
        return [Passage((_phrase(text, prompt),))]
    phrases = tuple(_phrase(_unquoted(item), prompt) for item in _items(text[1:end]))
    written = [option.strip() for option in whole[2].split(",") if option.strip()]
    normalised = not (whole[1] == "blend" and written[-1:] == ["no_normalize"])
    weights = [number(option, prompt) for option in (written if normalised else written[:-1])] or [1.0] * len(
        phrases
    )
    if len(weights) != len(phrases):
        raise InputError(
            f"{len(phrases)} prompts need as many weights, got {len(weights)} in {short(prompt)}; "
            "write one for each"
        )
    if whole[1] != "blend":
        return [Passage((phrase,), strength=weight) for phrase, weight in zip(phrases, weights, strict=True)]
    total = sum(weights) if normalised else 1.0
    if abs(total) < 1e-6:
        raise InputError(
            f"the weights of a blend must not sum to zero, got {short(prompt)}; "
            "change one, or add no_normalize"
        )
    return [Passage(phrases, tuple(weight / total for weight in weights))]


def _phrase(text: str, prompt: str) -> Phrase:
    return merged([f for f in _sequence(text, 1.0, prompt, nested=False) if f.text], " ")


def _sequence(text: str, weight: float, prompt: str, *, nested: bool) -> list[Fragment]:
    """The fragments of a text; `nested` in brackets or quotes, where signs and commas end a word anywhere."""
    found: list[Fragment] = []
    i = 0
    while i < len(text):
        end = _closing(text, i) if text[i] in '("' else 0
        word = _WORD.match(text, i)
        if text[i].isspace():
            i += 1
        elif _LORA.match(text, i):
            _refuse("a LoRA", prompt)
        elif end:
            inner = text[i + 1 : end].replace(r"\"", '"') if text[i] == '"' else text[i + 1 : end]
            factor, i = _operator(text, end + 1, prompt, of_word=False)
            found += _sequence(inner, weight * factor, prompt, nested=True)
        else:
            factor, after = _operator(text, word.end(), prompt, of_word=True) if word else (1.0, i)
            if word and after > word.end():
                piece, i = word[0], after
            else:
                piece = word[0] if word and nested else text[i] if nested else text[i:].split(maxsplit=1)[0]
                i += len(piece)
            found.append(Fragment(_ESCAPED.sub(r"\1", piece), weight * factor))
    return found


def _operator(text: str, i: int, prompt: str, *, of_word: bool) -> tuple[float, int]:
    """The factor that stands at a place in a text, right behind what it weighs, and where it ends."""
    if signs := _SIGNS.match(text, i):
        return (_PLUS if signs[0][0] == "+" else _MINUS) ** len(signs[0]), signs.end()
    if not of_word and (written := _NUMBER.match(text, i)):
        return number(written[0], prompt), written.end()
    if call := _OPERATOR.match(text, i):
        if call[1] != "attend":
            what = "swapping attention" if call[1] == "swap" else "a blend or conjunction inside of a prompt"
            _refuse(what, prompt)
        if _SIGNS.fullmatch(call[2]):
            return _operator(call[2], 0, prompt, of_word=True)[0], call.end()
        return number(call[2], prompt), call.end()
    return 1.0, i


def _closing(text: str, i: int) -> int:
    """Where the bracket or quotation mark at a place is closed (0: nowhere)."""
    depth, j = 0, i
    while j < len(text):
        if text[j] == "\\":
            j += 1
        elif text[i] == '"':
            if text[j] == '"' and j > i:
                return j
        elif text[j] in "()":
            depth += 1 if text[j] == "(" else -1
            if not depth:
                return j
        j += 1
    return 0


def _items(text: str) -> list[str]:
    """What is between the commas that are in no brackets and no quotes."""
    items, start, i = [], 0, 0
    while i < len(text):
        if text[i] == ",":
            items.append(text[start:i])
            start = i + 1
        i = max(_closing(text, i) if text[i] in '("' else i, i) + 1
    return [*items, text[start:]]


def _unquoted(item: str) -> str:
    item = item.strip()
    return item[1:-1].replace(r"\"", '"') if item[:1] == '"' and _closing(item, 0) == len(item) - 1 else item


def _refuse(what: str, prompt: str) -> NoReturn:
    raise InputError(f"{what} is nothing that an embedding can be, got {short(prompt)}; leave it out")
