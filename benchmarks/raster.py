"""How fast is the rasteriser, forward and backward, beside plain PyTorch and, where installed, diffvg?

    python benchmarks/raster.py [--threads 2] [--repeats 9] [--scenes strokes|shapes|growth|population]

Prints milliseconds, the median of the repeats. "torch" is our reference in plain PyTorch; diffvg takes 2×2
samples a pixel, as CLIPDraw has it; it is not given gradients. Memory is the most that a process of its own,
with the kernels loaded, held beyond what it held before drawing.
"""

import argparse
import importlib.util
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import torch

from guidance.canvas import Scene, Shapes, Strokes, rasterize
from guidance.canvas.raster import Gradients, reference
from guidance.clock import Clock

#: strokes, pixels a side, range of radii in pixels
STROKES = [
    (256, 224, (1, 1)),
    (256, 224, (1, 15)),
    (512, 224, (1, 5)),
    (1024, 512, (1, 1)),
    (1024, 512, (1, 11)),
    (2048, 1024, (1, 1)),
    (2048, 1024, (1, 5)),
]
#: shapes, pixels a side, range of radii in pixels
SHAPES = [(256, 224, (5, 20)), (512, 512, (5, 20)), (1024, 512, (5, 20)), (2048, 1024, (5, 40))]
#: shapes, each painted with a gradient of two stops
GRADED = [(512, 512, (5, 20))]
#: strokes and pixels a side, of which time and memory are seen to grow
GROWTH = [(256, 512), (1024, 512), (4096, 512), (16384, 512), (1024, 1024), (1024, 2048)]


def both_ways(draw: Callable[[Scene, int], torch.Tensor], scene: Scene, size: int) -> float:
    """Milliseconds of drawing and of the gradients of everything."""
    names = ("points", "widths", "colours", "opacity")
    leaves = {name: getattr(scene, name).detach().requires_grad_() for name in names}
    gradients = scene.gradients
    if gradients is not None:
        names = ("transforms", "offsets", "colours")
        stops = {name: getattr(gradients, name).detach().requires_grad_() for name in names}
        gradients = replace(gradients, **stops)
    gradient = torch.full((len(scene.opacity), 3, size, size), 0.5)
    start = time.perf_counter()
    draw(replace(scene, **leaves, gradients=gradients), size).backward(gradient)
    return 1000 * (time.perf_counter() - start)


def plainly(scene: Scene, size: int) -> torch.Tensor:
    return reference.rasterize(scene, size, size)


def graded(scene: Scene) -> Scene:
    """The scene with a gradient of two stops for every path, each second one radial."""
    n = scene.opacity.numel()
    firsts = scene.points.detach()[scene.sizes.cumsum(0) - scene.sizes]
    random = torch.Generator().manual_seed(0)
    gradients = Gradients(
        paths=torch.arange(n),
        radial=torch.arange(n) % 2 == 1,
        transforms=torch.cat([torch.eye(2).expand(n, 2, 2), -firsts[:, :, None]], 2) * 20,
        offsets=torch.tensor([0.0, 1.0]).repeat(n, 1),
        colours=torch.rand(n, 2, 4, generator=random),
    )
    return replace(scene, gradients=gradients)


def diffvg(scene: Scene, size: int) -> float:
    import pydiffvg

    closed = scene.closed is not None
    shapes, groups = [], []
    points = scene.points.detach().split(scene.sizes.tolist())
    for i, (path, count, width) in enumerate(zip(points, scene.segments, scene.widths[0], strict=True)):
        colour = torch.cat([scene.colours[0, i], scene.opacity[0, i, None]]).detach().requires_grad_()
        shapes.append(
            pydiffvg.Path(
                num_control_points=torch.full((int(count),), 2, dtype=torch.int32),
                points=(path * size).requires_grad_(),
                stroke_width=(width.detach() * size / 2).requires_grad_(),
                is_closed=closed,
            )
        )
        groups.append(
            pydiffvg.ShapeGroup(
                shape_ids=torch.tensor([i]),
                fill_color=colour if closed else None,
                stroke_color=None if closed else colour,
            )
        )
    arguments = pydiffvg.RenderFunction.serialize_scene(size, size, shapes, groups)
    gradient = torch.full((size, size, 4), 0.5)
    start = time.perf_counter()
    pydiffvg.RenderFunction.apply(size, size, 2, 2, 0, None, *arguments).backward(gradient)
    return 1000 * (time.perf_counter() - start)


