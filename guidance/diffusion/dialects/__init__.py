"""What a weighted prompt says, in each of the dialects that artists know; no model is needed to read it.

`plain` is text as it is. `a1111` is stable-diffusion-webui's, `comfy` ComfyUI's, `compel` InvokeAI's and
compel's. Each module says where it is stricter than its tool: what cannot be meant is an InputError here.
"""

from typing import Literal, get_args

from guidance.diffusion.dialects.phrases import MAX_WEIGHT, Fragment, Passage, Phrase, is_unicode, short
from guidance.errors import InputError, suggest

Dialect = Literal["plain", "a1111", "comfy", "compel"]

__all__ = ["Dialect", "Fragment", "Passage", "Phrase", "check_dialect", "parse_prompt"]


def parse_prompt(prompt: str, dialect: Dialect = "plain") -> list[Passage]:
    """The passages of a prompt, which are encoded one after the other.

    Prompt editing and alternation (`a1111`) must have been resolved for a step before, by `read_changing`.
    Raises InputError for an unknown dialect, bytes that are no Unicode, an unbalanced bracket, a weight that
    is no number or a huge one, and what a dialect says but no embedding can do.
    """
    from guidance.diffusion.dialects.a1111 import parse_a1111
    from guidance.diffusion.dialects.comfy import parse_comfy
    from guidance.diffusion.dialects.compel import parse_compel

    if not is_unicode(prompt):
        raise InputError(
            f"a prompt must be Unicode, got bytes that are none in {short(prompt)}; type it as UTF-8"
        )
    match check_dialect(dialect):
        case "plain":
            passages = [Passage(((Fragment(prompt),),))]
        case "a1111":
            passages = parse_a1111(prompt)
        case "comfy":
            passages = parse_comfy(prompt)
        case "compel":
            passages = parse_compel(prompt)
    for passage in passages:
        weights = [fragment.weight for phrase in passage.phrases for fragment in phrase]
        for weight in (*weights, *passage.shares, passage.strength):
            if not abs(weight) <= MAX_WEIGHT:
                raise InputError(
                    f"weights must be at most {MAX_WEIGHT:g} in all, got {weight:g} in {short(prompt)}; "
                    "most are from 0 to 2"
                )
    return passages


def check_dialect(dialect: str) -> Dialect:
    """The dialect of a name; raises InputError for an unknown one."""
    for known in get_args(Dialect):
        if dialect == known:
            return known
    names = ", ".join(get_args(Dialect))
    raise InputError(f"dialect must be one of {names}, got {dialect!r}{suggest(dialect, get_args(Dialect))}")
