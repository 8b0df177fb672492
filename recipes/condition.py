"""What a Stable Diffusion is told of a prompt: every token with its weight, and the embeddings in a file."""

import json as json_format
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import guidance as g
from guidance import options
from guidance.clip.table import one_line, table
from guidance.clip.tokenize import PromptWarning
from guidance.diffusion.conditioning import save_condition
from guidance.diffusion.dialects.editing import read_changing
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.text_encoders import TextEncoders, Token
from guidance.diffusion.text_loading import load_text_encoders


def main(
    prompt: Annotated[str, Parameter(help="What to say; a => b says one after the other.")],
    *,
    dialect: options.Dialect = "plain",
    model: options.Pipeline = "tiny",
    clip: str | None = None,
    steps: int = 20,
    clip_skip: int = 0,
    long: bool = False,
    save: Path | None = None,
    at: float = 0.0,
    json: bool = False,
    device: options.Device = "auto",
) -> str:
    """Show what a prompt tells a Stable Diffusion: tokens, weights, contexts, what is cut off; and save it.

    Args:
        clip: A CLIP whose text tower takes the place of the pipeline's: tiny, local-dir:….
        steps: Of the denoising, for prompts that change: [cat:dog:0.5] in a1111, and stories.
        clip_skip: How many of the text encoder's last layers are left out.
        long: What does not fit into a context goes on in the next, instead of being cut off.
        save: The file of the embeddings, .safetensors.
        at: How far the denoising has come with what is saved, from 0 to 1, for prompts that change.
        json: Print everything as JSON, not as a table.
    """
    if not 0 <= at <= 1:
        raise g.InputError(f"at must be from 0 to 1, got {at:g}")
    if save is not None and save.suffix.lower() != ".safetensors":
        raise g.InputError(f"embeddings are saved as .safetensors, got {str(save)!r}; name another file")
    changing = read_changing(prompt, editing=dialect == "a1111")
    said: dict[str, list[int]] = {}
    for step in range(g.Clock(steps).steps):
        for text in changing.at(step, steps):
            said.setdefault(text, []).append(step + 1)
    where = g.device(device)
    if clip is None:
        encoders = load_text_encoders(model, device=where)
    else:
        swapped, tokenizer = text_encoder(g.load(clip))
        encoders = TextEncoders([swapped.to(where)], [tokenizer])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)  # what is cut off is printed
        told = {text: encoders.explain(text, dialect, long=long) for text in said}
        condition = encoders.schedule(prompt, steps, dialect=dialect, clip_skip=clip_skip, long=long)(at)
    lost = {text: "" if long else encoders.lost(text, dialect) for text in said}
    if save is not None:
        save_condition(save, condition)
    length, width = condition.hidden.shape[1:]
    if json:
        texts = [
            {"text": t, "steps": said[t], "tokens": [asdict(token) for token in told[t]], "lost": lost[t]}
            for t in said
        ]
        facts = {"prompt": prompt, "dialect": dialect, "texts": texts, "shape": [length, width]}
        return json_format.dumps(facts, ensure_ascii=False, indent=2)
    rows = [
        ("" if i or not changing.changes else _spans(said[text]), *_row(token))
        for text in said
        for i, token in enumerate(told[text])
    ]
    lines = [table(["steps", "context", "token", "weight", "share"], rows), ""] if rows else []
    contexts = f"{length // encoders.context_length} × {encoders.context_length} tokens"
    lines.append(f"{contexts}, {width} numbers each")
    lines += [f"cut off: {one_line(words)}" for words in lost.values() if words]
    lines += [] if save is None else [f"saved: {save}"]
    return "\n".join(lines)


def _row(token: Token) -> tuple[str, str, str, str]:
    share = "" if token.share == 1 else f"{token.share:.4g}"
    return str(token.context + 1), token.text, f"{token.weight:.4g}", share


def _spans(steps: Sequence[int]) -> str:
    """Steps as people write them: 1-5, 8; of many, the first."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and spans[-1][1] == step - 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    written = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join([*written[:3], "…"] if len(written) > 3 else written)
