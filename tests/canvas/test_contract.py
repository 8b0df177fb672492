"""What every canvas promises; a new canvas adds one line to CANVASES."""

from collections.abc import Callable

import pytest
import torch

from guidance.canvas import (
    Canvas,
    Conditioning,
    Drawing,
    Fourier,
    Gradients,
    Latents,
    Palette,
    Pixels,
    Scene,
    Shapes,
    Strokes,
    VectorCanvas,
)
from guidance.clock import Clock, at
from guidance.diffusion.conditioning import Condition
from guidance.errors import InputError


def mixed(b: int, seed: int) -> Scene:
    """Closed and open paths, strokes, fills and a gradient, as an SVG may have them."""
    shapes = Shapes(48, 32, Clock(seed=seed), b=b).scene()
    filled = (torch.arange(48) % 3 > 0).expand(b, -1)
    return Scene(
        shapes.points.detach(),
        shapes.segments,
        torch.full((b, 48), 0.1),
        shapes.colours.detach(),
        shapes.opacity.detach(),
        None,
        closed=shapes.closed,
        filled=filled,
        gradients=Gradients(
            48 * torch.arange(b),
            torch.zeros(b, dtype=torch.bool),
            torch.eye(2, 3).expand(b, -1, -1),
            torch.tensor([0.0, 1.0]).expand(b, -1),
            torch.tensor([[0.2, 0.3, 0.4, 0.9], [0.9, 0.3, 0.1, 0.5]]).expand(b, -1, -1),
        ),
    )


def decode(latents: torch.Tensor) -> torch.Tensor:
    """A small generator with frozen weights: four channels mixed to three, smooth, at four times the size."""
    weights = Clock().normal("decoder", 3, (4,))
    large = torch.nn.functional.interpolate(latents, scale_factor=4, mode="bilinear")
    return torch.einsum("oc,bchw->bohw", weights, large).sigmoid()


def noise(b: int, seed: int) -> torch.Tensor:
    return Clock(seed=seed).normal("latents", b, (4, 8, 8))


def told(b: int, seed: int) -> Condition:
    clock = Clock(seed=seed)
    return Condition(clock.normal("hidden", b, (4, 64)), clock.normal("pooled", b, (16,)))


def show(condition: Condition) -> torch.Tensor:
    """A small generator that looks at every number of what it is told."""
    weights = Clock().normal("pooled", 16, (256,)) / 4
    return decode((condition.hidden.flatten(1) + condition.pooled @ weights).unflatten(1, (4, 8, 8)))


RED = (0.8, 0.5, 0.4)

#: (a canvas for a population of b with a seed, the mean absolute error it can fit a picture to)
CANVASES: dict[str, tuple[Callable[[int, int], Canvas], float]] = {
    "strokes": (lambda b, seed: Strokes(48, 32, Clock(seed=seed), b=b, width=(2, 8)), 0.04),
    "sketch": (lambda b, seed: Strokes(48, 32, Clock(seed=seed), b=b, width=(2, 4), ink=RED), 0.2),
    "drawing": (lambda b, seed: Drawing(mixed(b, seed), 32), 0.06),
    "shapes": (lambda b, seed: Shapes(48, 32, Clock(seed=seed), b=b), 0.04),
    "latents": (lambda b, seed: Latents(decode, noise(b, seed), bounds=(-3.0, 3.0)), 0.06),
    "conditioning": (lambda b, seed: Conditioning(show, told(b, seed), lr=0.1, radius=3), 0.06),
    "pixels": (lambda b, seed: Pixels((32, 32), Clock(seed=seed), b=b), 0.025),
    "fourier": (lambda b, seed: Fourier(32, Clock(seed=seed), b=b), 0.05),
    "palette": (lambda b, seed: Palette(16, Clock(seed=seed), b=b, block=2), 0.02),
}

pytestmark = pytest.mark.parametrize(("make", "error"), CANVASES.values(), ids=CANVASES.keys())