def typical(run: Callable[[], float], repeats: int) -> float:
    run()
    return median(run() for _ in range(repeats))


def compare(kind: str, scenes: list[tuple[int, int, tuple[int, int]]], repeats: int) -> None:
    peer = kind != "graded" and importlib.util.find_spec("pydiffvg") is not None
    print(f"{kind:>8}{'pixels':>8}{'radius':>8}{'ours':>9}{'torch':>9}{'ratio':>7}{'diffvg':>10}{'ratio':>8}")
    for paths, size, (low, high) in scenes:
        if kind == "strokes":
            scene = Strokes(paths, size, Clock(), width=(2.0 * low, 2.0 * high)).scene()
        else:
            scene = Shapes(paths, size, Clock(), radius=(low / size, high / size)).scene()
        if kind == "graded":
            scene = graded(scene)
        ours = typical(lambda s=scene, p=size: both_ways(rasterize, s, p), repeats)
        plain = typical(lambda s=scene, p=size: both_ways(plainly, s, p), 1)
        radius = f"{low}" if low == high else f"{low}-{high}"
        print(f"{paths:>8}{f'{size}²':>8}{radius:>8}{ours:>9.1f}{plain:>9.0f}{plain / ours:>6.0f}×", end="")
        if peer:
            other = typical(lambda s=scene, p=size: diffvg(s, p), 3)
            print(f"{other:>10.0f}{other / ours:>7.0f}×", flush=True)
        else:
            print(f"{'-':>10}{'-':>8}", flush=True)


def growth(repeats: int) -> None:
    """Time and memory as paths and pixels grow; strokes of the same length in pixels."""
    print(f"{'strokes':>8}{'pixels':>8}{'ours':>9}{'memory':>12}")
    # Where a process has held more, or has kept what it held, the next row would seem to take less.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for paths, size in GROWTH:
            ours, more = pool.apply(grown, (paths, size, repeats, torch.get_num_threads()))
            print(f"{paths:>8}{f'{size}²':>8}{ours:>9.1f}{more / 2**20:>9.0f} MiB", flush=True)


def grown(paths: int, size: int, repeats: int, threads: int) -> tuple[float, int]:
    """Milliseconds, and bytes at most beyond those before; called in a fresh process."""
    torch.set_num_threads(threads)
    both_ways(rasterize, Strokes(1, 8, Clock()).scene(), 8)
    scene = Strokes(paths, size, Clock(), width=(4.0, 4.0), reach=51 / size).scene()
    before = most_held(afresh=True)
    ours = typical(lambda: both_ways(rasterize, scene, size), repeats)
    return ours, most_held() - before


def most_held(afresh: bool = False) -> int:
    """The most bytes that this process has held, on Linux from now on if `afresh`."""
    if sys.platform != "linux":
        kilo = 1 if sys.platform == "darwin" else 1024
        return kilo * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss: a process inherits that of the one that started it.
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def population(repeats: int) -> None:
    """A population in one call beside its members one by one."""
    print(f"{'b':>8}{'one call':>10}{'b calls':>10}{'ratio':>7}")
    for b in (1, 4, 16):
        scene = Strokes(256, 224, Clock(), b=b, width=(2.0, 10.0)).scene()
        members = [scene.member(i) for i in range(b)]
        together = typical(lambda s=scene: both_ways(rasterize, s, 224), repeats)
        singly = typical(lambda m=members: sum(both_ways(rasterize, one, 224) for one in m), repeats)
        print(f"{b:>8}{together:>10.1f}{singly:>10.1f}{singly / together:>6.2f}×", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--scenes", choices=["strokes", "shapes", "growth", "population"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    for canvas in (Strokes(1, 8, Clock()), Shapes(1, 8, Clock())):
        both_ways(rasterize, canvas.scene(), 8)
    print(f"first call, with the kernels compiled or read from disk: {time.perf_counter() - start:.1f} s")
    wanted = arguments.scenes
    if wanted in (None, "growth"):
        growth(arguments.repeats)
    if wanted in (None, "strokes"):
        compare("strokes", STROKES, arguments.repeats)
    if wanted in (None, "shapes"):
        compare("shapes", SHAPES, arguments.repeats)
        compare("graded", GRADED, arguments.repeats)
    if wanted in (None, "population"):
        population(arguments.repeats)


if __name__ == "__main__":
    main()
