"""How much memory and time do the loss and the step of a large batch take?

    python benchmarks/contrastive.py [--pairs 4096] [--dimensions 256] [--batch 4096] [--micro-batch 256]

The loss alone, forward and backward, of random embeddings: open_clip's, ours whole and in chunks. Then a step
of a small vision and text transformer: plainly with a micro-batch, plainly with the batch (`--plain`; mind
the memory), and with the batch by cached gradients, in micro-batches, with the loss in chunks. Each is in a
process of its own, with the threads that PyTorch chooses. Memory is the peak beyond what the process has with
PyTorch, the model and the pictures loaded and after a step of four pairs; time is the shortest of three for
the loss and a single one for a step.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from guidance.clip.caching import cached_backward
from guidance.clip.contrastive import info_nce

VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 1000, "width": 64, "heads": 2, "layers": 2}

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "loss, open_clip": ClipLoss(),
    "loss, whole": info_nce,
    "loss, chunk 256": lambda u, v, s: info_nce(u, v, s, chunk=256),
}


def loss_of(name: str, n: int, d: int) -> float:
    """Seconds of the forward and the backward pass."""
    inputs = [functional.normalize(torch.randn(n, d), dim=-1).requires_grad_() for _ in range(2)]
    scale = torch.tensor(14.0, requires_grad=True)
    began = time.perf_counter()
    LOSSES[name](*inputs, scale).backward()
    return time.perf_counter() - began


def step_of(model: CLIP, name: str, pictures: Tensor, tokens: Tensor, micro_batch: int) -> float:
    def encode(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return model(batch[0] / 255, batch[1])

    began = time.perf_counter()
    if name == "step, cached":
        batches = list(zip(pictures.split(micro_batch), tokens.split(micro_batch), strict=True))

        def loss(u: Tensor, v: Tensor, s: Tensor) -> Tensor:
            return info_nce(u, v, s, chunk=micro_batch)

        cached_backward(encode, batches, loss, seeds=range(len(batches)))
    else:
        info_nce(*encode((pictures, tokens))).backward()
    return time.perf_counter() - began


def peak() -> float:
    """The most memory that the process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, n: int, d: int, micro_batch: int) -> None:
    if name in LOSSES:
        loss_of(name, 4, d)
        before = peak()
        seconds = min(loss_of(name, n, d) for _ in range(3))
    else:
        model = CLIP(d, VISION, TEXT)
        pictures = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
        tokens = torch.randint(1000, (n, 16))
        step_of(model, name, pictures[:4], tokens[:4], micro_batch)
        before = peak()
        seconds = step_of(model, name, pictures, tokens, micro_batch)
    print(f"{name:20}{n:8}{seconds:10.2f}{peak() - before:10.0f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--micro-batch", type=int, default=256)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, n = options.measure
        measure(name, int(n), options.dimensions, options.micro_batch)
        return
    rows = [(name, options.pairs) for name in LOSSES] + [("step, plain", options.micro_batch)]
    rows += [("step, plain", options.batch)] if options.plain else []
    print(f"{'':20}{'pairs':>8}{'seconds':>10}{'MiB':>10}", flush=True)
    for name, n in [*rows, ("step, cached", options.batch)]:
        rest = ["--dimensions", str(options.dimensions), "--micro-batch", str(options.micro_batch)]
        command = [sys.executable, __file__, "--measure", name, str(n), *rest]
        # Freed memory goes back to the system at once, so that the peak is what is really used.
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"})


if __name__ == "__main__":
    main()
