"""What does a population cost beside as many single runs, and is every member what its run alone would draw?

    python benchmarks/population.py [--members 8] [--paths 256] [--size 224] [--crops 8] [--clip tiny]
                                    [--device cpu] [--rounds 3] [--steps 2] [--threads 2]

Steps of clipdraw's own settings, the population's and one of each single run in turns in one process; the
fastest round of each counts. The singles' time is that of one times the members, without the start of a
process and the loading of a model, which a population pays once.
"""

import argparse
import time
from collections.abc import Iterator

import guidance as g  # before PyTorch, whose threads it has spin less

# isort: split
import torch


def drawing(
    arguments: argparse.Namespace, clip: g.Clip, seed: int, b: int
) -> tuple[g.Strokes, Iterator[g.Step]]:
    clock = g.Clock(10_000, seed)
    size = arguments.size
    canvas = g.Strokes(
        arguments.paths,
        size,
        clock,
        b=b,
        segments=(1, 1),
        extent=0.9,
        reach=0.2,
        width=(size / 28, size / 8),
        width_limits=(size / 224, size / 4),
        opacity=(0.0, 0.1),
    ).to(arguments.device)
    loss = g.ClipLoss(clip, g.parse("a red heart"), g.Crops.calm(clock, arguments.crops))
    return canvas, g.optimize(canvas, {"clip": loss}, clock)


def seconds(steps: Iterator[g.Step], count: int, device: str) -> float:
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("members", 8),
        ("paths", 256),
        ("size", 224),
        ("crops", 8),
        ("rounds", 3),
        ("steps", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clip", default="tiny")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    b = arguments.members
    clip = g.load(arguments.clip, device=g.device(arguments.device))
    together, steps = drawing(arguments, clip, 0, b)
    apart = [drawing(arguments, clip, seed, 1) for seed in range(b)]
    for each in [steps, *(single for _, single in apart)]:  # compiles, allocates
        seconds(each, 1, arguments.device)
    all_at_once, one_by_one = [], []
    for _ in range(arguments.rounds):
        all_at_once.append(seconds(steps, arguments.steps, arguments.device))
        one_by_one.append(sum(seconds(single, arguments.steps, arguments.device) for _, single in apart))
    ours, theirs = min(all_at_once), min(one_by_one)
    difference = torch.stack(
        [(together()[i] - canvas()[0]).abs().max() for i, (canvas, _) in enumerate(apart)]
    )
    print(f"{b} at once {1000 * ours:.0f} ms a step, {b} one after the other {1000 * theirs:.0f} ms")
    print(f"a population costs {ours / theirs:.2f} of {b} runs, {ours / (theirs / b):.1f} times one")
    done = 1 + arguments.rounds * arguments.steps
    print(f"after {done} steps a member differs by at most {difference.max():.1e}")


if __name__ == "__main__":
    main()
