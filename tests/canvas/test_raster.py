"""Strokes, drawn by every backend, against an independent supersampled renderer: pictures, and gradients by
finite differences.
"""

import errno
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import random_scenes
import supersampled
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_drawings import HOOK, LINE, STROKES, loops, swelling, tapered
from raster_scenes import (
    BACKENDS,
    SIZE,
    Draw,
    arc,
    backward,
    cosine,
    differences,
    draw,
    many,
    parameters,
    smooth,
    strokes,
    wander,
    with_parameters,
)
from supersampled import Array

from guidance.canvas import Scene
from guidance.canvas.raster import cpu, kernels
from guidance.canvas.raster.kernels.compiled import kernel

everywhere = pytest.mark.parametrize("backend", BACKENDS)


@everywhere
@pytest.mark.parametrize("name", STROKES)
@pytest.mark.parametrize("size", [(SIZE, SIZE), (28, 45)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_picture_is_the_supersampled_one(backend: Draw, name: str, size: tuple[int, int]) -> None:
    drawing = STROKES[name]
    error = np.abs(draw(backend, drawing, *size) - supersampled.picture(drawing, *size))
    assert error.mean() < 0.7 / 255
    assert error.max() < 0.35


@everywhere
def test_a_stroke_thinner_than_a_pixel_covers_its_width(backend: Draw) -> None:
    black = {"colours": torch.zeros(1, 1, 3), "opacity": torch.ones(1, 1), "background": torch.ones(3)}
    for radius in (0.02, 0.1, 0.3):
        ink = (1 - draw(backend, replace(strokes([LINE], radius), **black))).sum() / 3
        area = 2 * radius * np.hypot(18, 9) + np.pi * radius**2
        assert ink == pytest.approx(area, rel=0.03)


MOVED = {
    "default": strokes(many(wander, 2, 0, 8.0), 1.0),
    "overlapping": strokes(many(wander, 3, 1, 8.0, 1), [1.0, 2.0, 5.0]),
    "thin": strokes(many(arc, 4, 2), 0.4),
    "outside": strokes([[(x - 15, y) for x, y in LINE], [(x + 12, y + 9) for x, y in LINE]], 2.5),
    "straight, evenly spaced": strokes([LINE], 1.0),
    "hook": strokes([HOOK], 1.0),
    "swelling": swelling(strokes(many(arc, 2, 4), [2.0, 4.0]), 0),
    "tapered": tapered(strokes(many(arc, 3, 6), [1.5, 3.0, 5.0]), 0.1),
    "closed": loops(strokes(many(wander, 2, 7, 12.0), [1.0, 3.0])),
    "transparent": replace(strokes(many(arc, 2, 3), 2.0), background=None),
}


@cache
def places(name: str) -> list[tuple[Scene, Array, dict[str, Array]]]:
    """A drawing at several places in the grid of pixels, each with weights and the true gradients."""
    drawing = MOVED[name]
    weights = smooth(1, channels=4 if drawing.background is None else 3)
    result = []
    for x, y in np.random.default_rng(0).uniform(-0.5, 0.5, (4, 2)):
        shifted = replace(drawing, points=drawing.points + torch.tensor([x, y]).float() / SIZE)
        result.append((shifted, weights, differences(shifted, weights, list(parameters(shifted)))))
    return result


@everywhere
@pytest.mark.parametrize("name", MOVED)
def test_gradients_are_those_of_the_supersampled_picture(backend: Draw, name: str) -> None:
    # The place of a thin stroke in the grid of pixels changes one gradient much, and says nothing about where
    # to go: sum over places.
    ours = [backward(backend, drawing, weights) for drawing, weights, _ in places(name)]
    for kind in ours[0]:
        got = sum(gradient[kind] for gradient in ours)
        want = sum(true[kind] for _, _, true in places(name))
        assert cosine(got, want) > 0.99, kind
        assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(want), rel=0.1), kind


@everywhere
def test_a_dot_moves_and_grows_as_a_supersampled_one(backend: Draw) -> None:
    # How the force divides among equal control points is anyone's choice: it is their sum that moves the dot.
    by, weights = 0.25, smooth(3)
    grid = [11 + (i + 0.5) / 4 for i in range(4)]
    for radius in (0.3, 1.0, 3.0):
        ours, true = np.zeros(3), np.zeros(3)
        for x, y in product(grid, grid):
            drawing = strokes([[(x, y)] * 4], radius)
            gradient = backward(backend, drawing, weights)
            ours += [*gradient["points"].sum(0), gradient["widths"].item()]
            for axis in (0, 1):
                offset = torch.eye(2)[axis] * by / SIZE
                ahead, behind = (
                    supersampled.picture(replace(drawing, points=drawing.points + s * offset), SIZE, SIZE)
                    for s in (1, -1)
                )
                true[axis] += ((ahead - behind) * weights).sum() / (2 * by / SIZE)
            true[2] += differences(drawing, weights, ["widths"])["widths"].item()
        assert cosine(ours[:2], true[:2]) > 0.99
        np.testing.assert_allclose(ours, true, atol=0.1 * np.abs(true).max())


@everywhere
def test_many_strokes_on_one_pixel(backend: Draw) -> None:
    opacity = torch.full((1, 1000), 0.01)
    drawing = replace(strokes([LINE] * 1000, 4.0), opacity=opacity.requires_grad_())
    image = backend(drawing, SIZE, SIZE)
    colours = drawing.colours[0].double().numpy()
    expected = drawing.background.double().numpy()
    for colour in colours:
        expected = expected + 0.01 * (colour - expected)
    np.testing.assert_allclose(image[0, :, 13, 15].detach().numpy(), expected, atol=1e-4)
    image.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.isfinite().all()


@everywhere
def test_a_population_is_its_members(backend: Draw) -> None:
    members = [strokes(many(wander, 5, seed, 6.0), [0.3, 1.0, 2.0, 4.0, 9.0], seed) for seed in range(3)]
    together = Scene(
        *(
            torch.cat([getattr(m, f) for m in members])
            for f in ("points", "segments", "widths", "colours", "opacity")
        ),
        background=members[0].background,
    )
    weights = torch.from_numpy(smooth(0)).float().permute(2, 0, 1)
    together.points.requires_grad_()
    images = backend(together, SIZE, SIZE)
    (images * weights).sum().backward()
    gradients = []
    for member, image in zip(members, images, strict=True):
        member.points.requires_grad_()
        single = backend(member, SIZE, SIZE)
        torch.testing.assert_close(single[0], image, atol=1e-6, rtol=0)
        (single * weights).sum().backward()
        gradients.append(member.points.grad)
    torch.testing.assert_close(torch.cat(gradients), together.points.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("backend", [cpu.rasterize], ids=["cpu"])
def test_every_run_is_the_same_bit_for_bit(backend: Draw) -> None:
    # Large enough that every operation that can run in several threads does.
    big = strokes(many(wander, 60, 0, 10.0), 2.0)
    weights = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def run() -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (big.points, big.widths, big.colours, big.opacity)]
        image = backend(Scene(leaves[0], big.segments, *leaves[1:], big.background), 256, 256)
        return [image.detach(), *torch.autograd.grad((image * weights).sum(), leaves)]

    first = run()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_process_draws() -> None:
    script = (
        "import os, signal, torch\n"
        "from guidance.canvas.raster import Scene, rasterize\n"
        "torch.set_num_threads(2)\n"
        "paints = torch.ones(1, 1), torch.ones(1, 1, 3), torch.ones(1, 1), torch.zeros(3)\n"
        "scene = Scene(torch.rand(4, 2), torch.ones(1, dtype=torch.long), *paints)\n"
        "image = rasterize(scene, 16)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    os._exit(0 if rasterize(scene, 16).equal(image) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)\n"
    )
    # In a process of its own: this one has threads of others, which do not survive a fork.
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=100).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_process_that_is_forked_while_a_thread_draws_draws() -> None:
    script = (
        "import os, signal, threading, torch\n"
        "from guidance.canvas.raster import Scene, cpu\n"
        "torch.set_num_threads(1)\n"
        "paints = torch.ones(1, 1), torch.ones(1, 1, 3), torch.ones(1, 1), torch.zeros(3)\n"
        "scene = Scene(torch.rand(4, 2), torch.ones(1, dtype=torch.long), *paints)\n"
        "parent, inside, leave = os.getpid(), threading.Event(), threading.Event()\n"
        "class Slow(list):\n"
        "    def pop(self):\n"
        "        if os.getpid() == parent:\n"
        "            inside.set()\n"
        "            leave.wait()\n"
        "        return super().pop()\n"
        "image = cpu.rasterize(scene, 16, 16)\n"
        "cpu._spare = Slow(cpu._spare)\n"
        "assert cpu._spare\n"
        "thread = threading.Thread(target=cpu.rasterize, args=(scene, 16, 16))\n"
        "thread.start()\n"
        "inside.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(10)\n"
        "    os._exit(0 if cpu.rasterize(scene, 16, 16).equal(image) else 1)\n"
        "leave.set()\n"
        "thread.join()\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=100).returncode == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_where_there_is_no_memory_that_is_all_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Array:
        raise MemoryError

    monkeypatch.setattr(cpu, "_spare", [])
    monkeypatch.setattr(cpu.np, "empty", full)
    share = cpu._Share.__new__(cpu._Share)
    with pytest.raises(MemoryError):
        share.__init__(lambda *_: None)  # type: ignore[misc]
    share.__del__()


def test_strided_flags_take_no_compiling_of_their_own() -> None:
    drawing = loops(strokes(many(wander, 2, 7, 12.0), 1.0))
    assert drawing.closed is not None
    image = cpu.rasterize(drawing, SIZE, SIZE)
    known = len(kernels.frame.signatures)
    strided = replace(drawing, closed=drawing.closed.repeat_interleave(2)[::2])
    assert torch.equal(cpu.rasterize(strided, SIZE, SIZE), image)
    assert len(kernels.frame.signatures) == known


def picture_and_gradients(backend: Draw, drawing: Scene) -> list[torch.Tensor]:
    assert drawing.gradients is not None
    leaves = [part.clone().requires_grad_() for part in (drawing.points, drawing.gradients.transforms)]
    painted = replace(drawing, points=leaves[0], gradients=replace(drawing.gradients, transforms=leaves[1]))
    image = backend(painted, *random_scenes.SIZE)
    return [image.detach(), *torch.autograd.grad(image.square().sum(), leaves)]


@everywhere
def test_pytorchs_default_type_changes_nothing(backend: Draw) -> None:
    drawing = random_scenes.random_scene(3)
    expected = picture_and_gradients(backend, drawing)
    torch.set_default_dtype(torch.float64)
    try:
        found = picture_and_gradients(backend, drawing)
    finally:
        torch.set_default_dtype(torch.float32)
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)
        assert got.dtype == torch.float32


