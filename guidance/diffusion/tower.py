"""One text encoder of transformers with its tokenizer, the same for versions 4 and 5 of the library."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from guidance.diffusion.contexts import Contexts, Placed, place
from guidance.diffusion.dialects import Dialect, Phrase
from guidance.diffusion.dialects.phrases import is_unicode
from guidance.diffusion.weighting import weigh
from guidance.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase


@final
class Tower:
    """A frozen `CLIPTextModel` or `CLIPTextModelWithProjection`, and words that it has been taught besides.

    Version 5 of transformers flattened `CLIPTextModel` and may return the last of `hidden_states` normalised;
    so layers are found by their names, outputs read by theirs, and the last layer as `last_hidden_state`.
    """

    def __init__(
        self, model: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        from transformers import CLIPTextModelWithProjection

        self._model: Any = model.eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.projects = isinstance(model, CLIPTextModelWithProjection)
        self.width: int = model.config.hidden_size
        self.context_length: int = model.config.max_position_embeddings
        self._norm = next(m for name, m in model.named_modules() if name.endswith("final_layer_norm"))
        self._learned: dict[int, Tensor] = {}  # the vectors of what the tokenizer numbers so

    def check_word(self, word: str) -> None:
        """Raises InputError for what is a token already, which prompts may have in them, and for no word."""
        if not word or any(letter.isspace() for letter in word) or not is_unicode(word):
            raise InputError(f"a word to learn must be one word, got {word!r}; take one such as <fox>")
        known = {self.tokenizer.get_vocab().get(word)}
        numbers = self.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        if len(numbers) == 1:  # in most vocabularies with a mark for a space
            known |= set(numbers)
        if known - {None} - self._learned.keys():
            raise InputError(f"{word!r} is a token of the model already; take another, such as <{word}>")

    def learn(self, word: str, vectors: Float[Tensor, "k d"]) -> None:
        """Take a word, which `check_word` lets pass, for k tokens with these embeddings, as they become."""
        from tokenizers import AddedToken

        # Letters are matched as a whole word only: who learns "foxi" means nothing about "foxiness".
        whole = word[0].isalnum() and word[-1].isalnum()
        self.tokenizer.add_tokens(AddedToken(word, normalized=False, single_word=whole))
        self._learned[self.tokenizer.convert_tokens_to_ids(word)] = vectors

    def vectors(self, text: str) -> Float[Tensor, "k d"]:
        """The embeddings of a text's tokens, float32."""
        table = self._model.get_input_embeddings().weight.detach()
        numbers = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        found = [self._learned[n].detach() if n in self._learned else table[n][None] for n in numbers]
        return torch.cat([table.new_empty(0, self.width), *(rows.to(table) for rows in found)]).float()

    def tokenize(self, text: str) -> list[int]:
        """The numbers of a text's tokens; a learned one is -1 less the row of its vector."""
        numbers = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        learned = self._rows()
        return [token for number in numbers for token in learned.get(number, [number])]

    def text(self, token: int) -> str:
        """What a token stands for."""
        learned = {row: number for number, rows in self._rows().items() for row in rows}
        return self.tokenizer.decode([learned.get(token, token)]).strip()

    def place(self, phrase: Phrase, *, long: bool) -> Contexts:
        """A phrase in contexts."""
        return place(phrase, self.tokenize, self.context_length - 2, long=long)

    def check_skip(self, skip: int) -> None:
        """Raises InputError unless so many of the last layers can be left out."""
        layers = self._model.config.num_hidden_layers
        if not 0 <= skip < layers:
            raise InputError(f"clip_skip must leave one of the {layers} layers, got {skip}; skip fewer")

    def encode(
        self,
        rows: list[list[Placed]],
        dialect: Dialect,
        skip: int,
        *,
        normalise: bool,
        device: torch.device,
    ) -> tuple[Float[Tensor, "k t d"], Float[Tensor, "k p"] | None]:
        """The weighted rows of k contexts, float32, and their wholes, if the model projects them."""
        tokens = self._padded([[p.token for p in row] for row in rows], device)
        weights = torch.ones(tokens.shape, device=device)
        fragments = torch.full(tokens.shape, -1, device=device)
        for i, row in enumerate(rows):
            weights[i, 1 : len(row) + 1] = torch.tensor([p.weight for p in row], device=device)
            fragments[i, 1 : len(row) + 1] = torch.tensor([p.fragment for p in row], device=device)
        hidden, pooled = self._run(tokens, None, skip, normalise)

        def encode(seen: Bool[Tensor, "k t"] | None) -> Float[Tensor, "k t d"]:
            return hidden if seen is None else self._run(tokens, seen, skip, normalise)[0]

        def empty() -> Float[Tensor, "1 t d"]:
            return self._run(self._padded([[]], device), None, skip, normalise)[0]

        return weigh(dialect, encode, empty, weights, fragments), pooled

    def _rows(self) -> dict[int, list[int]]:
        """The tokens of every learned word by its number: -1 less each row among all their vectors."""
        ends = accumulate(map(len, self._learned.values()))
        return {
            number: [-1 - row for row in range(end - len(vectors), end)]
            for (number, vectors), end in zip(self._learned.items(), ends, strict=True)
        }

    def _padded(self, rows: list[list[int]], device: torch.device) -> Int[Tensor, "k t"]:
        start, end, pad = (
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
        )
        whole = [[start, *row, end] + [pad] * (self.context_length - 2 - len(row)) for row in rows]
        return torch.tensor(whole, device=device)

    def _run(
        self, tokens: Int[Tensor, "k t"], seen: Bool[Tensor, "k t"] | None, skip: int, normalise: bool
    ) -> tuple[Float[Tensor, "k t d"], Float[Tensor, "k p"] | None]:
        """What the model says of rows of tokens, of which it may see only some."""
        learned = tokens < 0

        def fill_in(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
            if not learned.any():
                return embedded
            vectors = torch.cat([rows.to(embedded) for rows in self._learned.values()])
            return embedded.masked_scatter(learned[..., None], vectors[-1 - tokens[learned]])

        hook = self._model.get_input_embeddings().register_forward_hook(fill_in)
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(learned.any())):
                out = self._model(
                    input_ids=tokens.clamp(min=0),
                    attention_mask=None if seen is None else seen.long(),
                    output_hidden_states=True,
                )
                hidden = out.last_hidden_state if normalise and not skip else out.hidden_states[-1 - skip]
                if normalise and skip:
                    hidden = self._norm(hidden)
        finally:
            hook.remove()
        return hidden.float(), out.text_embeds.float() if self.projects else None
