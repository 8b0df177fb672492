"""Ranks and recall, against sorting everything."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guidance.clip.retrieval import ranks, recall, retrieval


def sorted_places(queries: Tensor, answers: Tensor, right: Tensor) -> list[int]:
    """The place of the first right answer in the sorted list of all, query by query."""
    places = []
    for query in sorted(set(right[:, 0].tolist())):
        mine = set(right[right[:, 0] == query, 1].tolist())
        order = (queries[query] @ answers.T).argsort(descending=True).tolist()
        places.append(min(order.index(answer) for answer in mine))
    return places


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_ranks_are_the_places_in_a_sorted_list(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = functional.normalize(torch.randn(23, 8, generator=generator), dim=1)
    answers = functional.normalize(torch.randn(31, 8, generator=generator), dim=1)
    # Several answers a query, several queries an answer, and queries without any.
    right = torch.stack(
        [torch.randint(20, (40,), generator=generator), torch.randint(31, (40,), generator=generator)], 1
    )
    assert ranks(queries, answers, right, chunk).tolist() == sorted_places(queries, answers, right)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_embeddings_that_say_nothing_find_what_chance_finds(value: float) -> None:
    """A collapsed or diverged model must not look perfect."""
    right = torch.arange(100)[:, None].repeat(1, 2)
    found = retrieval(torch.full((100, 4), value), torch.full((100, 4), 0.5), right)
    assert found["image_to_text_R@10"] == found["text_to_image_R@10"] == 0
    assert 45 < found["image_to_text_median_rank"] < 55


def test_ties() -> None:
    # One twin among the answers is forgiven, four are not; right answers and pairs may repeat.
    answers = torch.eye(6)[[0, 0, 1, 1, 1, 1, 1, 2, 2, 3]]
    right = torch.tensor([[0, 0], [1, 2], [2, 7], [2, 8], [2, 8], [3, 9]])
    assert ranks(torch.eye(6), answers, right).tolist() == [0, 2, 0, 0]
    # An answer that is broken is the last of all, also where it is right.
    answers[9] = torch.nan
    assert ranks(torch.eye(6), answers, right).tolist() == [0, 2, 0, 9]


def test_recall_by_hand() -> None:
    found = recall(torch.tensor([0, 3, 4, 9, 10, 2000]))
    assert (found.queries, found.first, found.five, found.ten) == (6, 1 / 6, 3 / 6, 4 / 6)
    assert found.median == 1 + (4 + 9) / 2


def test_both_ways_are_told_apart() -> None:
    # Both texts are nearest to picture 0; each picture is nearest to its own text.
    images = functional.normalize(torch.tensor([[1.0, 0.2], [0.2, 1.0]]), dim=1)
    texts = functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.5]]), dim=1)
    found = retrieval(images, texts, torch.tensor([[0, 0], [1, 1]]))
    assert found["image_to_text_R@1"] == 1.0
    assert found["text_to_image_R@1"] == 0.5
    assert found["text_to_image_median_rank"] == 1.5
