"""The Triton backend against the reference. Triton's interpreter runs the kernels where there is no GPU."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from raster_scenes import backward, draw, parameters, polygon, ring, shapes, smooth, strokes, with_parameters

from guidance.canvas.raster import Gradients, Scene, reference

pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch for CUDA on Linux")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HEIGHT, WIDTH = 20, 35

BEND = [(3.0, 3.0), (16.0, 2.0), (24.0, 9.0), (30.0, 18.0)]
TWO = [(4.0, 14.0), (9.0, 4.0), (13.0, 4.5), (15.0, 11.0), (17.0, 17.0), (24.0, 16.0), (31.0, 5.0)]
DOT = [(9.3, 8.4)] * 4
FRAME = [polygon((2, 1), (34, 2), (31, 19), (3, 18)), ring(14, 9, 6, clockwise=False)]
AROUND = [polygon((-9, -8), (70, -5), (60, 40), (-20, 33))]


def population(*members: Scene) -> Scene:
    names = ("points", "segments", "widths", "colours", "opacity", "contours", "closed", "filled", "even_odd")
    parts = {name: [getattr(member, name) for member in members] for name in names}
    joined = {name: None if part[0] is None else torch.cat(part) for name, part in parts.items()}
    return Scene(**joined, background=members[0].background)


def shaded(drawing: Scene) -> Scene:
    """The drawing with a radial gradient on its first path and a linear one on its second."""
    transforms = torch.tensor([[[2.5, 0.3, -1.0], [0.2, 2.0, -0.6]], [[0.8, 0.4, -0.1], [0.0, 1.0, 0.0]]])
    colours = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([[0.0, 0.4, 1.0], [0.2, 0.5, 0.9]])
    kinds = torch.tensor([True, False])
    return replace(drawing, gradients=Gradients(torch.arange(2), kinds, transforms, offsets, colours))


DRAWINGS = {
    "strokes": strokes([BEND, TWO, DOT], [3.0, 1.0, 2.0]),
    "thin": strokes([TWO, DOT], [0.3, 0.4]),
    "wide": strokes([BEND, [(x - 60, y) for x, y in BEND]], [25.0, 40.0]),
    # It begins thinner than the blur of a pixel.
    "swelling": replace(strokes([BEND], 1.0), widths=torch.tensor([0.01, 0.3, 0.1, 0.4])),
    "closed": replace(shapes([FRAME]), filled=None, widths=torch.full((1, 1), 0.15)),
    "fills, shaded": shaded(shapes([FRAME, AROUND, [polygon((5, 5), (25, 8), (9, 16))]])),
    "holes, transparent": replace(shapes([[*FRAME, ring(20, 9, 5)]], even_odd=True), background=None),
    "a population": population(shapes([FRAME]), shapes([[ring(14, 9, 6), ring(11, 9, 4)]], seed=1)),
    "nothing to see": strokes([[(x, y + 90) for x, y in BEND]], 2.0),
}


def on_device(scene: Scene, height: int, width: int) -> torch.Tensor:
    from guidance.canvas.raster import cuda

    if INTERPRETED:
        return cuda.rasterize(scene, height, width)

    def move(value: object) -> object:
        return value.cuda() if isinstance(value, torch.Tensor) else value

    moved = {name: move(value) for name, value in vars(scene).items() if name in Scene.__dataclass_fields__}
    if scene.gradients is not None:
        moved["gradients"] = Gradients(*(value.cuda() for value in vars(scene.gradients).values()))
    return cuda.rasterize(Scene(**moved), height, width).cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("name", DRAWINGS)
def test_it_draws_as_the_reference(name: str) -> None:
    drawing = DRAWINGS[name]
    members, channels = len(drawing.opacity), 4 if drawing.background is None else 3
    weights = torch.from_numpy(np.stack([smooth(i, HEIGHT, WIDTH, channels) for i in range(members)]))
    results = []
    for backend in (on_device, reference.rasterize):
        leaves = {key: value.clone().requires_grad_() for key, value in parameters(drawing).items()}
        image = backend(with_parameters(drawing, leaves), HEIGHT, WIDTH)
        (image * weights.permute(0, 3, 1, 2).float()).sum().backward()
        results.append((image.detach(), {key: leaf.grad for key, leaf in leaves.items()}))
    (ours, slopes), (theirs, expected) = results
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    for key, want in expected.items():
        got = slopes[key] if slopes[key] is not None else torch.zeros_like(leaves[key])
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, want, atol=1e-3 * (1 + want.abs().max().item()), rtol=0, msg=key)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does one thing at a time")
def test_every_run_is_the_same_bit_for_bit() -> None:
    drawing, weights = DRAWINGS["strokes"], smooth(0, HEIGHT, WIDTH)
    pictures = [draw(on_device, drawing, HEIGHT, WIDTH) for _ in range(2)]
    assert np.array_equal(*pictures)
    first, second = (backward(on_device, drawing, weights) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter() -> None:
    # Triton decides when kernels are imported whether it compiles them: this takes a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


#: The types of the kernels' arguments, as the backend calls them.
SIGNATURES = {
    "flatten": "*fp32 *i64 *i64 *i32 *i64 *fp32",
    "unflatten": "*i64 *i32 *i64 i32 *fp32 *fp32",
    "survey": "*fp32 *i64 *i64 *i1 *i64 *i64 i32 i32 *fp32 *i32 *i32 *i32 *i32 *i32",
    "list_entries": "*fp32 *i64 *i64 *i64 *i32 *i32 *i32 *i32 i32 i32 *i32 *i32 *i32 *i32 *i32 *i32",
    "classify": "*fp32 *i64 *i32 *i32 *i32 *i32 *i32 *i32 i32 i32 i32 i32 *i32 *i32 *i32",
    "cover": "*fp32 *i32 *i64 *i32 *i32 *i32 *i32 *i32 *i64 *i32 i32 i32 *fp32 *i32 *i32 *i32",
    "paint": "*i32 *i32 *fp32 *fp32 i32 *fp32 i32 i32 i32 i32 i32 *fp32",
    "unpaint": "*i32 *i64 *i32 *fp32 *fp32 i32 *fp32 i32 i32 i32 i32 i32 *fp32 *fp32 *fp32 *fp32 *fp32",
    "sum_paints": "*i32 *i32 *fp32 *fp32",
    "uncover": "*fp32 *i32 *i64 *i32 *i32 *i32 *i32 *i32 *i32 *i32 *i32 *i32 *fp32 *fp32",
    "gather": "*i32 *i64 *i64 *fp32 i32 *fp32",
}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("name", SIGNATURES)
def test_the_kernels_compile_without_a_gpu(name: str) -> None:
    # The interpreter takes what the compiler does not. 9.0 is what an H100 or H200 can do.
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from guidance.canvas.raster import triton_kernels

    kernel = getattr(triton_kernels, name)
    types = dict(zip(kernel.arg_names, SIGNATURES[name].split(), strict=True))
    options = {"num_warps": 4, "enable_fp_fusion": True}
    compiled = compile(ASTSource(kernel, types), target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
