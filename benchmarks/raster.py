"""How fast is the rasteriser? CLIPDraw's strokes, forward and backward, beside diffvg where it is installed.

    python benchmarks/raster.py [--threads 2] [--repeats 9]

Prints milliseconds, the median of the repeats; diffvg samples 2×2 a pixel, as CLIPDraw has it.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from statistics import median

import torch

from guidance.canvas import Scene, Strokes, rasterize
from guidance.clock import Clock

#: strokes, pixels a side, range of radii in pixels
SCENES = [
    (256, 224, (1, 1)),
    (256, 224, (1, 15)),
    (512, 224, (1, 5)),
    (1024, 512, (1, 1)),
    (1024, 512, (1, 11)),
    (2048, 1024, (1, 1)),
    (2048, 1024, (1, 5)),
]


def ours(scene: Scene, size: int, gradient: torch.Tensor) -> None:
    leaves = [t.detach().requires_grad_() for t in (scene.points, scene.widths, scene.colours, scene.opacity)]
    drawing = Scene(leaves[0], scene.segments, *leaves[1:], scene.background)
    rasterize(drawing, size).backward(gradient)


def diffvg(scene: Scene, size: int, gradient: torch.Tensor) -> None:
    import pydiffvg

    counts = scene.segments
    shapes = [
        pydiffvg.Path(
            num_control_points=torch.full((int(count),), 2, dtype=torch.int32),
            points=(points.detach() * size).requires_grad_(),
            stroke_width=(width.detach() * size / 2).requires_grad_(),
            is_closed=False,
        )
        for count, points, width in zip(
            counts, scene.points.split((3 * counts + 1).tolist()), scene.widths[0], strict=True
        )
    ]
    colours = torch.cat([scene.colours[0], scene.opacity[0, :, None]], 1).detach()
    groups = [
        pydiffvg.ShapeGroup(
            shape_ids=torch.tensor([i]), fill_color=None, stroke_color=colour.clone().requires_grad_()
        )
        for i, colour in enumerate(colours)
    ]
    arguments = pydiffvg.RenderFunction.serialize_scene(size, size, shapes, groups)
    image = pydiffvg.RenderFunction.apply(size, size, 2, 2, 0, None, *arguments)
    picture = image[:, :, :3] * image[:, :, 3:] + (1 - image[:, :, 3:])
    picture.backward(gradient[0].permute(1, 2, 0))


def milliseconds(run: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peer = importlib.util.find_spec("pydiffvg") is not None
    print(f"{'strokes':>8}{'pixels':>8}{'radius':>8}{'ours':>10}{'diffvg':>10}{'ratio':>8}")
    for paths, size, (low, high) in SCENES:
        width = (2.0 * low, 2.0 * high)
        scene = Strokes(paths, size, Clock(), width=width).scene()
        gradient = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5
        row = milliseconds(lambda s=scene, p=size, g=gradient: ours(s, p, g), arguments.repeats)
        radius = f"{low}" if low == high else f"{low}-{high}"
        print(f"{paths:>8}{f'{size}²':>8}{radius:>8}{row:>10.1f}", end="", flush=True)
        if peer:
            other = milliseconds(lambda s=scene, p=size, g=gradient: diffvg(s, p, g), 3)
            print(f"{other:>10.1f}{f'{other / row:.0f}×':>8}")
        else:
            print(f"{'-':>10}{'-':>8}")


if __name__ == "__main__":
    main()
