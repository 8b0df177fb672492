"""Phrases to rows of tokens: what fits into a context, what goes into the next one, what is lost."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from guidance.diffusion.dialects import Phrase

#: A context ends at a comma that is at most so many tokens back, so that no phrase is torn (webui's default).
_BACKTRACK = 20

_WORD = re.compile(r"\w+|[^\w\s]+")

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Placed:
    """A token of a phrase: its number, its weight and which of the phrase's fragments it is of."""

    token: int
    weight: float
    fragment: int


@dataclass
class Contexts:
    """The tokens of each context, without those that begin, end and pad it; and the words that are lost."""

    rows: list[list[Placed]] = field(default_factory=list)
    lost: str = ""


def place(phrase: Phrase, tokenize: Tokenize, room: int, *, long: bool) -> Contexts:
    """A phrase in contexts with `room` tokens each: one, or as many as it needs when `long`.

    Long ones are cut as stable-diffusion-webui cuts them.
    """
    numbered = [tokenize(fragment.text) for fragment in phrase]
    tokens = [
        Placed(token, fragment.weight, i)
        for i, (fragment, row) in enumerate(zip(phrase, numbered, strict=True))
        for token in row
    ]
    if len(tokens) <= room:
        return Contexts([tokens])
    if long:
        return Contexts(_cut(tokens, room, tokenize(",")))
    return Contexts([tokens[:room]], _lost(phrase, numbered, tokenize, room))


def _cut(tokens: list[Placed], room: int, comma: list[int]) -> list[list[Placed]]:
    rows: list[list[Placed]] = [[]]
    last_comma = -1
    for token in tokens:
        row = rows[-1]
        is_comma = [token.token] == comma
        if is_comma:
            last_comma = len(row)
        elif len(row) == room and 0 <= room - last_comma <= _BACKTRACK and last_comma >= 0:
            rows[-1], row = row[: last_comma + 1], row[last_comma + 1 :]
            rows.append(row)
            last_comma = -1
        if len(row) == room:
            rows.append([])
            last_comma = -1
        rows[-1].append(token)
    return rows


def _lost(phrase: Phrase, numbered: list[list[int]], tokenize: Tokenize, room: int) -> str:
    """The end of a phrase that does not fit, in whole words."""
    counts = list(accumulate(map(len, numbered), initial=0))
    first = bisect_left(counts, room + 1) - 1  # the fragment in which the context ends
    left, text = room - counts[first], phrase[first].text
    words = list(_WORD.finditer(text))
    fitting = bisect_left(words, True, key=lambda word: len(tokenize(text[: word.end()])) > left)
    rest = text[words[fitting].start() :] if fitting < len(words) else ""
    return " ".join(" ".join([rest, *(fragment.text for fragment in phrase[first + 1 :])]).split())
