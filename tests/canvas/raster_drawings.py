"""Drawings to rasterise in tests: strokes and filled paths of all kinds."""

from dataclasses import replace

import torch
from raster_scenes import SIZE, arc, many, polygon, ring, shapes, strokes, wander

from guidance.canvas.raster import Gradients, Scene

HOOK = [(12.0, 12.0), (17.0, 12.0), (18.0, 14.0), (15.5, 15.0)]
LINE = [(6.0, 9.0), (12.0, 12.0), (18.0, 15.0), (24.0, 18.0)]


SQUARE = polygon((8.0, 7.0), (22.0, 7.0), (22.0, 24.0), (8.0, 24.0))
STAR = polygon((16.3, 3.2), (23.1, 27.4), (4.2, 11.3), (28.9, 12.1), (8.8, 27.9))
DONUT = [ring(16.2, 15.7, 11.3), ring(16.2, 15.7, 5.1, clockwise=False)]
TWICE = [ring(13.4, 15.7, 9.3), ring(19.6, 16.2, 8.1)]
BLOB = [
    (9.3, 5.1),
    (20.2, 1.4),
    (33.1, 12.2),
    (26.4, 20.7),
    (20.2, 29.3),
    (10.1, 31.2),
    (4.4, 22.8),
    (1, 14),
    (3, 8),
]
OUTSIDE = [(-2.0, 5.0), (34.0, 16.0), (16.0, 33.0), (15.0, -4.0), (-30.0, 9.0), (50.0, 9.0)]
AROUND = polygon((-90.0, -70.0), (120.0, -80.0), (130.0, 95.0), (-100.0, 110.0))
SLIVER = polygon((4.2, 6.3), (27.5, 9.1), (27.6, 9.4), (4.2, 6.5))


def swelling(drawing: Scene, seed: int) -> Scene:
    """The same strokes with a width of their own at every control point."""
    generator = torch.Generator().manual_seed(seed)
    widths = drawing.widths.flatten().repeat_interleave(drawing.sizes)
    return replace(drawing, widths=widths * (0.4 + 1.6 * torch.rand(len(widths), generator=generator)))


def loops(drawing: Scene) -> Scene:
    """The same strokes, closed, without their last points."""
    kept = torch.ones(len(drawing.points), dtype=torch.bool)
    kept[drawing.sizes.cumsum(0) - 1] = False
    closed = torch.ones(len(drawing.segments), dtype=torch.bool)
    return replace(drawing, points=drawing.points[kept], closed=closed)


def tapered(drawing: Scene, ends: float) -> Scene:
    """The same strokes of one cubic each, of a share of their width at both ends."""
    share = torch.tensor([ends, 1.5, 1.5, ends]).repeat(len(drawing.segments))
    return replace(drawing, widths=drawing.widths.flatten().repeat_interleave(drawing.sizes) * share)


