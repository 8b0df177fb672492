"""Contrastive losses against open_clip's and against loops; what is large is never made whole."""

import math
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from guidance import InputError
from guidance.clip.contrastive import (
    LOG_SCALE,
    MAX_LOG_SCALE,
    clamp_scale_,
    combine,
    filip,
    info_nce,
    multiview,
    siglip,
)

CHUNKS = [None, 1, 3, 7, 50]
#: Pairs 0, 2 and 5 share a picture, 5 and 6 a caption.
IDS = torch.tensor([[0, 0], [1, 1], [0, 2], [3, 3], [4, 4], [0, 5], [6, 5]])


def units(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def alike(ids: Tensor) -> list[list[int]]:
    return [[j for j, b in enumerate(ids) if bool((a == b).any())] for a in ids]


def cross_entropies(rows: Tensor, right: list[list[int]], decoupled: bool) -> Tensor:
    """The mean over rows of -mean over right answers of log(exp(right) / sum of exps), by the book."""
    total = torch.zeros((), dtype=rows.dtype)
    for row, answers in zip(rows, right, strict=True):
        others = [j for j in range(len(row)) if not (decoupled and j in answers)]
        denominator = row[others].exp().sum().log()
        total = total + denominator - row[answers].mean()
    return total / len(rows)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_info_nce_is_open_clips(chunk: int | None) -> None:
    u, v, s = leaves(units(7, 5), units(7, 5, seed=1), torch.tensor(14.0, dtype=torch.float64))
    ours, theirs = info_nce(u, v, s, chunk=chunk), ClipLoss()(u, v, s)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(ours, [u, v, s]), gradients(theirs, [u, v, s]))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_variants_of_info_nce_are_those_of_the_book(
    chunk: int | None, decoupled: bool, repeated: bool, separate: bool
) -> None:
    inputs = leaves(*(units(7, 5, seed=i) for i in range(4)), torch.tensor(9.0, dtype=torch.float64))
    u, v, w, z, s = inputs
    ids = IDS if repeated else None
    right = alike(IDS) if repeated else [[i] for i in range(7)]
    back = s * w @ z.T if separate else s * u @ v.T
    expected = (
        cross_entropies(s * u @ v.T, right, decoupled) + cross_entropies(back.T, right, decoupled)
    ) / 2
    options: dict[str, Any] = {"reverse": (w, z)} if separate else {}
    found = info_nce(u, v, s, ids=ids, decoupled=decoupled, chunk=chunk, **options)
    torch.testing.assert_close(found, expected)
    used = inputs if separate else [u, v, s]
    torch.testing.assert_close(gradients(found, used), gradients(expected, used))


def test_a_row_without_wrong_answers_counts_nothing() -> None:
    u, v, s = leaves(units(3, 5), units(3, 5, seed=1), torch.tensor(9.0, dtype=torch.float64))
    same = torch.zeros(3, 1, dtype=torch.long)
    loss = info_nce(u, v, s, ids=same, decoupled=True)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, [u, v, s]))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("chunk", [None, 2])
def test_finite_at_the_largest_scale(decoupled: bool, chunk: int | None) -> None:
    u = units(4, 8, dtype=torch.float32)
    scale = torch.tensor(100.0)
    exponentials = (scale * u @ u.T).exp()
    assert exponentials.isinf().any(), "exp-then-log, which this is not, would overflow"
    for texts in (u, -u):
        inputs = leaves(u, texts, scale)
        loss = info_nce(*inputs, decoupled=decoupled, chunk=chunk)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(loss, inputs))


@pytest.mark.parametrize("chunk", [None, 2])
def test_autocast_changes_nothing(chunk: int | None) -> None:
    u, v = units(4, 8, dtype=torch.float32), units(4, 8, seed=1, dtype=torch.float32)
    p, q = units(4, 3, 8, dtype=torch.float32), units(4, 2, 8, seed=1, dtype=torch.float32)
    mask, scale, bias = torch.ones(4, 2, dtype=torch.bool), torch.tensor(100.0), torch.tensor(-10.0)

    def losses(cast: bool) -> list[Tensor]:
        inputs = leaves(u, v, p, q, scale)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            found = [
                info_nce(inputs[0], inputs[1], inputs[4], chunk=chunk),
                siglip(inputs[0], inputs[1], inputs[4], bias, chunk=chunk),
                filip(inputs[2], inputs[3], mask, inputs[4], chunk=chunk or 4),
            ]
        return [*found, *gradients(torch.stack(found).sum(), inputs)]

    torch.testing.assert_close(losses(cast=True), losses(cast=False), rtol=0, atol=0)


