"""Filled paths and gradients, drawn by every backend, against an independent supersampled renderer and resvg:
pictures, and derivatives by finite differences.
"""

from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pytest
import resvg_py
import supersampled
import torch
from PIL import Image
from raster_drawings import BLOB, DONUT, FILLS, SLIVER, SQUARE, STAR, TWICE, painted
from raster_scenes import (
    BACKENDS,
    SIZE,
    Draw,
    backward,
    cosine,
    differences,
    draw,
    parameters,
    polygon,
    ring,
    shapes,
    smooth,
)
from supersampled import Array

from guidance.canvas.raster import Gradients, Scene, kernels
from guidance.canvas.raster.model import NONZERO

everywhere = pytest.mark.parametrize("backend", BACKENDS)


@everywhere
@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("size", [(SIZE, SIZE), (41, 23)], ids=["32x32", "41x23"])
def test_the_picture_is_the_supersampled_one(backend: Draw, name: str, size: tuple[int, int]) -> None:
    drawing = FILLS[name]
    error = np.abs(draw(backend, drawing, *size) - supersampled.picture(drawing, *size))
    assert error.mean() < 0.5 / 255
    # Where edges of one path cross in a pixel, their signed areas are not those of the union.
    assert error.max() < 0.3


@everywhere
def test_the_area_of_a_polygon_is_exact(backend: Draw) -> None:
    corners = torch.tensor([[3.3, 4.7], [27.1, 9.2], [20.4, 28.8], [6.6, 22.2]])
    black = {"colours": torch.zeros(1, 1, 3), "opacity": torch.ones(1, 1), "background": torch.ones(3)}
    drawing = replace(shapes([[polygon(*map(tuple, corners.tolist()))]]), **black)
    x, y = corners.double().T
    area = (x * y.roll(-1) - y * x.roll(-1)).sum() / 2
    assert (1 - draw(backend, drawing)).sum() / 3 == pytest.approx(float(area), rel=1e-4)


@everywhere
@pytest.mark.parametrize("turned", [False, True], ids=["level", "upright"])
def test_an_edge_along_the_pixels_sweeps_what_it_leaves(backend: Draw, turned: bool) -> None:
    corners = [(8.0, 7.3), (22.0, 7.3), (22.0, 24.6), (8.0, 24.6)]
    path = polygon(*((y, x) for x, y in corners)) if turned else polygon(*corners)
    drawing = replace(shapes([[path]]), colours=torch.zeros(1, 1, 3), opacity=torch.ones(1, 1))
    weights = np.zeros((SIZE, SIZE, 3))
    weights[:, :, 0] = -1  # the ground is 1: this is the area
    gradient = backward(backend, drawing, weights)["points"] / SIZE
    down = gradient[:, 0 if turned else 1]
    # Moving control point i by 1 pixel moves the curve by its Bernstein polynomial; the area by 14 times the
    # mean of it, which is 1/4. The corners also end the sides, which they move along themselves: by nothing.
    np.testing.assert_allclose(down[:4], -14 / 4, rtol=0.02)
    np.testing.assert_allclose(down[6:10], 14 / 4, rtol=0.02)
    np.testing.assert_allclose(down[[4, 5, 10, 11]], 0, atol=0.01)


MOVED = {
    "overlapping": shapes([[BLOB], [SQUARE]], seed=3),
    "star": shapes([[STAR]]),
    "star, even-odd": shapes([[STAR]], even_odd=True),
    "hole": shapes([DONUT]),
    "two contours of one path": shapes([TWICE]),
    "two contours, even-odd": shapes([TWICE], even_odd=True),
    "outside": shapes([[ring(-2, 5, 9.0)], [ring(30, 33, 8.0)]]),
    "sliver": shapes([[SLIVER]]),
    "linear gradient": painted(shapes([[BLOB], [SQUARE]]), radial=False),
    "radial gradient": painted(shapes([[BLOB], [SQUARE]]), radial=True),
    "transparent": replace(painted(shapes([[BLOB], [SQUARE]], seed=2), radial=True), background=None),
}


@cache
def places(name: str) -> list[tuple[Scene, Array, dict[str, Array]]]:
    """A drawing at several places in the grid of pixels, each with weights and the true gradients."""
    drawing = MOVED[name]
    weights = smooth(1, channels=4 if drawing.background is None else 3)
    kinds = [kind for kind in parameters(drawing) if kind != "widths"]
    result = []
    for x, y in np.random.default_rng(0).uniform(-0.5, 0.5, (2, 2)):
        shifted = replace(drawing, points=drawing.points + torch.tensor([x, y]).float() / SIZE)
        result.append((shifted, weights, differences(shifted, weights, kinds)))
    return result


