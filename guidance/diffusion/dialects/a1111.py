r"""stable-diffusion-webui's dialect: `(x)` × 1.1, `[x]` ÷ 1.1, `(x:1.3)` × 1.3, nested, and `BREAK`.

A backslash makes a character of a bracket, a colon or itself. `BREAK` begins a new context. As in its
prompt_parser.py (1.10), with three exceptions: unbalanced brackets are an InputError, and so is a word right
behind a colon, `(x:abc)`, which webui takes for text; `BREAK` in brackets is one (webui encodes it as
a word). `AND` (several denoisings a step) is no embedding, and an InputError. Prompt editing is in `editing`.
"""

import re

from guidance.diffusion.dialects.phrases import Fragment, Passage, check_brackets, merged, number, short
from guidance.errors import InputError

_BRACKET = 1.1
_TOKEN = re.compile(
    r"""\\(?P<escaped>[()\[\]:\\])?      # a lone backslash is dropped
    |:(?P<weight>\s*[+-]?[.\d]+\s*|[^\s\\()\[\]:]+)\)
    |(?P<bracket>[()\[\]])
    |:|[^\\()\[\]:]+""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")
_AND = re.compile(r"\bAND\b")


def parse_a1111(prompt: str) -> list[Passage]:
    """One passage for each part between `BREAK`s; raises InputError as `parse_prompt` does."""
    check_brackets(prompt, "()[]")
    if _AND.search(prompt):
        raise InputError(
            f"AND asks for several denoisings a step, which an embedding cannot be, got {short(prompt)}; "
            "write it in small letters"
        )
    texts: list[str | None] = []  # None for BREAK
    weights: list[float] = []
    opened: list[int] = []

    def close(factor: float) -> None:
        start = opened.pop()
        weights[start:] = [weight * factor for weight in weights[start:]]

    for match in _TOKEN.finditer(prompt):
        if match["bracket"] and match["bracket"] in "([":
            opened.append(len(texts))
        elif match["bracket"]:
            close(_BRACKET if match["bracket"] == ")" else 1 / _BRACKET)
        elif match["weight"] and opened:
            close(number(match["weight"], prompt))
        elif match[0].startswith("\\"):
            texts.append(match["escaped"] or "")
        else:
            first, *rest = _BREAK.split(match[0])
            texts.append(first.rstrip() if rest else first)
            for i, text in enumerate(rest, 1):
                texts += [None, text.strip() if i < len(rest) else text.lstrip()]
        weights += [1.0] * (len(texts) - len(weights))

    parts: list[list[Fragment]] = [[]]
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            parts.append([])
        elif text:
            parts[-1].append(Fragment(text, weight))
    if len(parts) > 1 and not any(fragment.text.strip() for fragment in parts[-1]):
        parts.pop()  # as webui, which begins a context only with a token or another BREAK
    return [Passage((merged(part, ""),)) for part in parts]
