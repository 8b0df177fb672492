"""Gradients by caching are those of the plain step, dropout and all; two processes: see test_distributed."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from two_processes import Towers, micro_batches

from guidance import InputError
from guidance.clip.caching import cached_backward
from guidance.clip.contrastive import info_nce

Pair = tuple[Tensor, Tensor]


def doubles() -> tuple[list[Pair], list[int]]:
    batches, seeds = micro_batches()
    return [(images.double(), texts.double()) for images, texts in batches], seeds


def plain(model: Towers, batches: list[Pair], seeds: list[int]) -> Tensor:
    """The loss of the whole batch with the graph of every micro-batch kept."""
    encoded = []
    for batch, seed in zip(batches, seeds, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoded.append(model(*batch))
    images, texts, scales = zip(*encoded, strict=True)
    return info_nce(torch.cat(images), torch.cat(texts), scales[0])


class Kept:
    """A tensor that is kept for the gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_gradients_are_those_of_the_plain_step(chunk: int | None) -> None:
    batches, seeds = doubles()
    reference, model = Towers().double(), Towers().double()
    expected = plain(reference, batches, seeds)
    expected.backward()
    found = cached_backward(
        lambda batch: model(*batch), batches, lambda u, v, s: info_nce(u, v, s, chunk=chunk), seeds=seeds
    )
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert len(gradients(model)) == 9
    torch.testing.assert_close(gradients(model), gradients(reference))
    # Other seeds are other dropout: the test would notice if the second pass drew anew.
    assert plain(reference, batches, seeds[::-1]) != expected


def test_micro_batches_may_differ_in_size_and_gradients_add_up() -> None:
    images, texts = (torch.cat(parts) for parts in zip(*doubles()[0], strict=True))
    batches = list(zip(images.split([5, 1, 2]), texts.split([5, 1, 2]), strict=True))
    reference, model = Towers().double().eval(), Towers().double().eval()
    for _ in range(2):
        info_nce(*reference(images, texts)).backward()
        cached_backward(lambda batch: model(*batch), batches, info_nce, seeds=[0, 0, 0])
    torch.testing.assert_close(gradients(model), gradients(reference))


def test_a_locked_tower_and_what_has_no_gradient() -> None:
    batches, seeds = doubles()
    reference, model = Towers().double(), Towers().double()
    for towers in (reference, model):
        towers.image.requires_grad_(False)
    ids = torch.tensor([[0], [1]])
    plain(reference, batches, seeds).backward()

    def loss(u: Tensor, v: Tensor, s: Tensor, labels: Tensor) -> Tensor:
        assert labels.tolist() == [[0], [1]] * 4
        return info_nce(u, v, s)

    cached_backward(lambda batch: (*model(*batch), ids), batches, loss, seeds=seeds)
    assert len(gradients(model)) == 5
    torch.testing.assert_close(gradients(model), gradients(reference))


def test_the_global_generator_is_left_alone() -> None:
    batches, seeds = doubles()
    model = Towers().double()
    before = torch.get_rng_state()
    cached_backward(lambda batch: model(*batch), batches, info_nce, seeds=seeds)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_one_micro_batch_has_a_graph_at_a_time() -> None:
    batches, seeds = doubles()
    model = Towers().double()
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()
    counts: list[int] = []

    def keep(tensor: Tensor) -> Kept:
        item = Kept(tensor.detach())
        kept.add(item)
        return item

    def encode(batch: Pair) -> tuple[Tensor, ...]:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda item: item.tensor):
            encoded = model(*batch)
        counts.append(len(kept))
        return encoded

    graph = encode(batches[0])
    assert graph[0].requires_grad
    (one,) = counts
    del graph
    cached_backward(encode, batches, info_nce, seeds=seeds)
    assert one > 0
    assert counts == [one, 0, 0, 0, 0, one, one, one, one]


def test_gradients_are_averaged_once() -> None:
    batches, seeds = doubles()
    model = Towers().double()
    inside = False
    calls: list[bool] = []

    class NoSync:
        def __enter__(self) -> None:
            nonlocal inside
            inside = True

        def __exit__(self, *error: object) -> None:
            nonlocal inside
            inside = False

    def encode(batch: Pair) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            calls.append(inside)
        return model(*batch)

    cached_backward(encode, batches, info_nce, seeds=seeds, no_sync=NoSync)
    assert calls == [True, True, True, False]


@pytest.mark.parametrize(("batches", "seeds"), [(0, []), (4, [1, 2, 3])])
def test_every_micro_batch_needs_a_seed(batches: int, seeds: list[int]) -> None:
    model = Towers().double()
    message = f"each micro-batch needs a seed: got {batches} and {len(seeds)} seeds"
    with pytest.raises(InputError, match=message):
        cached_backward(lambda batch: model(*batch), doubles()[0][:batches], info_nce, seeds=seeds)
