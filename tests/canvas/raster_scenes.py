"""Scenes to rasterise in tests, the backends that do it, and what is compared of them."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import supersampled
import torch
from supersampled import Array

from guidance.canvas.raster import Gradients, Scene, cpu, rasterize, reference

SIZE = 32

Point = tuple[float, float]
Path = list[Point]
Draw = Callable[[Scene, int, int], torch.Tensor]


def _cuda(value: object) -> object:
    if isinstance(value, Gradients):
        return Gradients(*(getattr(value, field.name).cuda() for field in fields(value)))
    return value.cuda() if isinstance(value, torch.Tensor) else value


def on_gpu(scene: Scene, height: int, width: int) -> torch.Tensor:
    moved = Scene(**{field.name: _cuda(getattr(scene, field.name)) for field in fields(scene)})  # type: ignore[arg-type]
    return rasterize(moved, (height, width)).cpu()


def reference_on_gpu(scene: Scene, height: int, width: int) -> torch.Tensor:
    moved = Scene(**{field.name: _cuda(getattr(scene, field.name)) for field in fields(scene)})  # type: ignore[arg-type]
    return reference.rasterize(moved, height, width).cpu()


BACKENDS = [
    pytest.param(cpu.rasterize, id="cpu"),
    pytest.param(reference.rasterize, id="reference"),
    pytest.param(on_gpu, id="gpu", marks=pytest.mark.gpu),
    pytest.param(reference_on_gpu, id="reference on the gpu", marks=pytest.mark.gpu),
]


def strokes(paths: list[Path], radius: float | list[float], seed: int = 0) -> Scene:
    """One scene of open strokes given in pixels at SIZE, with random colours and opacity."""
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


def shapes(paths: list[list[Path]], even_odd: bool = False, seed: int = 0) -> Scene:
    """One scene of filled paths of closed contours, given in pixels at SIZE."""
    contours = [contour for path in paths for contour in path]
    n = len(paths)
    generator = torch.Generator().manual_seed(seed)
    return Scene(
        points=torch.tensor([point for contour in contours for point in contour], dtype=torch.float32) / SIZE,
        segments=torch.tensor([len(contour) // 3 for contour in contours]),
        widths=torch.zeros(1, n),
        colours=torch.rand(1, n, 3, generator=generator),
        opacity=0.4 + 0.6 * torch.rand(1, n, generator=generator),
        background=torch.tensor([1.0, 0.9, 0.8]),
        contours=torch.tensor([[len(path) for path in paths]]),
        closed=torch.ones(len(contours), dtype=torch.bool),
        filled=torch.ones(1, n, dtype=torch.bool),
        even_odd=torch.full((1, n), even_odd),
    )


def wander(rng: np.random.Generator, step: float, cubics: int = 3) -> Path:
    """A path as CLIPDraw makes them: a random walk of control points, with corners where cubics meet."""
    moves = rng.uniform(-step, step, (3 * int(rng.integers(1, cubics + 1)), 2))
    walk = rng.uniform(0.2 * SIZE, 0.8 * SIZE, 2) + np.concatenate([np.zeros((1, 2)), moves.cumsum(0)])
    return [tuple(point) for point in walk.tolist()]


def arc(rng: np.random.Generator) -> Path:
    """A cubic without sharp turns."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6) * SIZE
    along = np.array([np.cos(angle), np.sin(angle)]) * length
    across = np.array([-along[1], along[0]])
    centre, bend = rng.uniform(0.35 * SIZE, 0.65 * SIZE, 2), rng.uniform(-0.3, 0.3, 2)
    offsets = [-along / 2, -along / 6 + bend[0] * across, along / 6 + bend[1] * across, along / 2]
    return [tuple(point) for point in (centre + np.stack(offsets)).tolist()]


def many(make: Callable[..., Path], n: int, seed: int, *arguments: float) -> list[Path]:
    rng = np.random.default_rng(seed)
    return [make(rng, *arguments) for _ in range(n)]


def polygon(*corners: Point) -> Path:
    """The control points of a closed contour of lines."""
    return [
        (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t)
        for a, b in zip(corners, (*corners[1:], corners[0]), strict=True)
        for t in (0, 1 / 3, 2 / 3)
    ]


def ring(x: float, y: float, radius: float, clockwise: bool = True) -> Path:
    """The control points of a closed contour of four cubics, nearly a circle."""
    k = 0.5523
    quarter = np.array([(1, 0), (1, k), (k, 1)])
    turned = quarter @ [[0, 1], [-1, 0]]
    circle = np.concatenate([quarter, turned, -quarter, -turned])
    return [(x + radius * a, y + radius * (b if clockwise else -b)) for a, b in circle.tolist()]


def draw(backend: Draw, scene: Scene, height: int = SIZE, width: int = SIZE) -> Array:
    """The one member of a scene, as [height, width, channels]."""
    return backend(scene, height, width)[0].permute(1, 2, 0).detach().double().numpy()


def smooth(seed: int, height: int = SIZE, width: int = SIZE, channels: int = 3) -> Array:
    """A smooth random picture, the gradient that is sent backward."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    blur = np.exp(-2 * (np.pi * 2.5) ** 2 * (x**2 + y**2))
    noise = np.random.default_rng(seed).standard_normal((height, width, channels))
    image = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * blur[:, :, None], axes=(0, 1)).real
    return image / image.std()


def parameters(scene: Scene) -> dict[str, torch.Tensor]:
    """All that a scene can be differentiated by; those of its gradients are named so."""
    found = {name: getattr(scene, name) for name in ("points", "widths", "colours", "opacity")}
    if scene.background is not None:
        found["background"] = scene.background
    if scene.gradients is not None:
        names = ("transforms", "offsets", "colours")
        found |= {f"gradients.{name}": getattr(scene.gradients, name) for name in names}
    return found


def with_parameters(scene: Scene, values: dict[str, torch.Tensor]) -> Scene:
    prefix = "gradients."
    own = {name: value for name, value in values.items() if not name.startswith(prefix)}
    if scene.gradients is None:
        return replace(scene, **own)
    inner = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return replace(scene, **own, gradients=replace(scene.gradients, **inner))


def backward(backend: Draw, scene: Scene, weights: Array) -> dict[str, Array]:
    """The gradient of the pictures' product with `weights`, [height, width, channels]."""
    leaves = {name: value.clone().requires_grad_() for name, value in parameters(scene).items()}
    image = backend(with_parameters(scene, leaves), *weights.shape[:2])
    (image * torch.from_numpy(weights).float().permute(2, 0, 1)).sum().backward()
    return {
        name: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.double().numpy()
        for name, leaf in leaves.items()
    }


def differences(scene: Scene, weights: Array, names: list[str], step: float = 0.25) -> dict[str, Array]:
    """Central differences of the supersampled picture; `step` is in pixels."""
    values = parameters(scene)

    def product(name: str, flat: torch.Tensor) -> float:
        changed = with_parameters(scene, {name: flat.view(values[name].shape)})
        return float((supersampled.picture(changed, *weights.shape[:2]) * weights).sum())

    result = {}
    for name in names:
        flat = values[name].detach().flatten()
        slopes = []
        for i, value in enumerate(flat.tolist()):
            by = {"points": step / weights.shape[1], "widths": min(step / weights.shape[1], value / 4)}
            ahead, behind = flat.clone(), flat.clone()
            ahead[i] += by.get(name, 0.001)
            behind[i] -= by.get(name, 0.001)
            change = product(name, ahead) - product(name, behind)
            slopes.append(change / (ahead[i] - behind[i]).item())
        result[name] = np.array(slopes).reshape(values[name].shape)
    return result


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