def test_where_no_folder_can_be_written_to_kernels_are_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # Both are what Numba asks of every folder; root may write to any.
    monkeypatch.setattr(os, "makedirs", read_only)
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert kernel(twice)(21) == 42


def test_nor_is_a_home_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kernel(twice)(21) == 42


def twice(x: int) -> int:
    return 2 * x


NUMBER = st.one_of(st.sampled_from([0.0, 0.5, 1.0, -1e4, 1e4, 1e-30]), st.floats(-2, 3, width=32))
WIDTH = st.sampled_from([0.0, 1e-30, 1e-3, 0.05, 1.0, 1e4])


@everywhere
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_never_a_nan(backend: Draw, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 4))
    height, width = (data.draw(st.sampled_from([1, 2, 7, 16, 33])) for _ in range(2))
    points = torch.tensor(data.draw(st.lists(NUMBER, min_size=8 * n, max_size=8 * n))).view(-1, 2)
    along = data.draw(st.booleans())
    count = 4 * n if along else n
    widths = torch.tensor(data.draw(st.lists(WIDTH, min_size=count, max_size=count)))
    flags = [torch.tensor([data.draw(st.lists(st.booleans(), min_size=n, max_size=n))]) for _ in range(2)]
    drawing = Scene(
        points=points,
        segments=torch.ones(n, dtype=torch.long),
        widths=widths if along else widths[None],
        colours=torch.full((1, n, 3), 0.3),
        opacity=torch.full((1, n), 0.7),
        background=torch.ones(3),
        filled=flags[0],
        even_odd=flags[1],
    )
    leaves = {name: value.requires_grad_() for name, value in parameters(drawing).items()}
    image = backend(with_parameters(drawing, leaves), height, width)
    assert image.shape == (1, 3, height, width)
    assert ((image > -1e-5) & (image < 1 + 1e-5)).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(image.square().sum(), list(leaves.values())))
