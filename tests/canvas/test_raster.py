"""The rasteriser against an independent supersampled renderer: pictures, gradients by finite differences."""

from dataclasses import replace
from itertools import product

import jaxtyping
import numpy as np
import pytest
import supersampled
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from supersampled import Array

from guidance.canvas import Scene, rasterize
from guidance.errors import InputError

SIZE = 32


def scene(paths: list[list[tuple[float, float]]], radius: float | list[float], seed: int = 0) -> Scene:
    """One scene of paths given in pixels at SIZE, with random colours and opacity."""
    n = len(paths)
    generator = torch.Generator().manual_seed(seed)
    return Scene(
        points=torch.tensor([point for path in paths for point in path], dtype=torch.float32) / SIZE,
        segments=torch.tensor([(len(path) - 1) // 3 for path in paths]),
        widths=torch.tensor([radius if isinstance(radius, list) else [radius] * n]) * 2 / SIZE,
        colours=torch.rand(1, n, 3, generator=generator),
        opacity=0.4 + 0.6 * torch.rand(1, n, generator=generator),
        background=torch.tensor([1.0, 0.9, 0.8]),
    )


def wander(rng: np.random.Generator, step: float, cubics: int = 3) -> list[tuple[float, float]]:
    """A path as CLIPDraw makes them: a random walk of control points, with corners where cubics meet."""
    moves = rng.uniform(-step, step, (3 * int(rng.integers(1, cubics + 1)), 2))
    walk = rng.uniform(0.2 * SIZE, 0.8 * SIZE, 2) + np.concatenate([np.zeros((1, 2)), moves.cumsum(0)])
    return [tuple(point) for point in walk.tolist()]


def arc(rng: np.random.Generator) -> list[tuple[float, float]]:
    """A cubic without sharp turns."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6) * SIZE
    along = np.array([np.cos(angle), np.sin(angle)]) * length
    across = np.array([-along[1], along[0]])
    centre, bend = rng.uniform(0.35 * SIZE, 0.65 * SIZE, 2), rng.uniform(-0.3, 0.3, 2)
    offsets = [-along / 2, -along / 6 + bend[0] * across, along / 6 + bend[1] * across, along / 2]
    return [tuple(point) for point in (centre + np.stack(offsets)).tolist()]


def many(make: object, n: int, seed: int, *arguments: float) -> list[list[tuple[float, float]]]:
    rng = np.random.default_rng(seed)
    return [make(rng, *arguments) for _ in range(n)]  # type: ignore[operator]


def arrays(drawing: Scene) -> tuple[list[Array], Array, Array, Array, Array]:
    """The one member of a scene in double precision: control points of every path, and the rest."""
    counts = drawing.sizes.tolist()
    points = [part.double().numpy() for part in drawing.points.detach().split(counts)]
    rest = (drawing.widths[0], drawing.colours[0], drawing.opacity[0], drawing.background)
    return points, *(tensor.detach().double().numpy() for tensor in rest)  # type: ignore[return-value]


def reference(drawing: Scene, size: int = SIZE) -> Array:
    points, widths, colours, opacity, background = arrays(drawing)
    shares = [supersampled.coverage(p, w, size) for p, w in zip(points, widths, strict=True)]
    return supersampled.paint(shares, colours, opacity, background)


def picture(drawing: Scene, size: int = SIZE) -> Array:
    return rasterize(drawing, size)[0].permute(1, 2, 0).detach().double().numpy()


HOOK = [(12.0, 12.0), (17.0, 12.0), (18.0, 14.0), (15.5, 15.0)]
LINE = [(6.0, 9.0), (12.0, 12.0), (18.0, 15.0), (24.0, 18.0)]

DRAWINGS = {
    "wide": scene(many(wander, 6, 0, 10.0), [1.0, 2.0, 3.0, 5.0, 8.0, 12.0]),
    "default": scene(many(wander, 12, 1, 6.0), 1.0),
    "thin": scene(many(wander, 8, 2, 6.0), [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]),
    "opaque": replace(scene(many(wander, 30, 3, 10.0), 3.0), opacity=torch.ones(1, 30)),
    "outside": scene([[(x - 30, y) for x, y in LINE], LINE, [(x + 40, y) for x, y in LINE]], 6.0),
    "straight, evenly spaced": scene([LINE], 1.0),
    "dots": scene([[(x, 8.3)] * 4 for x in (4.1, 11.7, 20.4, 27.0)], [0.2, 0.7, 1.5, 3.0]),
    "hook": scene([HOOK], 1.0),
    "no width": scene([LINE, HOOK], [0.0, 0.4]),
    "closed on itself": scene([[(16.0, 6.0), (40.0, 30.0), (-8.0, 30.0), (16.0, 6.0)]], 1.5),
}


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("size", [SIZE, 45])
def test_the_picture_is_the_supersampled_one(name: str, size: int) -> None:
    drawing = DRAWINGS[name]
    error = np.abs(picture(drawing, size) - reference(drawing, size))
    assert error.mean() < 0.7 / 255
    assert error.max() < 0.35


def test_a_stroke_thinner_than_a_pixel_covers_its_width() -> None:
    black = {"colours": torch.zeros(1, 1, 3), "opacity": torch.ones(1, 1), "background": torch.ones(3)}
    for radius in (0.02, 0.1, 0.3):
        ink = (1 - picture(replace(scene([LINE], radius), **black))).sum() / 3
        area = 2 * radius * np.hypot(18, 9) + np.pi * radius**2
        assert ink == pytest.approx(area, rel=0.03)


def smooth(seed: int) -> Array:
    """A smooth random picture, the gradient that is sent backward."""
    frequency = np.fft.fftfreq(SIZE)
    blur = np.exp(-2 * (np.pi * 2.5) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    noise = np.random.default_rng(seed).standard_normal((SIZE, SIZE, 3))
    image = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * blur[:, :, None], axes=(0, 1)).real
    return image / image.std()


def backward(drawing: Scene, weights: Array) -> dict[str, Array]:
    names = ("points", "widths", "colours", "opacity", "background")
    leaves = {name: getattr(drawing, name).clone().requires_grad_() for name in names}
    image = rasterize(replace(drawing, **leaves), SIZE)[0].permute(1, 2, 0)
    (image * torch.from_numpy(weights).float()).sum().backward()
    return {name: leaf.grad.double().numpy() for name, leaf in leaves.items()}


def differences(drawing: Scene, weights: Array, step: float = 0.25) -> dict[str, Array]:
    """Central differences of the supersampled picture; `step` is in pixels."""
    points, widths, colours, opacity, background = arrays(drawing)
    shares = [supersampled.coverage(p, w, SIZE) for p, w in zip(points, widths, strict=True)]

    def change(array: Array, index: tuple[int, ...], by: float, path: int | None = None) -> float:
        values = []
        for sign in (1, -1):
            kept = array[index]
            array[index] = kept + sign * by
            now = list(shares)
            if path is not None:
                now[path] = supersampled.coverage(points[path], widths[path], SIZE)
            values.append((supersampled.paint(now, colours, opacity, background) * weights).sum())
            array[index] = kept
        return (values[0] - values[1]) / (2 * by)

    by = step / SIZE
    return {
        "points": np.concatenate(
            [
                [[change(p, (j, axis), by, i) for axis in (0, 1)] for j in range(len(p))]
                for i, p in enumerate(points)
            ]
        ),
        "widths": np.array([[change(widths, (i,), min(by, w / 4), i) for i, w in enumerate(widths)]]),
        "colours": np.array([[[change(colours, (i, c), 0.1) for c in range(3)] for i in range(len(widths))]]),
        "opacity": np.array([[change(opacity, (i,), 0.1) for i in range(len(widths))]]),
        "background": np.array([change(background, (c,), 0.1) for c in range(3)]),
    }


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize(
    ("name", "paths", "radius"),
    [
        ("default", many(wander, 2, 0, 8.0), 1.0),
        ("overlapping", many(wander, 3, 1, 8.0, 1), [1.0, 2.0, 5.0]),
        ("thin", many(arc, 4, 2), 0.4),
        ("outside", [[(x - 15, y) for x, y in LINE], [(x + 12, y + 9) for x, y in LINE]], 2.5),
        ("straight, evenly spaced", [LINE], 1.0),
        ("hook", [HOOK], 1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gradients_are_those_of_the_supersampled_picture(
    name: str, paths: list[list[tuple[float, float]]], radius: float | list[float]
) -> None:
    # The place of a thin stroke in the grid of pixels changes one gradient much, and says nothing about where
    # to go: sum over places.
    drawing, weights = scene(paths, radius), smooth(1)
    ours, true = [], []
    for x, y in np.random.default_rng(0).uniform(-0.5, 0.5, (4, 2)):
        shifted = replace(drawing, points=drawing.points + torch.tensor([x, y]).float() / SIZE)
        ours.append(backward(shifted, weights))
        true.append(differences(shifted, weights))
    for kind in ours[0]:
        got, want = sum(g[kind] for g in ours), sum(g[kind] for g in true)
        assert cosine(got, want) > 0.99, kind
        assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(want), rel=0.1), kind


def test_a_dot_moves_and_grows_as_a_supersampled_one() -> None:
    # How the force divides among equal control points is anyone's choice: it is their sum that moves the dot.
    by, weights = 0.25, smooth(3)
    grid = [11 + (i + 0.5) / 4 for i in range(4)]
    for radius in (0.3, 1.0, 3.0):
        ours, true = np.zeros(3), np.zeros(3)
        for x, y in product(grid, grid):
            drawing = scene([[(x, y)] * 4], radius)
            gradient = backward(drawing, weights)
            ours += [*gradient["points"].sum(0), gradient["widths"].item()]
            for axis in (0, 1):
                offset = torch.eye(2)[axis] * by / SIZE
                ahead, behind = (
                    reference(replace(drawing, points=drawing.points + s * offset)) for s in (1, -1)
                )
                true[axis] += ((ahead - behind) * weights).sum() / (2 * by / SIZE)
            true[2] += differences(drawing, weights)["widths"].item()
        assert cosine(ours[:2], true[:2]) > 0.99
        np.testing.assert_allclose(ours, true, atol=0.1 * np.abs(true).max())


def test_many_strokes_on_one_pixel() -> None:
    opacity = torch.full((1, 1000), 0.01)
    drawing = replace(scene([LINE] * 1000, 4.0), opacity=opacity.requires_grad_())
    image = rasterize(drawing, SIZE)
    colours = drawing.colours[0].double().numpy()
    expected = drawing.background.double().numpy()
    for colour in colours:
        expected = expected + 0.01 * (colour - expected)
    np.testing.assert_allclose(image[0, :, 13, 15].detach().numpy(), expected, atol=1e-4)
    image.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.isfinite().all()


def test_a_population_is_its_members() -> None:
    members = [scene(many(wander, 5, seed, 6.0), [0.3, 1.0, 2.0, 4.0, 9.0], seed) for seed in range(3)]
    together = Scene(
        *(
            torch.cat([getattr(m, f) for m in members])
            for f in ("points", "segments", "widths", "colours", "opacity")
        ),
        background=members[0].background,
    )
    weights = torch.from_numpy(smooth(0)).float().permute(2, 0, 1)
    together.points.requires_grad_()
    images = rasterize(together, SIZE)
    (images * weights).sum().backward()
    gradients = []
    for member, image in zip(members, images, strict=True):
        member.points.requires_grad_()
        single = rasterize(member, SIZE)
        assert torch.equal(single[0], image)
        (single * weights).sum().backward()
        gradients.append(member.points.grad)
    assert torch.equal(torch.cat(gradients), together.points.grad)


def test_every_run_is_the_same_bit_for_bit() -> None:
    # Large enough that every operation that can run in several threads does.
    big = scene(many(wander, 60, 0, 10.0), 2.0)
    weights = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def run() -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (big.points, big.widths, big.colours, big.opacity)]
        image = rasterize(Scene(leaves[0], big.segments, *leaves[1:], big.background), 256)
        return [image.detach(), *torch.autograd.grad((image * weights).sum(), leaves)]

    first = run()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_never_a_nan(data: st.DataObject) -> None:
    number = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -1e4, 1e4, 1e-30]), st.floats(-2, 3, width=32))
    n = data.draw(st.integers(1, 4))
    size = data.draw(st.sampled_from([1, 2, 7, 16, 33]))
    coordinates = data.draw(st.lists(number, min_size=8 * n, max_size=8 * n))
    widths = data.draw(st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 0.05, 1.0, 1e4]), min_size=n, max_size=n))
    drawing = Scene(
        torch.tensor(coordinates).view(-1, 2).requires_grad_(),
        torch.ones(n, dtype=torch.long),
        torch.tensor([widths]).requires_grad_(),
        torch.full((1, n, 3), 0.3).requires_grad_(),
        torch.full((1, n), 0.7).requires_grad_(),
        torch.ones(3).requires_grad_(),
    )
    image = rasterize(drawing, size)
    assert image.shape == (1, 3, size, size)
    assert ((image > -1e-5) & (image < 1 + 1e-5)).all()
    leaves = [drawing.points, drawing.widths, drawing.colours, drawing.opacity, drawing.background]
    assert all(g.isfinite().all() for g in torch.autograd.grad(image.square().sum(), leaves))


BAD = {
    "a point that is not finite": {"points": torch.full((4, 2), torch.nan)},
    "a point far away": {"points": torch.full((4, 2), 1e5)},
    "a width that is not finite": {"widths": torch.tensor([[torch.inf]])},
    "a negative width": {"widths": torch.tensor([[-0.1]])},
    "too few points": {"points": torch.zeros(3, 2)},
    "flat segments": {"segments": torch.ones(1, dtype=torch.long)},
    "no path": {"segments": torch.ones(1, 0, dtype=torch.long)},
    "a path without cubics": {"segments": torch.zeros(1, 1, dtype=torch.long)},
    "colours without blue": {"colours": torch.zeros(1, 1, 2)},
    "doubles": {"opacity": torch.ones(1, 1, dtype=torch.float64)},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_scene_is_an_input_error(
    change: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user has no shape checks but the scene's own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError):
        replace(scene([LINE], 1.0), **change)


@pytest.mark.parametrize("size", [0, -5, 8193])
def test_a_bad_size_is_an_input_error(size: int) -> None:
    with pytest.raises(InputError, match="size must be"):
        rasterize(scene([LINE], 1.0), size)
