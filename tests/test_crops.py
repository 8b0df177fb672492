"""Crops against independent references: dense supersampling, closed formulas, torch's own resizing."""

from dataclasses import replace
from math import cos, pi, sin, sqrt

import pytest
import torch
import torch.nn.functional as F

from guidance.clock import Clock, linear
from guidance.crops import Crops, clean_views
from guidance.errors import InputError
from guidance.warp import warp

PRESETS = [Crops.clipdraw, Crops.clipasso, Crops.vqgan_clip, Crops.pixray, Crops.aphantasia]


def image(b: int, h: int, w: int) -> torch.Tensor:
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(0))


def zone_plate(side: int) -> torch.Tensor:
    """Rings whose frequency grows from zero in the middle to the highest possible at the edges' middles."""
    at = torch.arange(side) + 0.5 - side / 2
    return (0.5 + 0.5 * torch.cos(pi * (at[:, None] ** 2 + at**2) / side)).expand(1, 3, -1, -1)


def similarity(scale: float, degrees: float, x: float, y: float) -> torch.Tensor:
    c, s = scale * cos(degrees * pi / 180), scale * sin(degrees * pi / 180)
    return torch.tensor([[c, -s, x], [s, c, y], [0, 0, 1]], dtype=torch.float64)


def supersample(picture: torch.Tensor, view: torch.Tensor, size: int, samples: int = 16) -> torch.Tensor:
    """The mean of many bilinear samples of a pixel, gathered tap by tap in float64; white outside of the
    frame."""
    h, w = picture.shape[1:]
    side = size * samples
    ticks = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    x, y = torch.meshgrid(ticks, ticks, indexing="xy")
    x, y, z = view @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    x, y = x / z, y / z
    outside = (x.abs() > 1) | (y.abs() > 1)
    x, y = (x + 1) * w / 2 - 0.5, (y + 1) * h / 2 - 0.5
    total = torch.zeros(3, side**2, dtype=torch.float64)
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            total += weight * picture.double()[:, row.clamp(0, h - 1).long(), column.clamp(0, w - 1).long()]
    return F.avg_pool2d(total.masked_fill(outside, 1.0).view(3, side, side), samples)


def rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


# Warp