@everywhere
@pytest.mark.parametrize("name", MOVED)
def test_gradients_are_those_of_the_supersampled_picture(backend: Draw, name: str) -> None:
    ours = [backward(backend, drawing, weights) for drawing, weights, _ in places(name)]
    for kind in places(name)[0][2]:
        got = sum(gradient[kind] for gradient in ours)
        want = sum(true[kind] for _, _, true in places(name))
        assert cosine(got, want) > 0.99, kind
        assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(want), rel=0.1), kind


def svg(scene: Scene, size: int) -> str:
    """The one member of a scene of filled paths with a background, as an SVG."""
    paths, definitions = [], []
    gradients, numbers = scene.gradients, []
    if gradients is not None:
        numbers = gradients.paths.tolist()
        for g, number in enumerate(numbers):
            (a, b, c), (d, e, f) = torch.linalg.inv(
                torch.cat([gradients.transforms[g], torch.tensor([[0.0, 0.0, 1.0]])])
            )[:2].tolist()
            stops = "".join(
                f'<stop offset="{offset}" stop-color="rgb({",".join(f"{100 * v}%" for v in rgba[:3])})"'
                f' stop-opacity="{rgba[3]}"/>'
                for offset, rgba in zip(
                    gradients.offsets[g].tolist(), gradients.colours[g].tolist(), strict=True
                )
            )
            kind = "radialGradient" if gradients.radial[g] else "linearGradient"
            where = 'cx="0" cy="0" r="1"' if gradients.radial[g] else 'x1="0" y1="0" x2="1" y2="0"'
            definitions.append(
                f'<{kind} id="g{number}" {where} gradientUnits="userSpaceOnUse"'
                f' gradientTransform="matrix({a} {d} {b} {e} {c} {f})">{stops}</{kind}>'
            )
    contours = scene.points.split(scene.sizes.tolist())
    for path in range(scene.opacity.shape[1]):
        data = ""
        for c in (scene.owners == path).nonzero()[:, 0].tolist():
            first, *rest = contours[c].tolist()
            rest = [*rest, first] if scene.closed is not None and scene.closed[c] else rest
            data += f"M{first[0]} {first[1]}C" + " ".join(f"{x} {y}" for x, y in rest) + "Z"
        colour = ",".join(f"{100 * v}%" for v in scene.colours[0, path].tolist())
        fill = f"url(#g{path})" if path in numbers else f"rgb({colour})"
        even_odd = scene.even_odd is not None and scene.even_odd[0, path]
        paths.append(
            f'<path d="{data}" fill="{fill}" fill-rule="{"evenodd" if even_odd else "nonzero"}"'
            f' fill-opacity="{scene.opacity[0, path].item()}"/>'
        )
    ground = ",".join(f"{100 * v}%" for v in scene.background.tolist())  # type: ignore[union-attr]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="0 0 1 1">'
        f'<defs>{"".join(definitions)}</defs><rect width="1" height="1" fill="rgb({ground})"/>'
        f"{''.join(paths)}</svg>"
    )


@everywhere
@pytest.mark.parametrize(
    "name", ["star", "star, even-odd", "hole", "overlapping", "linear gradient", "radial gradient"]
)
def test_the_picture_is_that_of_resvg(backend: Draw, name: str) -> None:
    size = 64
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg(FILLS[name], size)))
    theirs = np.asarray(Image.open(BytesIO(png)).convert("RGB")) / 255
    assert np.abs(draw(backend, FILLS[name], size, size) - theirs).mean() < 1 / 255


def test_a_population_may_have_more_pixels_than_int32_has_numbers() -> None:
    members, width = 2**17 + 1, 2**14
    vertices = np.array([[1, -1, 0], [5, -1, 0], [5, 2, 0], [1, 2, 0]], np.float32)
    owners = np.zeros(members + 1, np.int32)
    owners[-1] = 1  # only the last member has a contour
    buffers = np.empty(width, np.int32), np.empty(width, np.float32), np.empty(width, np.int32)
    runs, (pixels, shares, *_), spans = kernels.cover(
        vertices,
        np.empty((4, kernels.COLUMNS), np.float32),
        np.array([0, 4], np.int32),
        owners,
        np.full(members, NONZERO, np.int32),
        np.tile(np.array([-1, 1, 0], np.int32), (members, 1)),
        members,
        1,
        width,
        members - 1,  # the last band alone
        members,
        (*buffers, np.empty((4, width), np.float32)),
        np.empty((8, 2), np.int32),
    )
    ((_, first, last, first_span, last_span, _),) = runs
    found = [*pixels[first:last], *np.concatenate([np.arange(*s) for s in spans[first_span:last_span]])]
    assert sorted(found) == [1, 2, 3, 4]
    assert (shares[first:last] == 1).all()