def painted(scene: Scene, radial: bool, seed: int = 0) -> Scene:
    """The scene with a gradient of three stops on its first path."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.tensor([[1.3, 0.7], [-0.7, 1.3]])
    centre = torch.tensor([0.45, 0.55]) if radial else torch.tensor([0.25, 0.2])
    transform = torch.cat([turn * (2 if radial else 1), -(turn * (2 if radial else 1) @ centre)[:, None]], 1)
    return replace(
        scene,
        gradients=Gradients(
            paths=torch.tensor([0]),
            radial=torch.tensor([radial]),
            transforms=transform[None],
            offsets=torch.tensor([[0.1, 0.4, 0.9]]),
            colours=torch.rand(1, 3, 4, generator=generator),
        ),
    )


def both(scene: Scene) -> Scene:
    """The first path of the scene stroked, too, over the others."""
    first = int(scene.sizes[0])
    return Scene(
        points=torch.cat([scene.points, scene.points[:first]]),
        segments=torch.cat([scene.segments, scene.segments[:1]]),
        widths=torch.cat([scene.widths, torch.full((1, 1), 4 / SIZE)], 1),
        colours=torch.cat([scene.colours, 1 - scene.colours[:, :1]], 1),
        opacity=torch.cat([scene.opacity, torch.full((1, 1), 0.9)], 1),
        background=scene.background,
        closed=torch.ones(len(scene.segments) + 1, dtype=torch.bool),
        filled=torch.tensor([[True] * scene.opacity.shape[1] + [False]]),
    )


STROKES = {
    "wide": strokes(many(wander, 6, 0, 10.0), [1.0, 2.0, 3.0, 5.0, 8.0, 12.0]),
    "default": strokes(many(wander, 12, 1, 6.0), 1.0),
    "thin": strokes(many(wander, 8, 2, 6.0), [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]),
    "opaque": replace(strokes(many(wander, 30, 3, 10.0), 3.0), opacity=torch.ones(1, 30)),
    "outside": strokes([[(x - 30, y) for x, y in LINE], LINE, [(x + 40, y) for x, y in LINE]], 6.0),
    "straight, evenly spaced": strokes([LINE], 1.0),
    "dots": strokes([[(x, 8.3)] * 4 for x in (4.1, 11.7, 20.4, 27.0)], [0.2, 0.7, 1.5, 3.0]),
    "hook": strokes([HOOK], 1.0),
    "no width": strokes([LINE, HOOK], [0.0, 0.4]),
    "closed on itself": strokes([[(16.0, 6.0), (40.0, 30.0), (-8.0, 30.0), (16.0, 6.0)]], 1.5),
    "standing still before and after": strokes([[LINE[0]] * 3 + LINE + [LINE[-1]] * 3], 2.5),
    "level and upright": strokes(
        [[(4.0, y), (10.0, y), (20.0, y), (28.0, y)] for y in (5.0, 12.5)]
        + [[(x, 16.0), (x, 20.0), (x, 25.0), (x, 29.0)] for x in (8.0, 20.5)],
        [1.0, 3.0, 1.0, 3.0],
    ),
    "swelling": swelling(strokes(many(arc, 5, 4), [1.0, 2.0, 2.0, 3.0, 5.0]), 0),
    "tapered": tapered(strokes(many(arc, 4, 6), [1.0, 2.0, 3.0, 5.0]), 0.0),
    "closed": loops(strokes(many(wander, 5, 5, 10.0), [0.3, 0.7, 1.0, 2.0, 4.0])),
    "transparent": replace(strokes(many(wander, 8, 6, 8.0), 2.0), background=None),
}


FILLS = {
    "square": shapes([[SQUARE]]),
    "star": shapes([[STAR]]),
    "star, even-odd": shapes([[STAR]], even_odd=True),
    "hole": shapes([DONUT]),
    "no hole: both turn alike": shapes([[DONUT[0], ring(16.2, 15.7, 5.1)]]),
    "hole, even-odd": shapes([[DONUT[0], ring(16.2, 15.7, 5.1)]], even_odd=True),
    "two contours of one path": shapes([TWICE]),
    "two contours, even-odd": shapes([TWICE], even_odd=True),
    "overlapping": shapes([[BLOB], DONUT, [STAR], [SQUARE]], seed=3),
    "open": replace(strokes(many(wander, 4, 3, 10.0), 1.0), filled=torch.ones(1, 4, dtype=torch.bool)),
    "outside": shapes([[ring(x, y, 9.0)] for x, y in OUTSIDE]),
    "around": shapes([[AROUND, ring(16.0, 16.0, 7.0)]]),
    "slivers": shapes([[SLIVER], [polygon((3.0, 30.0), (3.2, 2.0), (3.3, 30.0))]]),
    "tiny": shapes([[ring(10.3, 12.2, 0.3)], [ring(20.0, 20.0, 0.1)]]),
    "no area": shapes([[polygon((4.0, 4.0), (20.0, 20.0))], [[(9.0, 9.0)] * 3]]),
    "filled and stroked": both(shapes([[BLOB]])),
    "linear gradient": painted(shapes([[BLOB], [SQUARE]]), radial=False),
    "radial gradient": painted(shapes([[BLOB], [SQUARE]]), radial=True),
    "gradient along a stroke": painted(strokes(many(wander, 3, 3, 10.0), [3.0, 1.0, 2.0]), radial=False),
    "transparent": replace(painted(shapes([DONUT, [SQUARE]], seed=2), radial=True), background=None),
}
