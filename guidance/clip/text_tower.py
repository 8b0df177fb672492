"""A text tower with rotary positions, padding masks, a CLS token and encodings of tokens.

It takes the place of `text` in open_clip's `CustomTextCLIP`, as a tower of transformers' does. open_clip's
own has learned positions only, and masks no padding in the configurations that it reads.
"""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from guidance.errors import InputError


@final
class TextTower(nn.Module):
    """Texts as token numbers to embeddings; what is padding changes nothing.

    `cls`: a learned token before the text is what the text is read at, and all tokens see each other; without
    it tokens see those before them, and the text is read at its last one, as in CLIP. `rotary`: attention
    turns queries and keys by their positions (RoFormer, Su et al. 2021), so that only distances count, and
    a text may be longer than in training; otherwise positions are learned. Raises InputError for sizes that
    do not fit each other.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        width: int,
        heads: int,
        layers: int,
        embed_dim: int,
        pad_id: int = 0,
        cls: bool = True,
        rotary: bool = True,
    ) -> None:
        super().__init__()
        if width % heads or width // heads % 2:
            raise InputError(f"width must be an even number times the {heads} heads, got {width}")
        self.vocab_size, self.context_length, self.pad_id = vocab_size, context_length, pad_id
        self.head_width = width // heads
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.cls = nn.Parameter(torch.randn(width) * 0.02) if cls else None
        length = context_length + cls
        self.positional_embedding = None if rotary else nn.Parameter(torch.randn(length, width) * 0.01)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Linear(width, embed_dim, bias=False)
        self.grad_checkpointing = False
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection.weight, std=width**-0.5)

    def forward(self, texts: Int[Tensor, "n t"]) -> Float[Tensor, "n d"]:
        """Embeddings, not normalised."""
        return self.pool(*self.encode_tokens(texts))

    def pool(self, hidden: Float[Tensor, "n l w"], present: Bool[Tensor, "n l"]) -> Float[Tensor, "n d"]:
        """Embeddings out of what `encode_tokens` gives."""
        if self.cls is not None:
            return self.text_projection(hidden[:, 0])
        last = (present * torch.arange(present.shape[1], device=present.device)).argmax(1)
        return self.text_projection(hidden[torch.arange(len(hidden), device=hidden.device), last])

    def encode_tokens(self, texts: Int[Tensor, "n t"]) -> tuple[Float[Tensor, "n l w"], Bool[Tensor, "n l"]]:
        """The last layer at every token, the CLS token first if there is one, and where there is no padding.

        `text_projection` takes each to the embeddings' space, as FILIP needs them; priors of diffusion models
        take them as they are (DALL·E 2, Ramesh et al. 2022).
        """
        hidden, present = self.token_embedding(texts), texts != self.pad_id
        if self.cls is not None:
            hidden = torch.cat([self.cls.expand(len(texts), 1, -1), hidden], 1)
            present = functional.pad(present, (1, 0), value=True)
        length, turns = hidden.shape[1], None
        if self.positional_embedding is None:
            turns = rotations(length, self.head_width, hidden.device)
        else:
            hidden = hidden + self.positional_embedding[:length]
        mask = present[:, None, None].expand(-1, 1, length, -1)
        if self.cls is None:
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        # Padding sees itself: a row that sees nothing would be NaN.
        mask = mask | torch.eye(length, dtype=torch.bool, device=mask.device)
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                hidden = checkpoint(block, hidden, mask, turns, use_reentrant=False)
            else:
                hidden = block(hidden, mask, turns)
        return self.ln_final(hidden), present

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what goes in between layers for the gradient, and compute the rest again."""
        self.grad_checkpointing = enable


def rotations(length: int, width: int, device: torch.device) -> Float[Tensor, "length half 2"]:
    """Cosine and sine of the angle by which each position turns each pair of numbers of a head."""
    frequencies = 10000 ** -(torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], -1)


def rotate(
    heads: Float[Tensor, "n h length width"], turns: Float[Tensor, "length half 2"]
) -> Float[Tensor, "n h length width"]:
    """Queries or keys, the pairs of numbers (i, i + width / 2) turned by `rotations`."""
    a, b = heads.float().chunk(2, -1)
    cos, sin = turns.unbind(-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(heads.dtype)


class _Block(nn.Module):
    """Attention, then two layers at each token, each on what is normalised and added to what was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, hidden: Float[Tensor, "n l w"], mask: Bool[Tensor, "n 1 l l"], turns: Tensor | None
    ) -> Float[Tensor, "n l w"]:
        qkv = self.qkv(self.ln_1(hidden)).unflatten(-1, (3, self.heads, self.head_width))
        q, k, v = qkv.movedim(-2, 1).unbind(-2)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(-2))
        return hidden + self.mlp(self.ln_2(hidden))
