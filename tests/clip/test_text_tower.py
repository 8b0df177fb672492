"""The text tower: positions against transformers', and what a text's embedding may and may not depend on."""

import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor
from torch.nn import functional

from guidance import InputError
from guidance.clip.contrastive import filip, info_nce
from guidance.clip.text_tower import TextTower, rotate, rotations

TEXTS = torch.tensor([[5, 6, 7, 8, 9, 0, 0], [5, 9, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 4, 3]])


def tower(cls: bool = True, rotary: bool = True, width: int = 16) -> TextTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TextTower(
            vocab_size=20,
            context_length=8,
            width=width,
            heads=2,
            layers=2,
            embed_dim=6,
            cls=cls,
            rotary=rotary,
        )
        with torch.no_grad():
            for parameter in made.parameters():  # small initial weights would hide mistakes
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made


kinds = pytest.mark.parametrize(
    ("cls", "rotary"), [(True, True), (True, False), (False, True), (False, False)]
)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_rotations_are_those_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = normal(2, 3, 2, 5, 8)
    turns = rotations(5, 8, q.device)
    cos, sin = (torch.cat([half, half], -1)[None] for half in turns.unbind(-1))
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    torch.testing.assert_close((rotate(q, turns), rotate(k, turns)), expected)
    angles = torch.tensor([[p / 10000 ** (2 * i / 8) for i in range(4)] for p in range(5)])
    torch.testing.assert_close(turns[..., 0], angles.cos())


def test_rotated_products_depend_on_distances_only() -> None:
    q, k = normal(2, 1, 1, 1, 8).expand(-1, -1, -1, 9, -1)
    turns = rotations(9, 8, q.device)
    products = (rotate(q, turns) @ rotate(k, turns).mT)[0, 0]
    torch.testing.assert_close(products[:-3, :-3], products[3:, 3:])


@kinds
def test_padding_changes_nothing(cls: bool, rotary: bool) -> None:
    made = tower(cls, rotary)
    whole = made(TEXTS)
    torch.testing.assert_close(made(TEXTS[:1, :5]), whole[:1])
    torch.testing.assert_close(made(TEXTS[1:2, :2]), whole[1:2])
    assert made(torch.zeros(1, 7, dtype=torch.long)).isfinite().all()


@kinds
def test_the_order_of_tokens_counts(cls: bool, rotary: bool) -> None:
    made = tower(cls, rotary)
    swapped = TEXTS[:, [1, 0, 2, 3, 4, 5, 6]]
    assert ((made(TEXTS) - made(swapped)).norm(dim=1) > 1e-3).all()


@kinds
def test_tokens_see_those_before_them_or_all(cls: bool, rotary: bool) -> None:
    made = tower(cls, rotary)
    changed = TEXTS.clone()
    changed[2, 6] = 11
    before, after = made.encode_tokens(TEXTS)[0], made.encode_tokens(changed)[0]
    moved = (before - after)[2].norm(dim=1) > 1e-5
    assert moved.tolist() == ([True] * 8 if cls else [False] * 6 + [True])
    torch.testing.assert_close(before[:2], after[:2])


@kinds
def test_an_embedding_is_the_encoding_of_a_token(cls: bool, rotary: bool) -> None:
    made = tower(cls, rotary)
    hidden, present = made.encode_tokens(TEXTS)
    assert present.sum(1).tolist() == [5 + cls, 2 + cls, 7 + cls]
    places = [0, 0, 0] if cls else [4, 1, 6]
    expected = made.text_projection(hidden[range(3), places])
    torch.testing.assert_close(made(TEXTS), expected)


def test_rotary_positions_take_longer_texts() -> None:
    assert tower()(torch.arange(40).view(2, 20) % 19 + 1).shape == (2, 6)


@kinds
def test_recomputed_gradients_are_the_same(cls: bool, rotary: bool) -> None:
    found = []
    for enable in (False, True):
        made = tower(cls, rotary)
        made.set_grad_checkpointing(enable)
        made(TEXTS).square().sum().backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
        found.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(found[0], found[1])


def test_it_takes_the_place_of_open_clips() -> None:
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CustomTextCLIP(6, vision, text)
    model.text = tower()
    loss = info_nce(*model(normal(3, 3, 16, 16), TEXTS)[:3])
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.text.parameters())
    assert model.text.cls.grad.abs().sum() > 0


def test_its_tokens_are_learned_by_filip() -> None:
    made = tower()
    hidden, present = made.encode_tokens(TEXTS)
    tokens = functional.normalize(made.text_projection(hidden), dim=-1)
    patches = functional.normalize(normal(3, 4, 6), dim=-1)
    filip(patches, tokens, present, torch.tensor(10.0)).backward()
    assert made.token_embedding.weight.grad is not None
    used = made.token_embedding.weight.grad.norm(dim=1) > 0
    assert used.nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8, 9]  # and not the padding


@pytest.mark.parametrize("width", [15, 18])
def test_sizes_that_do_not_fit_are_refused(width: int) -> None:
    with pytest.raises(InputError, match=f"width must be an even number times the 2 heads, got {width}"):
        tower(width=width)
