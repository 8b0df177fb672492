"""Every backend against the reference: the same pictures and gradients, up to rounding."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raster_drawings import FILLS, STROKES
from raster_scenes import Draw, backward, cosine, on_gpu, reference_on_gpu, smooth

from guidance.canvas.raster import Gradients, Scene, cpu, reference

others = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(cpu.rasterize, id="cpu"),
        pytest.param(on_gpu, id="gpu", marks=pytest.mark.gpu),
        pytest.param(reference_on_gpu, id="reference on the gpu", marks=pytest.mark.gpu),
    ],
)


def assert_same(backend: Draw, drawing: Scene, height: int, width: int) -> None:
    error = (backend(drawing, height, width) - reference.rasterize(drawing, height, width)).abs()
    assert error.max() < 1e-3
    assert error.mean() < 1e-5
    weights = smooth(0, height, width, 4 if drawing.background is None else 3)
    ours, theirs = backward(backend, drawing, weights), backward(reference.rasterize, drawing, weights)
    for name, gradient in ours.items():
        scale = np.linalg.norm(theirs[name])
        assert np.linalg.norm(gradient) == pytest.approx(scale, rel=1e-2, abs=1e-3), name
        assert scale < 1e-3 or cosine(gradient, theirs[name]) > 0.9999, name


# Where an open path ends in its beginning, and all along a dot, several points are the nearest: the last
# digit decides between them.
TIED = ("closed on itself", "dots")
DRAWINGS = {name: drawing for name, drawing in STROKES.items() if name not in TIED}
DRAWINGS |= {f"fill: {name}": drawing for name, drawing in FILLS.items()}


@others
@pytest.mark.parametrize("name", DRAWINGS)
def test_it_draws_the_same(backend: Draw, name: str) -> None:
    assert_same(backend, DRAWINGS[name], 48, 37)


def anything(seed: int) -> Scene:
    """A population of scenes of everything: filled or stroked, closed or open, with holes and gradients."""
    rng = np.random.default_rng(seed)
    b, n = rng.integers(1, 3), rng.integers(1, 7)
    contours = rng.integers(1, 4, (b, n))
    segments = rng.integers(1, 4, contours.sum())
    closed = rng.random(len(segments)) < 0.5
    sizes = 3 * segments + 1 - closed
    spread, widest = rng.choice([0.2, 0.6, 3.0]), rng.choice([0.01, 0.05, 0.3])
    centres = np.repeat(rng.random((len(sizes), 2)), sizes, 0)
    points = centres + spread * rng.uniform(-0.5, 0.5, (sizes.sum(), 2))
    widths = widest * (rng.random(len(points)) if rng.random() < 0.5 else rng.random((b, n)))
    gradients = None
    paths = np.flatnonzero(rng.random(b * n) < 0.3)
    if len(paths):
        gradients = Gradients(
            paths=torch.from_numpy(paths),
            radial=torch.from_numpy(rng.random(len(paths)) < 0.5),
            transforms=torch.from_numpy(rng.uniform(-2, 2, (len(paths), 2, 3))).float(),
            offsets=torch.from_numpy(np.sort(rng.random((len(paths), 3)), 1)).float(),
            colours=torch.from_numpy(rng.random((len(paths), 3, 4))).float(),
        )
    return Scene(
        points=torch.from_numpy(points).float(),
        segments=torch.from_numpy(segments),
        widths=torch.from_numpy(widths).float(),
        colours=torch.from_numpy(rng.random((b, n, 3))).float(),
        opacity=torch.from_numpy(rng.random((b, n))).float(),
        background=torch.from_numpy(rng.random(3)).float() if rng.random() < 0.5 else None,
        contours=torch.from_numpy(contours),
        closed=torch.from_numpy(closed),
        filled=torch.from_numpy(rng.random((b, n)) < 0.5),
        even_odd=torch.from_numpy(rng.random((b, n)) < 0.5),
        gradients=gradients,
    )


@others
@settings(max_examples=20, deadline=None, derandomize=True)
@example(seed=177, size=(40, 40))  # thin ends of a stroke that is wide elsewhere
@example(seed=203, size=(70, 9))
@given(seed=st.integers(0, 10**6), size=st.sampled_from([(40, 40), (23, 61), (70, 9)]))
def test_it_draws_any_scene_the_same(backend: Draw, seed: int, size: tuple[int, int]) -> None:
    assert_same(backend, anything(seed), *size)