def test_plain_views_are_exact() -> None:
    picture, plain = image(2, 64, 64), torch.eye(3, dtype=torch.float64).expand(2, 1, 3, 3)
    assert torch.allclose(warp(picture, plain, 64)[:, 0], picture, atol=1e-6)
    for size in (32, 16, 8):
        assert torch.allclose(warp(picture, plain, size)[:, 0], F.avg_pool2d(picture, 64 // size), atol=1e-6)
    larger = F.interpolate(picture, size=160, mode="bilinear", align_corners=False)
    assert torch.allclose(warp(picture, plain, 160)[:, 0], larger, atol=1e-5)
    odd = F.interpolate(image(1, 17, 23), size=64, mode="bilinear", align_corners=False)
    assert torch.allclose(warp(image(1, 17, 23), plain[:1], 64)[:, 0], odd, atol=1e-5)


@pytest.mark.parametrize("size", [24, 37, 64, 100])
@pytest.mark.parametrize("scale", [0.3, 0.9])
def test_views_match_dense_supersampling(size: int, scale: float) -> None:
    picture = zone_plate(128)
    view = similarity(scale, 20, 0.1, -0.2)
    view[2, :2] = torch.tensor([0.1, -0.15])
    seen = warp(picture, view[None, None], size)[0, 0]
    one_sample = supersample(picture[0], view, size, 1)
    if 128 * scale <= size:  # enlarged: one sample a pixel is right
        assert rms(seen - one_sample) < 1e-4
    else:
        reference = supersample(picture[0], view, size)
        assert rms(seen - reference) < 0.35 * rms(one_sample - reference)


@pytest.mark.parametrize("zoom", [1.7, 2, 3, 3.5, 5, 8])
def test_a_shrunken_checkerboard_is_grey(zoom: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    checker = ((rows + columns) % 2).float().expand(1, 3, -1, -1)
    view = similarity(0.6, 11, 0, 0)  # within the frame
    size = round(224 * 0.6 / zoom)
    assert rms(warp(checker, view[None, None], size) - 0.5) < 0.06
    assert rms(supersample(checker[0], view, size, 1) - 0.5) > 0.15


def test_what_is_outside_has_the_colour_of_the_fill() -> None:
    views = torch.stack([similarity(2.0, 0, 0, 0), similarity(1.0, 0, 5.0, 0)])[None]
    seen = warp(torch.zeros(1, 3, 40, 40), views, 40, fill=(1.0, 0.5, 0.25))
    fill = torch.tensor([1.0, 0.5, 0.25])[:, None]
    assert torch.allclose(seen[0, 0, :, 0], fill)
    assert torch.allclose(seen[0, 0, :, 20, 15:25], torch.zeros(()), atol=1e-6)
    assert torch.allclose(seen[0, 1].flatten(1), fill)


def test_what_is_behind_the_horizon_is_outside() -> None:
    view = torch.eye(3, dtype=torch.float64)
    view[2] = torch.tensor([0.0, 1.0, 0.0])  # the view's upper half is behind
    seen = warp(torch.zeros(1, 3, 40, 40), view[None, None], 40)
    assert seen.isfinite().all()
    assert (seen[0, 0, :, :19] == 1).all()


def test_gradient_is_the_transpose_of_the_warp() -> None:
    crops = Crops.pixray(Clock(seed=3), k=6)
    crops = replace(crops, noise=0.0, saturation=0.0, hue=0.0)  # linear then, but for the fill
    picture = image(2, 33, 47).requires_grad_()
    weights = torch.rand(2, 6, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((crops(picture, 20) * weights).sum(), picture)
    step = image(2, 33, 47).flip(0)
    change = ((crops(picture + step, 20) - crops(picture, 20)) * weights).sum()
    assert torch.allclose((gradient * step).sum(), change, rtol=1e-4)


# Crops


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_step_gives_the_same_picture_and_gradient_bit_by_bit(preset) -> None:
    runs = []
    for _ in range(3):
        picture = image(2, 48, 64).requires_grad_()
        seen = preset(Clock(10, seed=5, index=3), k=5)(picture, 32)
        seen.square().sum().backward()
        runs.append((seen.detach(), picture.grad))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
    clock = Clock(10, seed=5, index=3)
    crops = preset(clock, k=5)
    clock.index = 4
    assert not torch.equal(crops(image(2, 48, 64), 32), runs[0][0])


@pytest.mark.parametrize("preset", PRESETS)
def test_more_views_leave_the_first_as_they_are(preset) -> None:
    picture = image(2, 40, 40)
    many = preset(Clock(seed=1), k=19)(picture, 24)
    for k in (1, 2, 7):
        assert torch.allclose(preset(Clock(seed=1), k=k)(picture, 24), many[:, :k], atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_member_of_a_population_sees_what_a_single_image_sees(preset) -> None:
    pictures = image(3, 40, 56)
    together = preset(Clock(seed=7), k=4)(pictures, 24)
    for i in range(3):
        alone = preset(Clock(seed=7 + i), k=4)(pictures[i : i + 1], 24)
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(17, 23), (64, 64), (1, 40)])
def test_views_are_finite_and_in_range(preset, shape: tuple[int, int]) -> None:
    for seed in range(5):
        seen = replace(preset(Clock(seed=seed), k=30), noise=0.0)(image(1, *shape), 16)
        assert seen.shape == (1, 30, 3, 16, 16)
        assert seen.dtype == torch.float32
        assert seen.min() > -1e-6
        assert seen.max() < 1 + 1e-6


def corners(crops: Crops, side: int = 200) -> torch.Tensor:
    """Where the views' pixels lie in the image, [k, 2, size, size]: seen in an image of its own
    coordinates."""
    ticks = (torch.arange(side) + 0.5) / side
    x, y = torch.meshgrid(ticks, ticks, indexing="xy")
    return crops(torch.stack([x, y, torch.zeros_like(x)])[None], 50)[0, :, :2]


def test_boxes_are_those_of_a_random_resized_crop() -> None:
    places = corners(Crops(Clock(seed=2), k=400, scale=(0.3, 0.6), ratio=(0.5, 2.0)))
    # 49 of 50 pixels lie between the centres of the first and the last.
    sides = (places[..., -1, -1] - places[..., 0, 0]) * 50 / 49
    areas, ratios = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert 0.29 < areas.min() < 0.31
    assert 0.59 < areas.max() < 0.61
    assert abs(areas.mean() - 0.45) < 0.02
    assert 0.49 < ratios.min() < 0.6
    assert 1.8 < ratios.max() < 2.02
    assert abs(ratios.log().mean()) < 0.06
    assert (places > -0.01).all()
    assert places.amax() < 1.01


def test_a_wide_frame_gives_undistorted_boxes_and_padded_wholes() -> None:
    wide = torch.zeros(1, 3, 30, 90)
    assert (Crops(Clock(), k=20, scale=(0.1, 0.3))(wide, 16) == 0).all()
    whole = Crops(Clock(), whole=1.0)(wide, 30)[0, 0]
    assert (whole[:, 10:20] == 0).all()
    assert (whole[:, :9] == 1).all()
    assert (whole[:, 21:] == 1).all()


def test_flips_happen_as_often_as_asked() -> None:
    places = corners(Crops(Clock(seed=1), k=300, flip=0.3))
    mirrored = places[:, 0, 0, 0] > places[:, 0, 0, -1]
    assert abs(mirrored.float().mean() - 0.3) < 0.08
    assert torch.allclose(places[mirrored][0], places[~mirrored][0].flip(-1), atol=1e-5)


def test_corners_move_inwards_by_no_more_than_the_perspective() -> None:
    white, black = torch.ones(1, 3, 64, 64), (0.0, 0.0, 0.0)
    seen = Crops(Clock(seed=1), k=100, perspective=0.5, fill=black)(white, 64)[0, :, 0]
    assert (seen[:, 17:-17, 17:-17] > 0.999).all()
    assert (seen[:, 0, 0] < 0.5).float().mean() > 0.9
    partly = Crops(Clock(seed=1), k=300, perspective=0.5, perspective_p=0.4, fill=black)
    untouched = (partly(white, 32)[0] > 0.999).flatten(1).all(1)
    assert abs(untouched.float().mean() - 0.6) < 0.08


def test_turns_keep_angles_in_a_frame_that_is_not_square() -> None:
    h, w = 60, 120
    y, x = torch.meshgrid(torch.arange(h) / w, torch.arange(w) / w, indexing="ij")
    crops = Crops(Clock(seed=4), k=50, rotation=30.0, scale=(0.1, 0.1))
    places = crops(torch.stack([x, y, x * 0])[None], 20)[0, :, :2]
    across = places[:, :, 10, 12] - places[:, :, 10, 8]
    down = places[:, :, 12, 10] - places[:, :, 8, 10]
    inside = ((places > 0) & (places < 1)).flatten(1).all(1)
    assert inside.sum() > 5
    turned = (torch.atan2(across[:, 1], across[:, 0]) * 180 / pi)[inside]
    assert (across * down).sum(1)[inside].abs().max() < 1e-4
    assert 10 < turned.abs().max() < 30.5


def test_colour_jitter_matches_the_formulas_one_by_one() -> None:
    picture = 0.2 + 0.5 * image(1, 24, 24)  # nothing is clamped
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for name in ("brightness", "contrast", "saturation"):
        seen = Crops(Clock(seed=3), k=6, **{name: 0.3})(picture, 24)[0]
        plain = Crops(Clock(seed=3), k=6)(picture, 24)[0]
        pivot = {
            "brightness": torch.zeros(6, 1, 1, 1),
            "contrast": (plain * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True),
            "saturation": (plain * luma).sum(1, keepdim=True),
        }[name]
        factors = []
        for view, before, fixed in zip(seen, plain, pivot, strict=True):
            factor = ((view - fixed) * (before - fixed)).sum() / (before - fixed).square().sum()
            assert torch.allclose(view, fixed + factor * (before - fixed), atol=1e-4)
            factors.append(factor.item())
        assert min(factors) > 0.7
        assert max(factors) < 1.3
        assert max(factors) - min(factors) > 0.1


def test_hue_turns_chroma_and_keeps_luma_and_grey() -> None:
    crops = Crops(Clock(seed=3), k=40, hue=0.08)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    pale = 0.4 + 0.2 * image(1, 16, 16)
    change = crops(pale, 16)[0] - Crops(Clock(seed=3))(pale, 16)[0]
    assert (change * luma).sum(1).abs().max() < 1e-5
    assert change.abs().max() > 0.02
    assert (crops(torch.full((1, 3, 16, 16), 0.3), 16) - 0.3).abs().max() < 1e-5


def test_grey_views_have_no_colour() -> None:
    seen = Crops(Clock(seed=3), k=200, grey=0.25)(image(1, 8, 8), 8)[0]
    share = ((seen.amax(1) - seen.amin(1)).amax((1, 2)) < 1e-5).float().mean()
    assert abs(share - 0.25) < 0.08


def test_erased_boxes_have_the_area_and_colour_asked_for() -> None:
    crops = Crops(Clock(seed=3), k=200, erasing=(0.1, 0.4), erasing_p=0.5, fill=(1.0, 0.0, 0.5))
    seen = crops(torch.full((1, 3, 64, 64), 0.25), 64)[0]
    erased = (seen - 0.25).abs().amax(1) > 0.01
    shares = erased.float().mean((1, 2))
    hit = shares > 0
    assert abs(hit.float().mean() - 0.5) < 0.1
    assert shares.max() < 0.42
    assert shares[hit].quantile(0.1) > 0.08
    assert (seen.transpose(0, 1)[:, erased] == torch.tensor([1.0, 0.0, 0.5])[:, None]).all()


def test_noise_has_a_strength_that_follows_its_schedule() -> None:
    clock = Clock(10, seed=3)
    crops = Crops(clock, k=200, noise=linear(0.2, 0.0))
    flat = torch.full((1, 3, 32, 32), 0.5)
    deviations = (crops(flat, 32) - 0.5)[0].flatten(1).std(1)
    assert abs(deviations.mean() - 0.1) < 0.012
    assert 0.18 < deviations.max() < 0.21
    clock.index = 5
    assert abs((crops(flat, 32) - 0.5)[0].flatten(1).std(1).mean() - 0.05) < 0.006
    clock.index = 10
    assert torch.equal(crops(flat, 32), flat[:, None].expand(1, 200, 3, 32, 32))


def test_clean_views_show_the_whole_frame() -> None:
    picture = torch.zeros(1, 3, 40, 80)
    seen = clean_views(picture, 40, spans=(1.0, 0.5, 2.0))[0]
    assert [round(1 - view.mean().item(), 2) for view in seen] == [0.5, 1.0, 0.12]
    assert torch.equal(Crops(Clock(), whole=1.0)(picture, 40)[0, 0], seen[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"k": 10**11},
        {"rotation": float("nan")},
        {"shear": -1.0},
        {"translation": float("inf")},
        {"brightness": -0.1},
        {"hue": float("nan")},
        {"noise": -1.0},
        {"noise": linear(0.1, -0.1)},
        {"noise": float("nan")},
        {"fill": (9.0, 9.0, 9.0)},
        {"fill": (0.0, float("nan"), 0.0)},
        {"perspective": 1.0},
        {"perspective": -0.1},
        {"scale": (0.0, 0.5)},
        {"scale": (0.9, 0.7)},
        {"scale": (0.5, linear(0.6, 0.4))},
        {"ratio": (0.0, 1.0)},
        {"flip": 1.5},
        {"erasing": (0.4, 0.1)},
        {"erasing_p": -1.0},
    ],
)
def test_mistakes_are_told(wrong: dict) -> None:
    with pytest.raises(
        InputError, match=next(iter(wrong)) if "k" not in wrong else "crops must be from 1 to"
    ):
        Crops(Clock(), **wrong)


def test_scale_follows_its_schedule() -> None:
    clock = Clock(2)
    crops = Crops(clock, scale=(linear(1.0, 0.25), linear(1.0, 0.25)))
    sides = []
    for clock.index in (0, 1, 2):
        places = corners(crops)
        sides.append(((places[0, 0, -1, -1] - places[0, 0, 0, 0]) * 50 / 49).item())
    assert sides == pytest.approx([1, sqrt(0.625), 0.5], abs=0.01)
