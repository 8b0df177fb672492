"""What a weighted prompt says, in each of the dialects that artists know; no model is needed to read it.

`plain` is text as it is. `a1111` is stable-diffusion-webui's, `comfy` ComfyUI's, `compel` InvokeAI's and
compel's. Each module says where it is stricter than its tool: what cannot be meant is an InputError here.
"""

from typing import Literal, get_args

from guidance.diffusion.dialects.phrases import Fragment, Passage, Phrase
from guidance.errors import InputError, suggest

Dialect = Literal["plain", "a1111", "comfy", "compel"]

__all__ = ["Dialect", "Fragment", "Passage", "Phrase", "check_dialect", "parse_prompt"]


def parse_prompt(prompt: str, dialect: Dialect = "plain") -> list[Passage]:
    """The passages of a prompt, which are encoded one after the other.

    Prompt editing and alternation (`a1111`) must have been resolved for a step before, by `Edited`. Raises
    InputError for an unknown dialect, an unbalanced bracket, a weight that is no finite number, and what a
    dialect says but no embedding can do.
    """
    from guidance.diffusion.dialects.a1111 import parse_a1111
    from guidance.diffusion.dialects.comfy import parse_comfy
    from guidance.diffusion.dialects.compel import parse_compel

    match check_dialect(dialect):
        case "plain":
            return [Passage(((Fragment(prompt),),))]
        case "a1111":
            return parse_a1111(prompt)
        case "comfy":
            return parse_comfy(prompt)
        case "compel":
            return parse_compel(prompt)


def check_dialect(dialect: str) -> Dialect:
    """The dialect of a name; raises InputError for an unknown one."""
    for known in get_args(Dialect):
        if dialect == known:
            return known
    names = ", ".join(get_args(Dialect))
    raise InputError(f"dialect must be one of {names}, got {dialect!r}{suggest(dialect, get_args(Dialect))}")
