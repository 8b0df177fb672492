"""Style losses against loops, the exact earth mover's distance (scipy) and closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from guidance.clock import Clock
from guidance.errors import InputError
from guidance.losses import GramLoss, StrotssLoss
from guidance.losses.style import gram, moment_distance, relaxed_emd


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise(b: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(seed))


def layers(images: torch.Tensor) -> list[torch.Tensor]:
    """Two layers of sizes of their own."""
    coarse = torch.nn.functional.avg_pool2d(images, 2)
    return [images.roll(1, 1) ** 2, torch.cat([coarse, coarse.sin()], 1)]


def test_the_relaxed_distance_is_its_definition() -> None:
    costs = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    for member, value in zip(costs.tolist(), relaxed_emd(costs).tolist(), strict=True):
        there = sum(min(row) for row in member) / 5
        back = sum(min(row[j] for row in member) for j in range(7)) / 7
        assert value == pytest.approx(max(there, back))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_above_the_exact_distance(seed: int) -> None:
    x, y = normal(1, 40, 3, seed=seed), normal(1, 40, 3, seed=seed + 100) + 0.5
    costs = torch.cdist(x, y)
    rows, columns = linear_sum_assignment(costs[0].numpy())
    exact = costs[0][rows, columns].mean().item()
    assert 0.3 * exact < relaxed_emd(costs).item() <= exact + 1e-6


def test_it_is_exact_for_sets_whose_points_have_a_partner_each() -> None:
    x = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[None]
    y = x[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))] + torch.tensor([0.1, 0.2, 0.2])
    costs = torch.cdist(x, y)
    rows, columns = linear_sum_assignment(costs[0].numpy())
    assert relaxed_emd(costs).item() == pytest.approx(costs[0][rows, columns].mean().item(), rel=1e-5)
    assert relaxed_emd(costs).item() == pytest.approx(0.3, rel=1e-5)


def test_moments_are_numpys() -> None:
    x, y = normal(2, 30, 4), normal(2, 50, 4, seed=1) * 2 + 1
    for a, b, value in zip(x.numpy(), y.numpy(), moment_distance(x, y).tolist(), strict=True):
        means = np.abs(a.mean(0) - b.mean(0)).mean()
        covariances = np.abs(np.cov(a.T, bias=True) - np.cov(b.T, bias=True)).mean()
        assert value == pytest.approx(means + covariances, rel=1e-4)


def test_a_plain_picture_s_distance_is_known() -> None:
    """Of two plain greys all places are alike: no distance but of means and colours."""
    grey, white = torch.full((2, 3, 8, 8), 0.25), torch.ones(1, 3, 12, 10)
    value = StrotssLoss(lambda x: [x], white, Clock(), places=16)(grey)
    # Means differ by 0.75; greys by 0.75·√3 along the one axis of the decorrelated space; cosines are 1.
    expected = (0 + 0.75 + 0.75 * 3**0.5) / 3
    assert value.tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_places_are_the_clocks_and_of_their_member() -> None:
    picture, image = noise(1, 20, 30), noise(1, 17, 23, seed=1).expand(2, -1, -1, -1)
    clock = Clock(3, seed=5)
    loss = StrotssLoss(layers, picture, clock, places=32)
    first = loss(image)
    assert first[0] != first[1]
    alone = StrotssLoss(layers, picture, Clock(3, seed=6), places=32)(image[1:])
    torch.testing.assert_close(alone, first[1:])
    clock.index = 1
    assert (loss(image) != first).all()


def test_hypercolumns_are_colours_and_layers_of_one_place() -> None:
    """A ramp says where a place is; every layer must say the same."""
    ramp = torch.linspace(0, 1, 64)[None, None, None].expand(1, 3, 64, 64)
    loss = StrotssLoss(lambda x: [torch.nn.functional.avg_pool2d(x, 4)], ramp, Clock(), places=50)
    columns = loss._columns("picture", loss.layers, 1)[0]
    assert columns.shape == (50, 6)
    assert columns.std(0).min() > 0.2
    torch.testing.assert_close(columns[:, 0], columns[:, 5], atol=0.03, rtol=0)


def test_a_picture_has_its_own_style() -> None:
    picture, other = noise(1, 40, 40) * torch.tensor([1.0, 0.2, 0.1])[:, None, None], noise(1, 40, 40, seed=1)
    shuffled = picture.flatten(2)[:, :, torch.randperm(1600, generator=torch.Generator().manual_seed(0))]
    for loss in (StrotssLoss(lambda x: [x**2], picture, Clock()), GramLoss(lambda x: [x], picture)):
        mixed = loss(shuffled.view_as(picture))
        assert mixed.item() < 0.2 * loss(other).item()  # wherever things are


def test_gram_is_gatys() -> None:
    layer = normal(2, 3, 4, 5)
    for member, matrix in zip(layer, gram(layer), strict=True):
        for i in range(3):
            for j in range(3):
                expected = sum((member[i] * member[j]).flatten().tolist()) / 20
                assert matrix[i, j].item() == pytest.approx(expected, abs=1e-5)
    image, picture = noise(1, 6, 6), noise(1, 6, 6, seed=1)
    value = GramLoss(lambda x: [x], picture)(image).item()
    # Equation 4 with sums: 1/(4 N² M²) Σ (G − A)², N features and M places.
    g, a = (x.flatten(2)[0] @ x.flatten(2)[0].T for x in (image, picture))
    assert value == pytest.approx(((g - a) ** 2).sum().item() / (4 * 3**2 * 36**2), rel=1e-4)


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="places must be at least 1, got 0"):
        StrotssLoss(layers, noise(1, 8, 8), Clock(), places=0)
