"""How fast is the rasteriser on a GPU? CLIPDraw's strokes, forward and backward.

    python benchmarks/raster_cuda.py [--repeats 50]

Prints, as medians: milliseconds by CUDA events and by the clock of the host; the bytes that the kernels of
tiles have to move, and how much of the bandwidth of a plain copy that is. Before that, the time of the first
call: compiling, and in a second process, which finds the kernels where Triton keeps them (~/.triton/cache, or
TRITON_CACHE_DIR; here an empty folder to begin with).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from statistics import median

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import torch

from guidance.canvas import Scene, Strokes, rasterize
from guidance.clock import Clock

#: members, strokes, height, width, range of radii in pixels. The first is as large as Bézier Splatting's
#: scene (Liu et al. 2025).
SCENES = [
    (1, 2048, 1344, 2040, (1, 1)),
    (1, 2048, 1344, 2040, (1, 5)),
    (1, 1024, 512, 512, (1, 11)),
    (1, 256, 224, 224, (1, 15)),
    (64, 256, 224, 224, (1, 15)),
]


def make(b: int, paths: int, height: int, width: int, radii: tuple[float, float]) -> Scene:
    canvas = Strokes(paths, width, Clock(), b=b, width=(2.0 * radii[0], 2.0 * radii[1])).cuda()
    scene = canvas.scene()
    points = (scene.points * scene.points.new_tensor([1, height / width])).detach().requires_grad_()
    rest = {name: getattr(scene, name).detach().requires_grad_() for name in ("widths", "colours", "opacity")}
    return replace(scene, points=points, **rest)


def first_call() -> float:
    scene = make(*SCENES[0])
    torch.cuda.synchronize()
    start = time.perf_counter()
    rasterize(scene, SCENES[0][2:4]).sum().backward()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def bandwidth() -> float:
    """Bytes a second of a copy on the device."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return 2 * source.numel() / median(times)


def measure(scene: Scene, height: int, width: int, repeats: int) -> tuple[float, float, float, int]:
    """Milliseconds forward and backward, those of the host for both, and bytes."""
    # A drawing that is optimised is another scene, which is checked again, at every step.
    leaves = [scene.points, scene.widths, scene.colours, scene.opacity]
    image = rasterize(scene, (height, width))
    gradient = torch.rand_like(image) - 0.5
    # Shares are written, painted, and twice read on the way back; their gradients are written twice and read
    # twice; marks are written and read; the picture is written, and its gradient read.
    shares = image.grad_fn.rest[2].shares  # type: ignore[union-attr]
    moved = 4 * (10 * shares.numel() + 2 * image.numel())
    rows = []
    for _ in range(repeats + 5):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        events[0].record()
        image = rasterize(replace(scene), (height, width))
        events[1].record()
        torch.autograd.grad(image, leaves, gradient)
        events[2].record()
        torch.cuda.synchronize()
        host = 1000 * (time.perf_counter() - start)
        rows.append((events[0].elapsed_time(events[1]), events[1].elapsed_time(events[2]), host))
    forward, backward, host = (median(column) for column in zip(*rows[5:], strict=True))
    return forward, backward, host, moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_call:
        print(f"{first_call():.2f}")
        return
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--first-call"]
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        calls = [
            float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(2)
        ]
    copy = bandwidth()
    print(f"{torch.cuda.get_device_name()}, copies at {copy / 1e9:.0f} GB/s")
    print(f"first call: {calls[0]:.1f} s, {calls[1]:.1f} s with the kernels of an earlier process")
    names = ("members", "strokes", "pixels", "radius", "forward", "backward", "host", "MB", "bandwidth")
    print("".join(f"{name:>11}" for name in names))
    for b, paths, height, width, (low, high) in SCENES:
        scene = make(b, paths, height, width, (low, high))
        forward, backward, host, moved = measure(scene, height, width, arguments.repeats)
        share = moved / ((forward + backward) / 1000) / copy
        radius, size = f"{low}" if low == high else f"{low}-{high}", f"{width}×{height}"
        print("".join(f"{cell:>11}" for cell in (b, paths, size, radius)), end="")
        print("".join(f"{milliseconds:>11.2f}" for milliseconds in (forward, backward, host)), end="")
        print(f"{moved / 1e6:>11.0f}{share:>11.0%}", flush=True)


if __name__ == "__main__":
    main()
