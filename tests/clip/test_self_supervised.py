"""What is learned from texts alone and from images alone, against the papers' formulas in loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guidance.clip.self_supervised import (
    mask_tokens,
    masked_language,
    predictor,
    projector,
    simclr,
    similarity_regularization,
    simsiam,
)

PAD, START, END, MASK = 0, 1, 2, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def units(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(normal(*shape, seed=seed), dim=-1)


@pytest.fixture
def texts() -> Tensor:
    """Texts of 0 to 19 ordinary tokens between start and end, padded."""
    tokens = torch.full((2000, 22), PAD)
    for i, row in enumerate(tokens):
        length = i % 20
        row[0], row[1 + length] = START, END
        row[1 : 1 + length] = torch.arange(length) + 10
    return tokens


def draws(n: int, t: int) -> Tensor:
    return torch.rand(n, t, 2, generator=torch.Generator().manual_seed(0))


def hide(texts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    return mask_tokens(texts, uniform, mask_id=MASK, special=[PAD, START, END], vocabulary=50)


def test_a_share_of_every_texts_own_tokens_is_chosen(texts: Tensor) -> None:
    hidden, chosen = hide(texts, draws(*texts.shape))
    assert (texts[chosen] >= 10).all()
    assert chosen.sum(1).tolist() == [math.ceil(0.15 * (i % 20)) for i in range(len(texts))]
    assert (hidden[~chosen] == texts[~chosen]).all()
    # Every place of the longest texts is chosen equally often.
    places = chosen[19::20, 1:20].float().mean(0)
    assert (places - 3 / 19).abs().max() < 0.15


def test_most_are_masked_some_are_others_some_stay(texts: Tensor) -> None:
    hidden, chosen = hide(texts, draws(*texts.shape))
    before, after = texts[chosen], hidden[chosen]
    masked, same = (after == MASK).float().mean(), (after == before).float().mean()
    assert masked == pytest.approx(0.8 + 0.1 / 50, abs=0.03)
    assert same == pytest.approx(0.1 + 0.1 / 50, abs=0.02)
    others = after[(after != MASK) & (after != before)]
    assert others.min() < 5
    assert 45 <= others.max() < 50


def test_a_text_is_masked_alike_in_any_batch(texts: Tensor) -> None:
    uniform = draws(*texts.shape)
    whole, part = hide(texts, uniform), hide(texts[30:50], uniform[30:50])
    assert torch.equal(whole[0][30:50], part[0])
    assert torch.equal(whole[1][30:50], part[1])


def test_the_masked_language_loss_is_the_cross_entropy_of_the_chosen() -> None:
    logits, tokens = normal(3, 4, 7), torch.arange(12).view(3, 4) % 7
    chosen = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    wanted = [(0, 0), (0, 3), (2, 1)]
    expected = -sum(logits[i, j].log_softmax(0)[tokens[i, j]] for i, j in wanted) / 3
    torch.testing.assert_close(masked_language(logits, tokens, chosen), expected)


def test_nothing_chosen_costs_nothing() -> None:
    logits = normal(3, 4, 7).requires_grad_()
    loss = masked_language(logits, torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_simsiam_is_that_of_the_paper_and_moves_predictions_only() -> None:
    p, q, y, z = (normal(5, 4, seed=i).requires_grad_() for i in range(4))
    loss = simsiam((p, q), (y, z))
    # D(p1, z2) / 2 + D(p2, z1) / 2, of which D is minus the cosine.
    pairs = [*zip(p, z, strict=True), *zip(q, y, strict=True)]
    cosines = [(a @ b / a.norm() / b.norm()).item() for a, b in pairs]
    assert loss.item() == pytest.approx(1 - sum(cosines) / 10, rel=1e-5)
    loss.backward()
    assert p.grad is not None
    assert y.grad is None
    assert z.grad is None


def test_simclr_is_nt_xent_of_the_paper() -> None:
    first, second = units(5, 4), units(5, 4, seed=1)
    views = torch.cat([first, second]).double()
    total = 0.0
    for i in range(10):
        similar = [math.exp(float(views[i] @ views[k]) / 0.2) for k in range(10)]
        total -= math.log(similar[(i + 5) % 10] / (sum(similar) - similar[i]))
    assert simclr(first, second, temperature=0.2).item() == pytest.approx(total / 10, rel=1e-5)


def test_simclr_is_finite_at_small_temperatures_and_under_autocast() -> None:
    first, second = (units(5, 4, seed=i).requires_grad_() for i in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = simclr(first, second, temperature=0.005)
    loss.backward()
    assert loss == simclr(first, second, temperature=0.005)
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_similarities_of_images_are_compared_with_those_of_texts() -> None:
    images, texts = units(5, 4), units(5, 4, seed=1)
    squares = [
        float(images[i] @ images[j] - texts[i] @ texts[j]) ** 2 for i in range(5) for j in range(5) if i != j
    ]
    found = similarity_regularization(images, texts)
    assert found.item() == pytest.approx(sum(squares) / 20, rel=1e-5)
    turned = images @ torch.linalg.qr(normal(4, 4, seed=2)).Q
    assert similarity_regularization(images, turned).item() == pytest.approx(0, abs=1e-12)


def test_heads_are_simsiams() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        project, predict = projector(6, 16, 8), predictor(8, 4)
    first, second = project(normal(32, 6)), project(normal(32, 6, seed=1))
    # Each number of a projection is normalised over the batch, without a gain or a bias that is learned.
    torch.testing.assert_close(first.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.var(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)
    assert torch.linalg.matrix_rank((predict(first) - predict(first).mean(0)).detach()) == 4
    simsiam((predict(first), predict(second)), (first, second)).backward()
    for parameter in (*project.parameters(), *predict.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
