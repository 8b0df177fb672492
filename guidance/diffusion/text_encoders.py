"""Prompts to what a Stable Diffusion is conditioned on, by its own text encoders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip.tokenize import PromptWarning
from guidance.clock import Clock
from guidance.diffusion.conditioning import Condition, blend, concatenate, nothing_like, stack
from guidance.diffusion.dialects import Dialect, Passage, Phrase, check_dialect, parse_prompt
from guidance.diffusion.dialects.editing import has_edits, read_changing
from guidance.diffusion.dialects.phrases import short
from guidance.diffusion.tower import Tower
from guidance.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Token:
    """A token as it is encoded: `context` counts from 0, `share` is its phrase's part of a blend."""

    text: str
    number: int
    weight: float
    context: int
    share: float


@final
class TextEncoders:
    """The frozen text encoders of a Stable Diffusion and their tokenizers: one for 1.x and 2.x, two for SDXL.

    `width`: numbers a token, of all encoders together; `context_length`: tokens of one context, with those
    that begin and end it; `device`: where they compute, and may be set.
    """

    def __init__(
        self,
        models: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
        tokenizers: Sequence[PreTrainedTokenizerBase],
        *,
        device: torch.device | None = None,
        zeros: bool = False,
    ) -> None:
        """`models`: of transformers, used as they are where they are; no weight gets a gradient from here on.

        `zeros`: the denoiser was trained with zeros in place of no prompt (see `encode_negative`).

        The last layer is read, normalised; with a `CLIPTextModelWithProjection` among them, as in SDXL, the
        one before it, not normalised, and the projection is the pooled whole. Raises InputError for none, for
        another number of tokenizers, and for contexts of different lengths.
        """
        if not models or len(models) != len(tokenizers):
            raise InputError(
                f"text encoders need a tokenizer each, got {len(models)} with {len(tokenizers)} tokenizers"
            )
        self._towers = [Tower(m, t) for m, t in zip(models, tokenizers, strict=True)]
        lengths = {tower.context_length for tower in self._towers}
        if len(lengths) > 1:
            raise InputError(f"text encoders must see as many tokens, got {sorted(lengths)}; give others")
        self.context_length = lengths.pop()
        self.width = sum(tower.width for tower in self._towers)
        self.device = device or next(models[0].parameters()).device
        self._zeros = zeros
        self._penultimate = any(tower.projects for tower in self._towers)

    def encode(
        self, prompts: str | list[str], *, dialect: Dialect = "plain", clip_skip: int = 0, long: bool = False
    ) -> Condition:
        """The condition of prompts; a negative prompt is encoded like any other.

        `clip_skip`: how many of the last layers are left out. `long`: what is longer than a context goes on
        in the next, as many as it takes; otherwise it is cut off, and a PromptWarning names the words. Every
        prompt is encoded by itself, so that no bit of it depends on the others; shorter ones are filled up
        with empty contexts. Gradients flow to learned words only.

        Raises InputError as `parse_prompt` does, for no prompts, for more layers to skip than there are, and
        for prompts that change with the steps (`schedule` encodes those).
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        if not texts:
            raise InputError("encode needs at least one prompt, got none; give an empty text for no words")
        for text in texts:
            if check_dialect(dialect) == "a1111" and has_edits(text):
                raise InputError(f"the prompt {short(text)} changes with the steps; encode it by `schedule`")
        self._tell(texts, dialect, long)
        found = [self._encode(text, dialect, clip_skip, long) for text in texts]
        return stack(self.match(*found, clip_skip=clip_skip))

    def encode_negative(
        self, prompt: str, *, dialect: Dialect = "plain", clip_skip: int = 0, long: bool = False
    ) -> Condition:
        """What guidance leads away from: as `encode`, but of no prompt what the denoiser was trained with.

        That is the empty prompt of Stable Diffusion 1 and 2, and zeros of most SDXLs, as in diffusers.
        """
        encoded = self.encode(prompt, dialect=dialect, clip_skip=clip_skip, long=long)
        return nothing_like(encoded) if self._zeros and not prompt else encoded

    def schedule(
        self, prompt: str, steps: int, *, dialect: Dialect = "plain", clip_skip: int = 0, long: bool = False
    ) -> Callable[[float], Condition]:
        """The condition as a function of the progress in [0, 1] through `steps` steps, all of one shape.

        For a story, `a => b`, and the editing and alternation of `a1111`; any other prompt is one that stays.
        Everything is encoded here, once. Raises InputError as `encode` and `read_changing` do.
        """
        changing = read_changing(prompt, editing=check_dialect(dialect) == "a1111")
        moments = [changing.at(step, steps) for step in range(Clock(steps).steps)]
        texts = list(dict.fromkeys(text for moment in moments for text in moment))
        self._tell(texts, dialect, long)
        encoded = [self._encode(text, dialect, clip_skip, long) for text in texts]
        conditions = dict(zip(texts, self.match(*encoded, clip_skip=clip_skip), strict=True))

        def at(progress: float) -> Condition:
            # A share of the steps that are done, which is rounded: (0.1 + 0.2) * 10 < 3 in floating point.
            shares = moments[min(int(progress * steps + 1e-6), steps - 1)]
            if len(shares) == 1:
                return conditions[next(iter(shares))]
            return blend([conditions[text] for text in shares], list(shares.values()))

        return at

    def match(self, *conditions: Condition, clip_skip: int = 0) -> list[Condition]:
        """The conditions at the length of the longest, as a denoiser needs a prompt and its negative.

        They are filled up with empty contexts, and zeros with zeros.
        """
        longest = max(condition.hidden.shape[1] for condition in conditions)
        matched = []
        for condition in conditions:
            missing = (longest - condition.hidden.shape[1]) // self.context_length
            if missing:
                empty = self.encode("", clip_skip=clip_skip).to(condition.hidden.device)
                if not condition.hidden.any():
                    empty = nothing_like(empty)
                b = len(condition.hidden)
                empty = Condition(
                    empty.hidden.repeat(b, missing, 1),
                    None if empty.pooled is None else empty.pooled.repeat(b, 1),
                )
                condition = concatenate([condition, empty])
            matched.append(condition)
        return matched

    def learn(self, word: str, vectors: Sequence[Float[Tensor, "_ _"]]) -> None:
        """Take a word for k tokens with these embeddings, for each encoder its own; gradients flow to them.

        For textual inversion (Gal et al. 2022): the vectors are taken as they are and become, so that an
        optimizer may go on changing them. Raises InputError for vectors of another width, for as many in one
        encoder as not in another, and for a word that is a token already, is empty or has spaces.
        """
        widths = [tower.width for tower in self._towers]
        if [v.shape[-1] for v in vectors] != widths:
            got = " and ".join(str(v.shape[-1]) for v in vectors)
            raise InputError(
                f"the vectors of {word!r} must be {' and '.join(map(str, widths))} numbers wide here, "
                f"got {got or 'none'}; learn them for this model"
            )
        if len({len(rows) for rows in vectors}) > 1:
            raise InputError(
                f"the encoders need as many vectors each for {word!r}, got {[*map(len, vectors)]}"
            )
        for tower in self._towers:
            tower.check_word(word)
        for tower, rows in zip(self._towers, vectors, strict=True):
            tower.learn(word, rows)

    def vectors(self, text: str) -> list[Float[Tensor, "_ _"]]:
        """The embeddings of a text's tokens in each encoder, as `learn` takes them, float32."""
        return [tower.vectors(text) for tower in self._towers]

    def explain(self, prompt: str, dialect: Dialect = "plain", *, long: bool = False) -> list[Token]:
        """Every token of the first encoder with its weight, in order; PromptWarning as in `encode`.

        Those that begin, end and pad a context are left out. Raises InputError as `encode` does.
        """
        self._tell([prompt], dialect, long)
        told, first = [], 0
        for passage in parse_prompt(prompt, dialect):
            placed = [self._towers[0].place(phrase, long=long).rows for phrase in passage.phrases]
            told += [
                Token(self._towers[0].text(p.token), p.token, p.weight, first + i, share * passage.strength)
                for rows, share in zip(placed, passage.shares, strict=True)
                for i, row in enumerate(rows)
                for p in row
            ]
            first += max(map(len, placed))
        return told

    def lost(self, prompt: str, dialect: Dialect = "plain") -> str:
        """The words of a prompt that do not fit into a context ("" when all do)."""
        phrases = [phrase for passage in parse_prompt(prompt, dialect) for phrase in passage.phrases]
        cut = [self._towers[0].place(phrase, long=False).lost for phrase in phrases]
        return " … ".join(words for words in cut if words)

    def _encode(self, prompt: str, dialect: Dialect, skip: int, long: bool) -> Condition:
        for tower in self._towers:
            tower.check_skip(skip + self._penultimate)
        passages = [self._passage(p, dialect, skip, long) for p in parse_prompt(prompt, dialect)]
        return concatenate(passages)

    def _passage(self, passage: Passage, dialect: Dialect, skip: int, long: bool) -> Condition:
        phrases = [self._phrase(phrase, dialect, skip, long) for phrase in passage.phrases]
        if passage.shares == (1.0,) and passage.strength == 1:
            return phrases[0]
        phrases = self.match(*phrases, clip_skip=skip)
        mixed = blend(phrases, passage.shares, normalize=False)
        empty, mixed = self.match(self.encode("", clip_skip=skip), mixed, clip_skip=skip)
        strengths = (1 - passage.strength, passage.strength)
        return blend([empty, mixed], strengths, normalize=False)

    def _phrase(self, phrase: Phrase, dialect: Dialect, skip: int, long: bool) -> Condition:
        pooled, columns = None, []
        for tower in self._towers:
            placed = tower.place(phrase, long=long)
            hidden, wholes = tower.encode(
                placed.rows,
                dialect,
                skip + self._penultimate,
                normalise=not self._penultimate,
                device=self.device,
            )
            columns.append(hidden.flatten(0, 1)[None])
            pooled = pooled if wholes is None else wholes[:1]
        return Condition(torch.cat(columns, -1), pooled)

    def _tell(self, prompts: list[str], dialect: Dialect, long: bool) -> None:
        """Warn, in the caller of the caller, of what is cut off."""
        for prompt in prompts:
            if not long and (lost := self.lost(prompt, dialect)):
                warnings.warn(
                    f"the prompt is longer than the {self.context_length} tokens of a context: {lost!r} is "
                    "cut off; shorten it, or let it go on in the next context (long)",
                    PromptWarning,
                    stacklevel=3,
                )