def test_bfloat16_embeddings_are_computed_with_in_float32() -> None:
    u, v = (units(4, 8, seed=i, dtype=torch.float32).bfloat16() for i in (0, 1))
    loss = info_nce(u, v, torch.tensor(100.0))
    assert loss.dtype == torch.float32
    assert loss == info_nce(u.float(), v.float(), torch.tensor(100.0))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_siglip_is_open_clips(chunk: int | None) -> None:
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    inputs = leaves(units(7, 5), units(7, 5, seed=1), scale, bias)
    ours, theirs = siglip(*inputs, chunk=chunk), SigLipLoss()(*inputs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs))


def test_siglip_takes_repeated_pairs_for_right() -> None:
    u, v = units(7, 5), units(7, 5, seed=1)
    right = alike(IDS)
    logits = (8 * u @ v.T - 3).tolist()
    expected = sum(
        math.log1p(math.exp(-x if j in right[i] else x))
        for i, row in enumerate(logits)
        for j, x in enumerate(row)
    )
    found = siglip(u, v, torch.tensor(8.0), torch.tensor(-3.0), ids=IDS, chunk=3)
    assert found.item() == pytest.approx(expected / 7)


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_filip_is_that_of_the_paper(chunk: int) -> None:
    inputs = leaves(units(5, 3, 6), units(5, 4, 6, seed=1), torch.tensor(9.0, dtype=torch.float64))
    images, texts, scale = inputs
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]]).bool()
    forth, back = [], []
    for image in images:
        cosines = [image @ text[present].T for text, present in zip(texts, mask, strict=True)]
        forth.append(torch.stack([c.max(1).values.mean() for c in cosines]))
        back.append(torch.stack([c.max(0).values.mean() for c in cosines]))
    right = [[i] for i in range(5)]
    expected = (
        cross_entropies(scale * torch.stack(forth), right, False)
        + cross_entropies(scale * torch.stack(back).T, right, False)
    ) / 2
    found = filip(images, texts, mask, scale, chunk=chunk)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs))


class Largest(TorchDispatchMode):
    """The largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_the_matrix_is_never_whole() -> None:
    inputs = leaves(units(64, 4), units(64, 4, seed=1), torch.tensor(9.0, dtype=torch.float64))
    ids = torch.arange(64)[:, None] // 2

    def largest(chunk: int | None) -> int:
        with Largest() as mode:
            loss = info_nce(*inputs, ids=ids, decoupled=True, chunk=chunk)
            loss = loss + siglip(*inputs, torch.tensor(-10.0), ids=ids, chunk=chunk)
            gradients(loss, inputs)
        return mode.numel

    assert largest(None) == 64 * 64
    assert largest(8) == 8 * 64


def test_the_similarities_of_tokens_are_never_whole() -> None:
    inputs = leaves(units(32, 5, 4), units(32, 6, 4, seed=1), torch.tensor(9.0, dtype=torch.float64))
    mask = torch.ones(32, 6, dtype=torch.bool)
    with Largest() as mode:
        gradients(filip(inputs[0], inputs[1], mask, inputs[2], chunk=8), inputs)
    assert mode.numel == 8 * 8 * 5 * 6


def test_multiview_is_every_pair_of_views() -> None:
    images, texts = units(2, 5, 4), units(3, 5, 4, seed=1)
    scale = torch.tensor(9.0)
    found = multiview(lambda u, v: info_nce(u, v, scale), images, texts)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert found[i, j] == info_nce(images[i], texts[j], scale)


def test_the_main_loss_has_the_rest_of_the_weight() -> None:
    main, masked, views = torch.tensor(2.0), torch.tensor(10.0), torch.tensor(20.0)
    assert combine(main, []) == main
    assert combine(main, [(0.05, masked), (0.1, views)]).item() == pytest.approx(0.85 * 2 + 0.5 + 2)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.5,), (-0.1,)])
def test_weights_that_leave_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="auxiliary weights must be positive and sum to less than 1, got"):
        combine(torch.tensor(1.0), [(weight, torch.tensor(1.0)) for weight in weights])


def test_the_scale_starts_and_ends_where_clips_does() -> None:
    assert math.exp(LOG_SCALE) == pytest.approx(1 / 0.07)
    parameter = nn.Parameter(torch.tensor(7.0))
    clamp_scale_(parameter)
    assert parameter.item() == pytest.approx(MAX_LOG_SCALE) == pytest.approx(math.log(100))
    parameter.data.fill_(-1)
    clamp_scale_(parameter)
    assert parameter == 0


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    with pytest.raises(InputError, match=f"chunk must be at least 1, got {chunk}"):
        info_nce(units(4, 3), units(4, 3), torch.tensor(1.0), chunk=chunk)