@everywhere
def test_a_line_that_is_nearly_level_leaves_nothing_behind(backend: Draw) -> None:
    # Divided by the least of numbers, anything overflows.
    tiny = 1e-42
    nearly = polygon((3.0, tiny), (9.0, 0.0), (20.0, tiny), (20.0, 5.0), (3.0, 5.0))
    upright = [(y, x) for x, y in nearly]
    both = shapes([[nearly], [upright], [polygon((2.0, 3.0), (28.0, 3.0), (28.0, 30.0), (2.0, 30.0))]])
    flat = replace(both, points=torch.where(both.points.abs() < 1e-30, 0, both.points))
    np.testing.assert_allclose(draw(backend, both), draw(backend, flat), atol=1e-6)
    assert np.isfinite(backward(backend, both, smooth(0))["points"]).all()


@everywhere
def test_a_shape_around_all_of_the_picture_fills_it_from_however_far(backend: Draw) -> None:
    rng = np.random.default_rng(0)
    for far in (10, 9000):
        angles = np.arange(4) * np.pi / 2 + rng.uniform(-0.5, 0.5, (4, 4))
        for x, y in zip(far * SIZE * np.cos(angles), far * SIZE * np.sin(angles), strict=True):
            drawing = shapes([[polygon(*zip(x.tolist(), y.tolist(), strict=True))]])
            filled = torch.lerp(drawing.background, drawing.colours[0, 0], drawing.opacity[0])
            error = backend(drawing, 40, 4096) - filled[:, None, None]
            assert error.abs().max() < 1e-5


@everywhere
@pytest.mark.parametrize("size", [(2, 8192), (8192, 2)], ids=["wide", "tall"])
def test_a_side_between_two_pixels_is_felt_in_a_large_picture(backend: Draw, size: tuple[int, int]) -> None:
    # In units of the width: pixel 6144 of the longer side, where float32 has 11 binary places left.
    width, edge = size[1], 6144.0
    corners = [(-1.0, -1.0), (edge, -1.0), (edge, 3.0), (-1.0, 3.0)]
    path = polygon(*((x, y) if width > 2 else (y, x) for x, y in corners))
    drawing = replace(shapes([[path]]), colours=torch.zeros(1, 1, 3), opacity=torch.ones(1, 1))
    points = (drawing.points * (SIZE / width)).requires_grad_()
    image = backend(replace(drawing, points=points), *size)
    (torch.ones(3) - image[0].sum((1, 2)))[0].backward()
    assert points.grad is not None
    # The side is 2 pixels long within the picture; both pixels beside it are of the ground's red, 1.
    moved = points.grad[:, 0 if width > 2 else 1].sum() / width
    assert moved == pytest.approx(2, rel=0.01)


@everywhere
def test_a_gradient_is_as_exact_under_autocast(backend: Draw) -> None:
    ramp = Gradients(
        paths=torch.tensor([0]),
        radial=torch.tensor([False]),
        transforms=torch.eye(2, 3)[None],
        offsets=torch.tensor([[0.0, 1.0]]),
        colours=torch.tensor([[[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]]),
    )
    everything = shapes([[polygon((-9, -9), (99, -9), (99, 99), (-9, 99))]])
    drawing = replace(everything, opacity=torch.ones(1, 1), gradients=ramp)
    with torch.autocast("cpu", torch.bfloat16):
        image = backend(drawing, 3, 700)
    expected = (torch.arange(700) + 0.5) / 700
    torch.testing.assert_close(image, expected.expand_as(image), atol=1e-5, rtol=0)


@everywhere
def test_sides_between_two_pixels_feel_both(backend: Draw) -> None:
    # As of an icon that was drawn on the grid of pixels, where a side runs through none.
    drawing = shapes([[polygon((8, 8), (24, 8), (24, 24), (8, 24))]])
    weights = smooth(2)
    ours = backward(backend, drawing, weights)["points"]
    true = differences(drawing, weights, ["points"])["points"]
    assert cosine(ours, true) > 0.98
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(true), rel=0.1)
