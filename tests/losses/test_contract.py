"""What every loss keeps. A new loss joins with one line in LOSSES."""

from collections.abc import Callable

import pytest
import torch

from guidance.clock import Clock
from guidance.crops import Crops
from guidance.losses import (
    ClipLoss,
    DirectionalLoss,
    EdgeLoss,
    GramLoss,
    PaletteLoss,
    PerceptualLoss,
    StrotssLoss,
    SymmetryLoss,
    great_circle,
    out_of_range,
    saturation,
    total_variation,
)
from guidance.prompts import Prompt, parse

Loss = Callable[[torch.Tensor], torch.Tensor]

LOSSES: dict[str, Callable[..., Loss]] = {
    "cosine": lambda clip, crops: ClipLoss(clip, parse("a fox"), crops),
    "great circle": lambda clip, crops: ClipLoss(clip, parse("a fox"), crops, great_circle),
    "many prompts": lambda clip, crops: ClipLoss(clip, parse("a fox:2.0 | snow | blurry:-0.5"), crops),
    "only away": lambda clip, crops: ClipLoss(clip, parse("a fox:-1.0"), crops, great_circle),
    "embedding": lambda clip, crops: ClipLoss(clip, [Prompt(embedding=(1.0,) * clip.embed_dim)], crops),
    "region": lambda clip, crops: ClipLoss(clip, parse("a fox [0,0,0.5,1] => snow | blurry:-0.5"), crops),
    "directional": lambda clip, crops: DirectionalLoss(
        clip, images(1, 30, 30) ** 2, parse("a dog"), parse("a fox"), crops
    ),
    "total variation": lambda clip, crops: total_variation,
    "range": lambda clip, crops: out_of_range,
    "saturation": lambda clip, crops: saturation,
    "symmetry": lambda clip, crops: SymmetryLoss("vertical"),
    "palette": lambda clip, crops: PaletteLoss(torch.eye(3)),
    "edges": lambda clip, crops: EdgeLoss(images(1, 40, 30)),
    "perceptual": lambda clip, crops: PerceptualLoss(layers, images(1, 40, 30), (1.0, 2.0), crops, 16),
    "strotss": lambda clip, crops: StrotssLoss(layers, images(1, 40, 30), crops.clock, places=256),
    "gram": lambda clip, crops: GramLoss(layers, images(1, 40, 30) ** 2),
}


def layers(pictures: torch.Tensor) -> list[torch.Tensor]:
    """Features of two sizes, that no size of picture is too small for."""
    half = torch.nn.functional.avg_pool2d(pictures, 2, ceil_mode=True)
    return [torch.tanh(3 * pictures.flip(1)), torch.cat([half**2, half.sin()], 1)]


@pytest.fixture(params=LOSSES)
def make(request: pytest.FixtureRequest, clip) -> Callable[[Crops], Loss]:
    return lambda crops: LOSSES[request.param](clip, crops)


def images(b: int, h: int, w: int) -> torch.Tensor:
    """Noise that leaves [0, 1] a little, as canvases that do not clamp may."""
    return 1.2 * torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(0)) - 0.1


@pytest.mark.parametrize("shape", [(1, 17, 23), (3, 17, 23), (2, 64, 64)])
def test_one_finite_number_an_image(make, shape: tuple[int, int, int]) -> None:
    value = make(Crops.clipdraw(Clock()))(images(*shape))
    assert value.shape == shape[:1]
    assert value.dtype == torch.float32
    assert value.isfinite().all()


@pytest.mark.parametrize("shape", [(17, 23), (32, 32)])
def test_the_gradient_is_that_of_finite_differences(make, shape: tuple[int, int]) -> None:
    loss, picture = make(Crops.clipdraw(Clock())), images(1, *shape).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(picture).sum(), picture)
    assert gradient.isfinite().all()
    # Along the gradient itself, where rounding matters least.
    step = 1e-2 * gradient / gradient.norm()
    change = (loss(picture + step) - loss(picture - step)) / 2e-2
    assert torch.allclose(change, gradient.norm(), rtol=2e-2)


def test_it_goes_down_after_one_step(make) -> None:
    loss, picture = make(Crops.clipdraw(Clock())), images(2, 32, 32).requires_grad_()
    before = loss(picture)
    (gradient,) = torch.autograd.grad(before.sum(), picture)
    norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
    after = loss(picture - 0.1 * gradient / norms)
    assert (after < before).all()


def test_its_strength_does_not_depend_on_the_number_of_crops(make) -> None:
    picture, means, errors = images(1, 32, 32), [], []
    for k in (2, 16):
        values = torch.cat([make(Crops.clipdraw(Clock(seed=seed), k))(picture) for seed in range(30)])
        means.append(values.mean())
        errors.append(values.std() / 30**0.5)
    assert abs(means[0] - means[1]) < 4 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5 + 1e-6


def test_members_of_a_population_do_not_influence_each_other(make) -> None:
    pictures = images(3, 24, 24).requires_grad_()
    loss = make(Crops.pixray(Clock(seed=5), k=3))
    values = loss(pictures)
    for i in range(3):
        (gradient,) = torch.autograd.grad(values[i], pictures, retain_graph=True)
        assert [bool(g.any()) for g in gradient] == [i == j for j in range(3)]
        alone = make(Crops.pixray(Clock(seed=5 + i), k=3))(pictures[i : i + 1])
        assert torch.allclose(values[i : i + 1], alone, atol=1e-6)
