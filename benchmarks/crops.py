"""Augmented crops: one fused antialiased warp against kornia's sequence of the same operations, side by side.

    python benchmarks/crops.py

Forward and backward of CLIPDraw's views (perspective 0.5, resized crop of 0.7-0.9) and of the same with an
affine map, a flip and colour jitter, from a 224² image. kornia resamples at every operation and does not
antialias. Processor time of one thread, the least of interleaved rounds: wall time depends on what else runs.
"""

import time
from collections.abc import Callable

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import kornia.augmentation as K
import torch
from torch import Tensor

from guidance.clock import Clock
from guidance.crops import Crops

ROUNDS = 20


def plain(size: int) -> K.AugmentationSequential:
    return K.AugmentationSequential(
        K.RandomPerspective(0.5, p=1.0),
        K.RandomResizedCrop((size, size), scale=(0.7, 0.9), ratio=(3 / 4, 4 / 3), cropping_mode="resample"),
    )


def full(size: int) -> K.AugmentationSequential:
    return K.AugmentationSequential(
        K.RandomAffine(15.0, translate=(0.1, 0.1), shear=5.0, p=1.0),
        K.RandomPerspective(0.5, p=1.0),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomResizedCrop((size, size), scale=(0.7, 0.9), ratio=(3 / 4, 4 / 3), cropping_mode="resample"),
        K.ColorJitter(0.1, 0.1, 0.1, 0.1, p=1.0),
    )


def ours(clock: Clock, k: int, everything: bool) -> Crops:
    if not everything:
        return Crops.clipdraw(clock, k)
    return Crops(
        clock,
        k,
        scale=(0.7, 0.9),
        ratio=(3 / 4, 4 / 3),
        perspective=0.5,
        rotation=15.0,
        translation=0.1,
        shear=5.0,
        flip=0.5,
        brightness=0.1,
        contrast=0.1,
        saturation=0.1,
        hue=0.1,
    )


def milliseconds(run: Callable[[Tensor], Tensor], image: Tensor) -> float:
    image.grad = None
    start = time.process_time()
    run(image).sum().backward()
    return 1000 * (time.process_time() - start)


def main() -> None:
    torch.set_num_threads(1)
    image = torch.rand(1, 3, 224, 224, requires_grad=True)
    print("milliseconds of one thread, forward + backward")
    print(f"{'views':>12}  {'operations':<12}{'kornia':>8}{'fused':>8}  ratio")
    for k, size in ((16, 64), (4, 224), (16, 224)):
        for everything in (False, True):
            kornia = (full if everything else plain)(size)
            clock = Clock(ROUNDS + 3)
            crops = ours(clock, k, everything)
            times = []
            for clock.index in range(ROUNDS + 3):
                theirs = milliseconds(lambda x, k=k, kornia=kornia: kornia(x.expand(k, -1, -1, -1)), image)
                fused = milliseconds(lambda x, crops=crops, size=size: crops(x, size), image)
                times.append((theirs, fused))
            theirs, fused = (min(column) for column in zip(*times[3:], strict=True))
            name = "all, jitter" if everything else "CLIPDraw"
            print(f"{k:>5} of {size:>3}²  {name:<12}{theirs:8.1f}{fused:8.1f}  {theirs / fused:.1f}×")


if __name__ == "__main__":
    main()
