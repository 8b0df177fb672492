"""Scenes of everything that a scene can hold."""

import torch

from guidance.canvas import Scene
from guidance.canvas.raster import Gradients

HEIGHT, WIDTH = 48, 64
SIZE = (HEIGHT, WIDTH)


def random_scene(seed: int, *, b: int = 1) -> Scene:
    """Open and closed, stroked and filled, compound, varying in width, plain and graded paths."""
    random = torch.Generator().manual_seed(seed)
    n = 12
    contours = torch.randint(1, 4, (b, n), generator=random)
    c = int(contours.sum())
    segments = torch.randint(1, 5, (c,), generator=random)
    closed = torch.rand(c, generator=random) < 0.5
    rows = int((3 * segments + 1 - closed.long()).sum())
    graded = torch.arange(0, b * n, 3)
    return Scene(
        points=torch.rand(rows, 2, generator=random) * torch.tensor([1.0, HEIGHT / WIDTH]),
        segments=segments,
        widths=0.08 * torch.rand(rows, generator=random),
        colours=torch.rand(b, n, 3, generator=random),
        opacity=torch.rand(b, n, generator=random),
        background=torch.rand(3, generator=random),
        contours=contours,
        closed=closed,
        filled=torch.rand(b, n, generator=random) < 0.5,
        even_odd=torch.rand(b, n, generator=random) < 0.5,
        gradients=Gradients(
            paths=graded,
            radial=torch.rand(len(graded), generator=random) < 0.5,
            transforms=2 * torch.randn(len(graded), 2, 3, generator=random),
            offsets=torch.rand(len(graded), 3, generator=random).sort(1).values,
            colours=torch.rand(len(graded), 3, 4, generator=random),
        ),
    )
