"""What torchrun runs twice for test_distributed.py: every loss on half of a batch, DDP, and a lost rank.

Each rank writes what it found to `FOLDER/rank-{rank}.pt`.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from guidance.clip.caching import cached_backward
from guidance.clip.contrastive import filip, info_nce, multiview, siglip
from guidance.clip.self_supervised import masked_language, simclr, similarity_regularization, simsiam
from guidance.distributed import LostRank, broadcast_, gather, process_group, rank, world

Batch = dict[str, Tensor]

#: Numbers that are not rows of a batch.
SHARED = ("scale", "bias")


def make_batch(n: int = 8, d: int = 6) -> Batch:
    """Embeddings and tokens with which any loss here can be computed, the same in every process."""
    generator = torch.Generator().manual_seed(0)

    def units(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    names = ["images", "texts", "images_2", "texts_2"]
    batch = {name: units(n, d) for name in names}
    batch |= {"image_tokens": units(n, 5, d), "text_tokens": units(n, 4, d)}
    batch |= {"scale": torch.tensor(20.0), "bias": torch.tensor(-3.0)}
    batch["mask"] = torch.arange(4) < torch.randint(1, 5, (n, 1), generator=generator)
    # Pairs 0, 1 and 6 share a picture, 2 and 7 a caption: within a rank and across ranks.
    batch["ids"] = torch.stack(
        [torch.tensor([0, 0, 2, 3, 4, 5, 0, 7]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 2])], 1
    )
    batch["logits"] = torch.randn(n, 4, 9, generator=generator)
    batch["tokens"] = torch.randint(9, (n, 4), generator=generator)
    batch["chosen"] = torch.rand(n, 4, generator=generator) < torch.linspace(0.2, 0.9, n)[:, None]
    return batch


def contrast(b: Batch, **options: object) -> Tensor:
    return info_nce(b["images"], b["texts"], b["scale"], **options)


def views(b: Batch) -> Tensor:
    images, texts = torch.stack([b["images"], b["images_2"]]), torch.stack([b["texts"], b["texts_2"]])
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return (multiview(lambda u, v: info_nce(u, v, b["scale"]), images, texts) * weights).sum()


def tokens(b: Batch, **options: object) -> Tensor:
    return filip(b["image_tokens"], b["text_tokens"], b["mask"], b["scale"], **options)


CASES: dict[str, Callable[[Batch], Tensor]] = {
    "info_nce": contrast,
    "info_nce, chunks": lambda b: contrast(b, chunk=3),
    "info_nce, ids": lambda b: contrast(b, ids=b["ids"]),
    "info_nce, ids, decoupled, chunks": lambda b: contrast(b, ids=b["ids"], decoupled=True, chunk=3),
    "info_nce, separate": lambda b: contrast(b, reverse=(b["images_2"], b["texts_2"])),
    "siglip": lambda b: siglip(b["images"], b["texts"], b["scale"], b["bias"]),
    "siglip, ids, chunks": lambda b: siglip(
        b["images"], b["texts"], b["scale"], b["bias"], ids=b["ids"], chunk=3
    ),
    "filip": lambda b: tokens(b, chunk=3),
    "filip, ids, decoupled": lambda b: tokens(b, ids=b["ids"], decoupled=True, chunk=3),
    "multiview": views,
    "masked_language": lambda b: masked_language(b["logits"], b["tokens"], b["chosen"]),
    "simsiam": lambda b: simsiam((b["images"], b["images_2"]), (b["texts"], b["texts_2"])),
    "simclr": lambda b: simclr(b["images"], b["images_2"]),
    "similarity_regularization": lambda b: similarity_regularization(b["images"], b["texts"]),
}


def outcome(case: Callable[[Batch], Tensor], batch: Batch) -> Batch:
    """A loss and its gradients with respect to all numbers of a batch."""
    leaves = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in batch.items()}
    loss = case(leaves)
    loss.backward()
    gradients = {
        n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in leaves.items() if t.requires_grad
    }
    return {"loss": loss.detach()} | gradients


class Towers(nn.Module):
    """Two encoders with dropout, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.image = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 5))
            self.text = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 5))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, v = (functional.normalize(x, dim=-1) for x in (self.image(images), self.text(texts)))
        return u, v, self.log_scale.exp()


def micro_batches() -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """Four micro-batches of two pairs and the seeds of their dropout."""
    batch = make_batch()
    pairs = list(zip(batch["images"].split(2), batch["texts"].split(2), strict=True))
    return pairs, [10, 11, 12, 13]


def cached(model: nn.Module, no_sync: Callable, share: slice) -> Batch:
    """The loss and the gradients of some of the micro-batches, by caching."""
    batches, seeds = micro_batches()
    loss = cached_backward(
        lambda batch: model(*batch),
        batches[share],
        lambda u, v, scale: info_nce(u, v, scale, chunk=3),
        seeds=seeds[share],
        no_sync=no_sync,
    )
    return {"loss": loss} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Batch] = {}
    with process_group(torch.device("cpu"), timeout=120):
        half = slice(rank() * 4, rank() * 4 + 4)
        batch = {n: t if n in SHARED else t[half] for n, t in make_batch().items()}
        for name, case in CASES.items():
            found[name] = outcome(case, batch)
        towers = DistributedDataParallel(Towers())
        found["cached"] = cached(towers, towers.no_sync, slice(rank() * 2, rank() * 2 + 2))
        mine = torch.full((2,), float(rank()))
        broadcast_([mine])
        kept = torch.full((2, 3), rank(), dtype=torch.uint8)
        found["basics"] = {"broadcast": mine, "gathered": gather(kept), "world": torch.tensor(world())}
        with torch.autocast("cpu", torch.bfloat16):
            extreme = {"images": batch["images"], "texts": -batch["images"], "scale": torch.tensor(100.0)}
            found["extreme"] = outcome(contrast, extreme)
    own = int(os.environ["RANK"])
    message = ""
    try:
        with process_group(torch.device("cpu"), timeout=4):
            if own == 1:  # as if its data did not come
                wait_for(folder / "rank-0.pt")
            else:
                gather(torch.ones(1))
    except LostRank as error:
        message = str(error)
    torch.save({"found": found, "message": message}, folder / f"rank-{own}.pt")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
