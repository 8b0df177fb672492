"""What every dialect is read into: fragments of text with weights; and what is wrong in all of them."""

from dataclasses import dataclass
from math import isfinite, nan
from typing import NoReturn

from guidance.errors import InputError

#: Deeper brackets are refused: nobody means them, and each level is a call in a call.
MAX_DEPTH = 50

#: Larger weights are refused: they are typing mistakes, and rows times 1e39 are no numbers any more.
MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class Fragment:
    """Text with one weight: 1 is as it is, 0 nothing."""

    text: str
    weight: float = 1.0


#: Fragments that are encoded together, in one context.
Phrase = tuple[Fragment, ...]


@dataclass(frozen=True)
class Passage:
    """A mean of phrases, each with its share; and its own strength, where 0 is an empty prompt.

    Most passages are a single phrase. The shares sum to 1 unless the prompt asks for others.
    """

    phrases: tuple[Phrase, ...]
    shares: tuple[float, ...] = (1.0,)
    strength: float = 1.0


def check_brackets(prompt: str, pairs: str) -> None:
    r"""Raises InputError for the first unbalanced bracket of `pairs`, such as "()[]"; `\(` is a character."""
    opened: list[tuple[str, int]] = []
    closing = dict(zip(pairs[1::2], pairs[::2], strict=True))
    escaped = False
    for position, character in enumerate(prompt, 1):
        if escaped or character == "\\":
            escaped = not escaped
        elif character in closing.values():
            opened.append((character, position))
            if len(opened) > MAX_DEPTH:
                raise InputError(f"brackets must be at most {MAX_DEPTH} deep, got more in {short(prompt)}")
        elif character in closing and (not opened or opened.pop()[0] != closing[character]):
            _unbalanced(prompt, character, position, "closes nothing")
    if opened:
        _unbalanced(prompt, *opened[-1], "is never closed")


def number(written: str, prompt: str) -> float:
    """A weight that was written; raises InputError unless it is a finite number."""
    try:
        value = float(written)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise InputError(
            f"a weight must be a finite number, got {short(written.strip())} in {short(prompt)}; "
            r"write one like 1.2, or \: for a colon"
        )
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: bytes of a command line that are no UTF-8 become surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def merged(fragments: list[Fragment], between: str) -> Phrase:
    """Neighbours of one weight as one fragment, so that their words are tokenised together."""
    joined: list[Fragment] = []
    for fragment in fragments:
        if joined and joined[-1].weight == fragment.weight:
            fragment = Fragment(joined.pop().text + between + fragment.text, fragment.weight)
        joined.append(fragment)
    return tuple(joined) or (Fragment(""),)


def short(prompt: str) -> str:
    """A prompt, or a part of it, for an error message."""
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "…")


def _unbalanced(prompt: str, bracket: str, position: int, what: str) -> NoReturn:
    raise InputError(
        f"the bracket {bracket} at character {position} of {short(prompt)} {what}; "
        rf"balance it, or write \{bracket} for the character"
    )
