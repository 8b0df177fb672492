"""How well embeddings find each other: recall and median rank, from texts to pictures and back.

A picture may have several texts and a text several pictures: whichever of them comes first counts, as is
usual for Flickr30k and COCO (Karpathy & Fei-Fei 2015).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Recall:
    """Over `queries`: the shares whose answer is the first, or among the first five or ten, of all there are,
    and the median rank, from 1."""

    queries: int
    first: float
    five: float
    ten: float
    median: float

    def facts(self, name: str) -> dict[str, float]:
        """As open_clip's metrics are called: `name`_R@1, … and `name`_median_rank."""
        return {
            f"{name}_R@1": self.first,
            f"{name}_R@5": self.five,
            f"{name}_R@10": self.ten,
            f"{name}_median_rank": self.median,
        }


def recall(ranks: Int[Tensor, " n"]) -> Recall:
    """The summary of ranks as `ranks` gives them; there must be at least one."""
    first, five, ten = ((ranks < most).double().mean().item() for most in (1, 5, 10))
    return Recall(len(ranks), first, five, ten, median=1 + ranks.double().quantile(0.5).item())


@torch.no_grad()
def ranks(
    queries: Float[Tensor, "n d"], answers: Float[Tensor, "m d"], right: Int[Tensor, "k 2"], chunk: int = 1024
) -> Int[Tensor, " q"]:
    """How many wrong answers are more similar to each query than its nearest right one.

    Of those that are as similar half are counted, as in a random order: embeddings that are all the same, or
    not finite, find no more than chance does. `right`: pairs (query, answer) that belong together, in any
    order. Queries that are in no pair are left out; the others are in their order. Embeddings are unit
    vectors; similarities of `chunk` queries exist at a time.
    """
    order = right[:, 0].argsort()
    query, answer = right[order].to(queries.device).unbind(1)
    asked, counts = query.unique_consecutive(return_counts=True)
    places = torch.arange(len(asked), device=queries.device).repeat_interleave(counts)
    found = []
    for start in range(0, len(asked), chunk):
        similarity = queries[asked[start : start + chunk]] @ answers.T
        similarity.nan_to_num_(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        here = (places >= start) & (places < start + chunk)
        row, column = places[here] - start, answer[here]
        best = similarity.new_full((len(similarity),), -torch.inf)
        best = best.scatter_reduce(0, row, similarity[row, column], "amax")
        nearer = (similarity > best[:, None]).sum(1)
        # Ties among the right ones cost nothing.
        same = similarity == best[:, None]
        same[row, column] = False
        found.append(nearer + same.sum(1) // 2)
    return torch.cat(found) if found else query


def retrieval(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "n d"], right: Int[Tensor, "k 2"]
) -> dict[str, float]:
    """Recall both ways by open_clip's names, `image_to_text_R@1`, …; `right`: pairs (picture, text)."""
    there = recall(ranks(images, texts, right)).facts("image_to_text")
    return there | recall(ranks(texts, images, right.flip(1))).facts("text_to_image")
