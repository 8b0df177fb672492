"""What to draw: texts, pictures and embeddings with weights, and the line of text that a user writes for
them.

    a fox:1.5 | blurry:-0.3 | @cat.png:0.5

Parts are separated by `|`; `@` begins the path of a picture; a number after the last colon is the part's
weight (1 without one), and a negative weight pushes away. Colons also occur in prose, so the number's form
decides:

- with a sign, a decimal point or an exponent it is always a weight: `fox:1.5`, `blurry: -0.3`, `blade runner
  2049:2.0`;
- a bare whole number is a weight only right behind a word: `a fox:2`, but not `keycap: 5` nor `photo 16:9`.

A backslash before `:`, `|`, `@` or `\\` gives that character itself; before any other character it stands for
itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path

from guidance.errors import InputError

# A run of escapes and plain characters; an escape hides its bar or colon from the patterns below.
_PART = re.compile(r"((?:\\.|[^|])*)\|", re.DOTALL)
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)"
_WEIGHT = re.compile(rf"((?:\\.|[^\\])*):(\s*)({_NUMBER})", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Prompt:
    """One aim of the guidance: exactly one of a text, a picture's path or an embedding, with a weight.

    The embedding is `d` plain numbers in CLIP's joint space, of any length but zero; `str()` gives the
    written form that `parse` reads. Raises InputError when there is not exactly one aim, it is empty, or the
    weight is not finite.
    """

    text: str | None = None
    image: Path | None = None
    embedding: tuple[float, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [aim for aim in (self.text, self.image, self.embedding) if aim is not None]
        if len(given) != 1:
            raise InputError(f"a prompt is one text, image or embedding, got {len(given)} of them; give one")
        if self.text is not None and not self.text.strip():
            raise InputError(f"a prompt's text must not be empty, got {self.text!r}; say what to draw")
        if self.embedding is not None and not 0 < sum(x * x for x in self.embedding) < inf:
            raise InputError(
                f"a prompt's embedding must be finite and not zero, got {str(self)!r}; give another one"
            )
        if not isfinite(self.weight):
            raise InputError(
                f"a prompt's weight must be a finite number, got {str(self)!r}; write one like 0.5 or -0.3"
            )

    def __str__(self) -> str:
        if self.embedding is not None:
            written = f"an embedding of {len(self.embedding)} numbers"
        elif self.image is not None:
            written = "@" + _escape(str(self.image))
        else:
            written = _escape(str(self.text).strip())
            written = "\\" + written if written.startswith("@") else written
        return written if self.weight == 1 else f"{written}:{float(self.weight)!r}"


def parse(text: str) -> list[Prompt]:
    """The prompts of one line like `"a fox:1.5 | blurry:-0.3 | @cat.png:0.5"`; this module's docstring has
    the rules.

    Paths are kept, not read. Raises InputError for an empty line or part, a part with two weights, a weight
    that is not finite, weights that are all (nearly) zero, and text that is not Unicode.
    """
    if not text.strip():
        raise InputError(f"the prompt must not be empty, got {text!r}; say what to draw")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not valid UTF-8, got {text!r}; type it again") from error
    # The bar added here closes the last part, which a line's end would leave ambiguous with an empty one.
    prompts = [_parse_part(part.strip(), text) for part in _PART.findall(text + "|")]
    normalized_weights(prompts)
    return prompts


def normalized_weights(prompts: Sequence[Prompt]) -> list[float]:
    """The weights over the sum of their absolute values, so that strength does not change with their number.

    Raises InputError without prompts and when the weights are all (nearly) zero.
    """
    if not prompts:
        raise InputError("at least one prompt is needed, got none; say what to draw")
    total = sum(abs(prompt.weight) for prompt in prompts)
    if not 1e-6 < total < inf:
        got = ", ".join(f"{prompt.weight:g}" for prompt in prompts)
        raise InputError(
            f"the prompt's weights must not all be zero or beyond all bounds, got {got}; leave them at 1"
        )
    return [prompt.weight / total for prompt in prompts]


def parse_weighted(line: str) -> list[tuple[str, float]]:
    """Plain names and their weights, written like prompts: `"tiny | ViT-B/32:0.5"`.

    Raises InputError for an empty part, one with two weights, and a weight that is not positive and finite.
    """
    parts = []
    for part in _PART.findall(line + "|"):
        body, weight = _weighted(part.strip(), line)
        if not 0 < weight < inf:
            raise InputError(f"a weight must be positive and finite here, got {part.strip()!r}; leave it out")
        parts.append((_unescape(body), weight))
    return parts


def _parse_part(part: str, line: str) -> Prompt:
    part, weight = _weighted(part, line)
    if not part.startswith("@"):
        return Prompt(text=_unescape(part), weight=weight)
    if part == "@":
        raise InputError(
            f"@ must be followed by a picture's path, got none in {line!r}; write one like @cat.png"
        )
    return Prompt(image=Path(_unescape(part[1:].strip())), weight=weight)


def _weighted(part: str, line: str) -> tuple[str, float]:
    match = _WEIGHT.fullmatch(part)
    if match and _is_weight(match) and not match[1].strip():
        raise InputError(
            f"a weight needs something to weigh, got {part!r} in {line!r}; write it before the colon"
        )
    inner = match and _WEIGHT.fullmatch(match[1].strip())
    if inner and _is_weight(inner):
        raise InputError(f"a prompt has one weight, got two in {part!r}; keep one, or write \\: for a colon")
    if not part:
        raise InputError(f"every part must say something, got an empty one in {line!r}; drop a bar")
    return (match[1].strip(), float(match[3])) if match and _is_weight(match) else (part, 1.0)


def _is_weight(match: re.Match[str]) -> bool:
    """Whether the number after a colon is a weight, or prose like "keycap: 5" and "16:9"."""
    body, space, number = match.groups()
    return not number.isdecimal() or not (space or body[-1:].isdecimal())


def _escape(text: str) -> str:
    return re.sub(r"[:|\\]", r"\\\g<0>", text)


def _unescape(text: str) -> str:
    return re.sub(r"\\([:|@\\])", r"\1", text)
