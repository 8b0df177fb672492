"""Pixels: how they begin and grow, and what the clamp lets through."""

import pytest
import torch

from guidance.canvas import Pixels
from guidance.clock import Clock, at
from guidance.errors import InputError
from guidance.optimization import optimize
from guidance.starting import fit


def picture(height: int, width: int) -> torch.Tensor:
    """Three diagonal colour ramps and a black bar one pixel wide."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width).expand(height, width)
    image = torch.stack([x, y, 1 - x])[None]
    image[..., width // 3] = 0
    return image


def test_a_picture_has_its_size_whatever_the_levels() -> None:
    assert Pixels((37, 50), Clock(), levels=5)().shape == (1, 3, 37, 50)
    assert [tuple(level.shape[2:]) for level in Pixels((37, 50), Clock(), levels=3).levels] == [
        (10, 13),
        (19, 25),
        (37, 50),
    ]
    assert Pixels((2, 3), Clock(), levels=16)().shape == (1, 3, 2, 3)


def test_it_begins_with_its_colour_and_noise() -> None:
    plain = Pixels(24, Clock(), colour=(0.2, 0.4, 0.6), noise=0)()
    torch.testing.assert_close(plain, torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(1, 3, 24, 24))
    noisy = Pixels((200, 200), Clock(), colour=(0.5, 0.5, 0.5), noise=0.1, levels=1)()
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noisy.std().item() == pytest.approx(0.1, abs=0.005)
    assert torch.equal(Pixels(9, Clock(10, index=6))(), Pixels(9, Clock(10))())


def test_the_image_is_the_sum_of_the_enlarged_levels() -> None:
    canvas = Pixels(8, Clock(), levels=2, colour=(0.5, 0.5, 0.5), noise=0)
    with torch.no_grad():
        canvas.levels[0][0, 0, 1, 1] += 0.25
        canvas.levels[1][0, 1, 2, 3] -= 0.5
    image = canvas()[0].detach() - 0.5
    # Bilinear: a cell's weights along an axis, at twice the size, are 1/4, 3/4, 3/4, 1/4.
    tent = torch.tensor([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0])
    torch.testing.assert_close(image[0], 0.25 * tent[:, None] * tent)
    assert image[1, 2, 3] == -0.5
    assert image[1].count_nonzero() == 1


def test_coarse_levels_move_first_and_all_in_the_end() -> None:
    rates = [group["lr"] for group in Pixels(64, Clock(), levels=4, growth=0.6, lr=1.0).param_groups()]

    def awake(progress: float) -> int:
        return sum(at(rate, progress) > 0.02 for rate in rates)

    assert [awake(progress) for progress in (0.05, 0.25, 0.45, 0.65, 1.0)] == [1, 2, 3, 4, 4]
    assert all(at(rate, 1.0) == pytest.approx(0.2) for rate in rates)


def test_growing_draws_large_forms_before_details() -> None:
    """Halfway, the picture is blurred; a pyramid without growth has the bar by then."""

    def bar(growth: float) -> float:
        clock = Clock(60)
        canvas = Pixels((33, 48), clock, growth=growth)
        target = picture(33, 48)
        for step in optimize(canvas, {"l2": lambda i: (i - target).square().mean((1, 2, 3))}, clock):
            if step.index == 25:
                break
        image = canvas()[0].detach()
        return (image[:, :, 14] + image[:, :, 18] - 2 * image[:, :, 16]).mean().item()

    assert bar(1.0) < 0.5 * bar(0.0)


def test_it_fits_a_picture_to_its_pixels() -> None:
    canvas = Pixels((33, 48), Clock(), b=2)
    fit(canvas, picture(33, 48), Clock(80))
    assert (canvas() - picture(33, 48)).abs().mean((1, 2, 3)).max() < 0.02


def test_the_clamp_lets_back_in_and_not_further_out() -> None:
    canvas = Pixels((2, 4), Clock(), levels=1, colour=(0, 0, 0), noise=0)
    with torch.no_grad():
        canvas.levels[0][:] = torch.tensor([1.5, 1.5, -0.5, -0.5])
    wanted = torch.tensor([1.0, -1.0, 1.0, -1.0])  # a gradient; descent goes the other way
    image = canvas()
    (image * wanted).sum().backward()
    assert image.detach()[0, 0, 0].tolist() == [1, 1, 0, 0]
    assert canvas.levels[0].grad is not None
    assert canvas.levels[0].grad[0, 0, 0].tolist() == [1, 0, 0, -1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": (1, 8)},
        {"size": (5, 20000)},
        {"b": 0},
        {"levels": 0},
        {"levels": 17},
        {"growth": 1.1},
        {"noise": float("nan")},
        {"noise": float("inf")},
        {"lr": 0.0},
        {"colour": (0.0, 0.0, 2.0)},
    ],
    ids=str,
)
def test_bad_arguments_are_input_errors(arguments: dict) -> None:
    with pytest.raises(InputError, match=next(iter(arguments)) if "b" not in arguments else "population"):
        Pixels(**({"size": 20, "clock": Clock()} | arguments))
