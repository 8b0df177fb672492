r"""ComfyUI's dialect: `(x)` is 1.1 times the weight around it, `(x:1.2)` is 1.2 whatever is around it.

`\(` and `\)` are characters, square brackets too. As in its sd1_clip.py; stricter for unbalanced brackets,
and for a word right behind a colon, `(x:abc)`, which ComfyUI takes for text: write `\:` there.
"""

import re

from guidance.diffusion.dialects.phrases import Fragment, Passage, check_brackets, number

# Stand for the escaped characters while brackets are looked for, each as long as what it stands for.
_HIDDEN = {r"\(": "\0\1", r"\)": "\0\2", r"\:": "\0\3"}
_WEIGHTED = re.compile(r"(.+):([^:()]*)", re.DOTALL)


def parse_comfy(prompt: str) -> list[Passage]:
    """One passage of one phrase; raises InputError as `parse_prompt` does."""
    hidden = prompt
    for written, stand_in in _HIDDEN.items():
        hidden = hidden.replace(written, stand_in)
    check_brackets(hidden, "()")
    return [Passage((tuple(_weighted(hidden, 1.0, prompt)) or (Fragment(""),),))]


def _weighted(text: str, weight: float, prompt: str) -> list[Fragment]:
    phrase: list[Fragment] = []
    for piece, in_brackets in _pieces(text):
        if not in_brackets:
            phrase.append(Fragment(_shown(piece), weight))
            continue
        match = _WEIGHTED.fullmatch(piece)
        written = match[2] if match else ""
        # Behind a space, or of several words, it is prose: (a sign: keep out).
        if match and (_is_number(written) or (len(written.split()) == 1 and written == written.strip())):
            phrase += _weighted(match[1], number(written, prompt), prompt)
        else:
            phrase += _weighted(piece, weight * 1.1, prompt)
    return phrase


def _is_number(written: str) -> bool:
    try:
        float(written)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    for written, stand_in in _HIDDEN.items():
        text = text.replace(stand_in, written[1])
    return text


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Text outside of brackets and what is in the outermost ones, in order; nothing empty."""
    pieces = []
    start = depth = 0
    for i, character in enumerate(text):
        if character == "(":
            if not depth:
                pieces.append((text[start:i], False))
                start = i + 1
            depth += 1
        elif character == ")":
            depth -= 1
            if not depth:
                pieces.append((text[start:i], True))
                start = i + 1
    pieces.append((text[start:], False))
    return [piece for piece in pieces if piece[0]]
