"""Whatever a valid scene holds, the CPU backend draws it: finite, in range, with finite gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raster_scenes import parameters, with_parameters

from guidance.canvas.raster import Gradients, Scene, rasterize

EXTREME = [0.0, 1e-45, 1e-38, 1e-30, 1e-7, 0.5, 1.0, 1.0 + 1e-7, 3.0, 1e3, 1e4]


@st.composite
def numbers(draw: st.DrawFn, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    """Evenly spread, on a coarse grid, all the same, or some of them extreme; always from `low` to `high`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.uniform(max(low, -0.5), min(high, 1.5), shape)
    kind = draw(st.sampled_from(["spread", "grid", "same", "some extreme", "all extreme"]))
    if kind == "grid":
        values = np.round(values * 8) / 8
    elif kind == "same":
        values = np.full(shape, values.flat[0] if values.size else 0.0)
    elif kind != "spread":
        odd = rng.choice(EXTREME, shape) * rng.choice([-1, 1], shape)
        values = np.where(rng.random(shape) < (0.2 if kind == "some extreme" else 1), odd, values)
    return torch.from_numpy(np.clip(values, low, high)).float()


@st.composite
def flags(draw: st.DrawFn, shape: tuple[int, ...]) -> torch.Tensor | None:
    """True everywhere, nowhere or here and there; or left out."""
    share = draw(st.sampled_from([None, 0.0, 0.5, 1.0]))
    if share is None:
        return None
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return torch.from_numpy(rng.random(shape) < share)


@st.composite
def gradients(draw: st.DrawFn, paths: int) -> dict[str, torch.Tensor] | None:
    chosen = sorted(draw(st.sets(st.integers(0, paths - 1), max_size=4)))
    if not chosen:
        return None
    g, s = len(chosen), draw(st.integers(1, 4))
    return {
        "paths": torch.tensor(chosen),
        "radial": torch.tensor([draw(st.booleans()) for _ in chosen]),
        "transforms": draw(numbers((g, 2, 3), -1e4, 1e4)),
        "offsets": draw(numbers((g, s), 0, 1)).sort(1).values,
        "colours": draw(numbers((g, s, 4), 0, 1)),
    }


@st.composite
def scenes(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of populations of everything that a scene can hold, with colours in [0, 1].

    (What checks the types of arguments in tests draws from Python's random numbers, which is no good here.)
    """
    b, n = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    contours = None
    if draw(st.booleans()):
        contours = torch.tensor([[draw(st.integers(1, 3)) for _ in range(n)] for _ in range(b)])
    c = b * n if contours is None else int(contours.sum())
    segments = torch.tensor([draw(st.integers(1, 3)) for _ in range(c)])
    closed = draw(flags((c,)))
    rows = int((3 * segments + 1 - (0 if closed is None else closed.long())).sum())
    furthest = draw(st.sampled_from([1.0, 3.0, 1e4]))
    return {
        "points": draw(numbers((rows, 2), -furthest, furthest)),
        "segments": segments,
        "widths": draw(numbers((rows,) if draw(st.booleans()) else (b, n), 0, furthest)),
        "colours": draw(numbers((b, n, 3), 0, 1)),
        "opacity": draw(numbers((b, n), 0, 1)),
        "background": draw(st.one_of(st.none(), numbers((3,), 0, 1))),
        "contours": contours,
        "closed": closed,
        "filled": draw(flags((b, n))),
        "even_odd": draw(flags((b, n))),
        "gradients": draw(gradients(b * n)),
    }


def check(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    graded = arguments["gradients"]
    scene = Scene(**{**arguments, "gradients": graded and Gradients(**graded)})
    image = rasterize(scene, size)
    channels = 4 if scene.background is None else 3
    assert image.shape == (len(scene.opacity), channels, *size)
    assert ((image > -1e-5) & (image < 1 + 1e-5)).all()  # not so if it is nan
    for i in range(len(image)):
        assert torch.equal(rasterize(scene.member(i), size)[0], image[i])

    leaves = {name: value.clone().requires_grad_() for name, value in parameters(scene).items()}
    again = rasterize(with_parameters(scene, leaves), size)
    assert torch.equal(again, image)
    slopes = torch.autograd.grad(again.square().sum(), list(leaves.values()), allow_unused=True)
    for name, slope in zip(leaves, slopes, strict=True):
        assert slope is None or slope.isfinite().all(), name


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scene=scenes(), size=SIZES)
def test_any_scene_is_drawn(scene: dict[str, Any], size: tuple[int, int]) -> None:
    check(scene, size)


@pytest.mark.slow
@settings(max_examples=50_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes(), size=SIZES)
def test_any_of_many_scenes_is_drawn(scene: dict[str, Any], size: tuple[int, int]) -> None:
    check(scene, size)
