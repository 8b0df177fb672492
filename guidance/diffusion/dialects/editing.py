r"""Prompts that change with the steps: stable-diffusion-webui's editing and alternation, and stories.

`[from:to:when]` is `from` up to the step `when`, or up to that share of all steps where `when` has a point;
`[to:when]` and `[from::when]` leave one out. `[a|b]` is each in turn, a step each. Both in `a1111` only, as
in webui's prompt_parser.py (1.10). `seed => sprout => flower` is a story in every dialect: one after the
other, cross-faded; `\=>` is no arrow.
"""

import re
from dataclasses import dataclass

from guidance.diffusion.dialects.phrases import check_brackets, short
from guidance.errors import InputError
from guidance.prompts import Scene

_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_ARROW = re.compile(r"(?<!\\)=>")


@dataclass(frozen=True)
class _Edit:
    before: "_Node"
    after: "_Node"
    when: str

    def at(self, step: int, steps: int) -> str:
        when = float(self.when) * (steps if "." in self.when else 1)
        return _at(self.before if step + 1 <= int(min(max(when, 0), steps)) else self.after, step, steps)


@dataclass(frozen=True)
class _Alternation:
    options: tuple["_Node", ...]

    def at(self, step: int, steps: int) -> str:
        return _at(self.options[step % len(self.options)], step, steps)


_Node = tuple[str | _Edit | _Alternation, ...]


@dataclass(frozen=True)
class Changing:
    """A prompt's scenes, one after the other; in most there is one, of one text."""

    scenes: tuple[_Node, ...]

    @property
    def changes(self) -> bool:
        """Whether it is another prompt at some steps than at others."""
        return len(self.scenes) > 1 or any(not isinstance(part, str) for part in self.scenes[0])

    def at(self, step: int, steps: int) -> dict[str, float]:
        """The texts at a step, counted from 0, with their shares, which sum to 1."""
        shares: dict[str, float] = {}
        for i, scene in enumerate(self.scenes):
            share = Scene(i, len(self.scenes))(step / steps)
            if share > 0:
                text = _at(scene, step, steps)
                shares[text] = shares.get(text, 0.0) + share
        return shares


def read_changing(prompt: str, *, editing: bool) -> Changing:
    """The scenes of a prompt; with `editing` and alternation in them, where the dialect has these.

    Raises InputError for an empty scene, an unbalanced bracket, and a `when` that is no number.
    """
    texts = [text.replace(r"\=>", "=>") for text in _ARROW.split(prompt)]
    if len(texts) > 1 and not all(text.strip() for text in texts):
        raise InputError(
            rf"every scene must say something, got {short(prompt)}; write \=> for the characters"
        )
    scenes = [text.strip() if len(texts) > 1 else text for text in texts]
    return Changing(tuple(_edits(scene) if editing else (scene,) for scene in scenes))


def has_edits(text: str) -> bool:
    """Whether a scene of `a1111` has editing or alternation; raises InputError as `read_changing` does."""
    return any(not isinstance(part, str) for part in _edits(text))


def _edits(scene: str) -> _Node:
    check_brackets(scene, "()[]")
    return _read(scene, scene)


def _at(node: _Node, step: int, steps: int) -> str:
    return "".join(part if isinstance(part, str) else part.at(step, steps) for part in node)


def _read(text: str, prompt: str) -> _Node:
    parts: list[str | _Edit | _Alternation] = []
    start = 0
    while (opened := _find(text, "[", start)) >= 0:
        parts.append(text[start:opened])
        end = _closing(text, opened)
        parts += _bracket(text[opened + 1 : end], prompt)
        start = end + 1
    joined: list[str | _Edit | _Alternation] = []
    for part in [*parts, text[start:]]:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            part = str(joined.pop()) + part
        if part:
            joined.append(part)
    return tuple(joined) or ("",)


def _bracket(inner: str, prompt: str) -> _Node:
    options, fields = _split(inner, "|"), _split(inner, ":")
    if len(options) > 1 and len(fields) == 1:
        return (_Alternation(tuple(_read(option, prompt) for option in options)),)
    if len(options) == 1 and len(fields) in (2, 3) and _NUMBER.fullmatch(fields[-1]):
        before = _read(fields[0], prompt) if len(fields) == 3 else ("",)
        return (_Edit(before, _read(fields[-2], prompt), fields[-1].strip()),)
    if len(options) == 1 and len(fields) == 3:
        raise InputError(
            f"[from:to:when] needs a number of steps or a share of them, got {short(fields[-1].strip())} in "
            rf"{short(prompt)}; write one like 10 or 0.5, or \: for a colon"
        )
    return ("[", *_read(inner, prompt), "]")


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are in no brackets."""
    parts, start, i = [], 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in "([":
            i = _closing(text, i)
        elif text[i] == separator:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    return [*parts, text[start:]]


def _find(text: str, wanted: str, start: int) -> int:
    i = start
    while i < len(text):
        if text[i] == wanted:
            return i
        i += 2 if text[i] == "\\" else 1
    return -1


def _closing(text: str, opened: int) -> int:
    """Where a bracket of a balanced text is closed."""
    depth, i = 0, opened
    while True:
        if text[i] == "\\":
            i += 1
        elif text[i] in "([":
            depth += 1
        elif text[i] in ")]":
            depth -= 1
            if not depth:
                return i
        i += 1
