"""Losses of pixels against loops, colorsys and scipy."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from guidance.errors import InputError
from guidance.losses import EdgeLoss, PaletteLoss, SymmetryLoss, out_of_range, saturation, total_variation
from guidance.losses.image import edges


def noise(h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed))


def test_total_variation_is_the_mean_difference_of_neighbours() -> None:
    picture = noise(5, 7)
    for member, value in zip(picture, total_variation(picture), strict=True):
        pairs = [
            abs(float(member[c, y, x]) - float(member[c, y + dy, x + dx]))
            for c in range(3)
            for y in range(5)
            for x in range(7)
            for dy, dx in ((0, 1), (1, 0))
            if y + dy < 5 and x + dx < 7
        ]
        assert value.item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    # Noise costs the same at every size: a third, the mean distance of two uniform numbers.
    assert total_variation(noise(200, 300)).tolist() == pytest.approx([1 / 3] * 2, rel=0.02)


def test_out_of_range_sees_only_what_is_beyond() -> None:
    picture = torch.full((2, 3, 2, 2), 0.5)
    picture[0, 0, 0, 0], picture[1, 2, 1, 1] = 1.5, -1.0
    assert out_of_range(picture).tolist() == pytest.approx([0.25 / 12, 1 / 12])
    assert out_of_range(noise(9, 9)).tolist() == [0, 0]


def test_saturation_is_the_chroma_of_hsv() -> None:
    picture = noise(5, 7)
    for member, value in zip(picture, saturation(picture), strict=True):
        hsv = [colorsys.rgb_to_hsv(*rgb) for rgb in member.flatten(1).T.tolist()]
        assert value.item() == pytest.approx(sum(s * v for _, s, v in hsv) / len(hsv), rel=1e-5)


def test_a_mirror_image_is_what_its_axis_says() -> None:
    left = noise(6, 5)
    both = torch.cat([left, left.flip(3)], 3)
    assert SymmetryLoss("horizontal")(both).tolist() == [0, 0]
    assert (SymmetryLoss("vertical")(both) > 0.05).all()
    assert SymmetryLoss("vertical")(both.mT).tolist() == [0, 0]
    # Independent uniform pixels differ by 1/6 in the mean square.
    assert SymmetryLoss()(noise(200, 200)).tolist() == pytest.approx([1 / 6] * 2, rel=0.02)


def test_a_palette_is_met_at_its_colours_only() -> None:
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 1.0], [1.0, 1.0, 1.0]])
    loss = PaletteLoss(colours)
    painted = colours[torch.arange(12).view(3, 4) % 3].permute(2, 0, 1)[None].requires_grad_()
    value = loss(painted)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value.sum(), painted)
    assert not gradient.any()
    picture = noise(5, 7)
    pixels = picture.flatten(2).mT[:, :, None] - colours
    nearest = pixels.square().sum(-1).amin(-1).mean(-1)
    torch.testing.assert_close(loss(picture), nearest)


def test_edges_are_sobels() -> None:
    picture = noise(17, 23)
    for plane, strength in zip(picture.flatten(0, 1), edges(picture).flatten(0, 1), strict=True):
        gx, gy = (ndimage.sobel(plane.numpy(), axis, mode="nearest") / 4 for axis in (1, 0))
        torch.testing.assert_close(strength, torch.from_numpy(np.hypot(gx, gy)), atol=1e-3, rtol=0)


def test_edges_draw_an_outline_to_its_place() -> None:
    def disc(x: float, colours: tuple[float, float]) -> torch.Tensor:
        grid = torch.linspace(-1, 1, 48)
        inside = ((grid - x) ** 2 + grid[:, None] ** 2 < 0.3).float()
        return (colours[0] * inside + colours[1] * (1 - inside)).expand(1, 3, -1, -1)

    loss = EdgeLoss(disc(0.0, (1.0, 0.2)))
    values = [loss(disc(x, (0.2, 1.0))).item() for x in (0.0, 0.1, 0.2, 0.3)]
    assert values[0] < 1e-9  # the same outline in other colours
    assert values == sorted(values)
    assert all(late > early + 1e-3 for early, late in pairwise(values))


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="horizontal or vertical"):
        SymmetryLoss("diagonal")
    for colours in (
        torch.empty(0, 3),
        torch.tensor([[0.0, 0.0, 1.5]]),
        torch.tensor([[0.0, 0.0, torch.nan]]),
    ):
        with pytest.raises(InputError, match="palette"):
            PaletteLoss(colours)