def step(canvas: Canvas, target: torch.Tensor, steps: int) -> float:
    """A plain Adam loop on the mean absolute error; returns the last one."""
    groups = canvas.param_groups()
    adam = torch.optim.Adam([{"params": group["params"]} for group in groups])
    loss = torch.tensor(torch.inf)
    for index in range(steps):
        for live, group in zip(adam.param_groups, groups, strict=True):
            live["lr"] = at(group["lr"], index / steps)
        adam.zero_grad()
        loss = (canvas() - target).abs().flatten(1).mean(1).sum()
        loss.backward()
        adam.step()
        canvas.project_()
    return loss.item()


def sunset(size: int) -> torch.Tensor:
    """A smooth picture with one edge."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    sun = ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.06).float()
    return torch.stack([0.9 - 0.3 * y, 0.3 + 0.5 * sun * (1 - y), 0.2 + 0.5 * y * (1 - sun)])


def test_the_image_is_an_image(make: Callable[[int, int], Canvas], error: float) -> None:
    image = make(2, 0)()
    assert image.shape[:2] == (2, 3)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.01


def test_groups_partition_the_parameters(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(1, 0)
    groups = canvas.param_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in canvas.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(at(group["lr"], progress) > 0 for group in groups for progress in (0.0, 0.5, 1.0))


def test_a_gradient_reaches_every_group(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(2, 0)
    image = canvas()
    (image - sunset(image.shape[-1])).square().mean().backward()
    for group in canvas.param_groups():
        for parameter in group["params"]:
            assert parameter.grad is not None, group["name"]
            assert parameter.grad.isfinite().all(), group["name"]
            assert parameter.grad.abs().max() > 0, group["name"]


def test_it_fits_a_picture(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(1, 0)
    target = sunset(canvas().shape[-1])
    before = (canvas() - target).abs().mean().item()
    after = step(canvas, target, 40)
    assert after < error < before


def test_its_state_is_its_image(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(2, 0)
    step(canvas, sunset(canvas().shape[-1]), 2)
    copy = make(2, 0)
    assert not torch.equal(copy(), canvas())
    copy.load_state_dict(canvas.state_dict())
    assert torch.equal(copy(), canvas())


def test_projecting_twice_is_projecting_once(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(1, 0)
    with torch.no_grad():
        for parameter in canvas.parameters():
            parameter.add_(10 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    canvas.project_()
    once = [parameter.clone() for parameter in canvas.parameters()]
    canvas.project_()
    assert all(torch.equal(a, b) for a, b in zip(once, canvas.parameters(), strict=True))


def test_a_population_is_single_runs(make: Callable[[int, int], Canvas], error: float) -> None:
    together = make(3, 5)
    target = sunset(together().shape[-1])
    step(together, target, 3)
    images = together()
    for member in range(3):
        single = make(1, 5 + member)
        step(single, target, 3)
        torch.testing.assert_close(single()[0], images[member], atol=1e-5, rtol=0)


def test_a_vector_canvas_renders_at_any_size(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(1, 0)
    if not isinstance(canvas, VectorCanvas):
        pytest.skip("made of pixels")
    image = canvas()
    large = canvas(2 * image.shape[-1])
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), image, atol=0.25, rtol=0)
    assert (torch.nn.functional.avg_pool2d(large, 2) - image).abs().mean() < 0.01
    assert canvas.svg().startswith("<svg")


def test_a_vector_canvas_renders_one_member(make: Callable[[int, int], Canvas], error: float) -> None:
    canvas = make(3, 0)
    if not isinstance(canvas, VectorCanvas):
        pytest.skip("made of pixels")
    size = canvas().shape[-1]
    for member in range(3):
        alone = canvas(size, member)
        assert alone.shape[0] == 1
        assert torch.equal(alone[0], canvas()[member])
    with pytest.raises(InputError, match="member must be from 0 to 2"):
        canvas(size, 3)
