"""CLIP losses against closed forms in float64, and what prompts and crops do to them."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from guidance.clip import load
from guidance.clip.vectors import save_embedding
from guidance.clock import Clock
from guidance.crops import Crops, clean_views
from guidance.errors import InputError
from guidance.losses import ClipLoss, clip_score, cosine_distance, great_circle
from guidance.losses.clip import Encoder, embed
from guidance.media import write_png
from guidance.prompts import Prompt, parse

ANGLES = [0.0, 1e-6, 1e-4, 1e-3, 0.1, 1.0, math.pi / 2, 3.0, math.pi - 1e-3, math.pi - 1e-5]


def at_angle(angle: float, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two unit vectors at an angle, and the direction in which the first moves away from the second."""
    generator = torch.Generator().manual_seed(1)
    v, other = torch.linalg.qr(torch.randn(d, 2, generator=generator, dtype=torch.float64)).Q.T
    u = math.cos(angle) * v + math.sin(angle) * other
    away = -math.sin(angle) * v + math.cos(angle) * other
    return u.to(dtype), v.to(dtype), away.to(dtype)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("d", [2, 512])
def test_great_circle_is_half_the_squared_angle(angle: float, d: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        u, v, away = at_angle(angle, d, dtype)
        # What rounding to float32 made of the angle, from the vectors themselves.
        cross = torch.linalg.vector_norm(
            u.double() - (u.double() @ v.double()) / (v.double() @ v.double()) * v.double()
        )
        exact = math.atan2(cross.item(), (u.double() @ v.double()).item())
        u.requires_grad_()
        value = great_circle(u, v)
        value.backward()
        assert value.item() == pytest.approx(
            exact**2 / 2, rel=1e-5 if dtype == torch.float32 else 1e-9, abs=tolerance * 1e-6
        )
        assert u.grad.isfinite().all()
        # Moving away at unit speed, the angle grows at unit speed: d(θ²/2) = θ.
        assert (u.grad @ away).item() == pytest.approx(exact, rel=1e-3, abs=tolerance)


def test_distances_are_finite_where_they_are_not_smooth() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        v = F.normalize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), dim=-1).to(dtype)
        for sign, angle in ((1, 0.0), (-1, math.pi)):
            u = (sign * v).requires_grad_()
            value = great_circle(u, v)
            (gradient,) = torch.autograd.grad(value.sum(), u)
            assert torch.allclose(value.double(), torch.tensor(angle**2 / 2).double(), atol=1e-5)
            assert gradient.isfinite().all()
            assert gradient.abs().max() < 10


def test_the_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    u = F.normalize(torch.randn(3, 1, 7, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()
    v = F.normalize(torch.randn(2, 7, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()
    for distance in (cosine_distance, great_circle):
        assert distance(u, v).shape == (3, 2)
        assert torch.autograd.gradcheck(distance, (u, v))


def test_autocast_does_not_round_the_distances() -> None:
    u, v, _ = at_angle(1e-3, 512, torch.float32)
    u.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for distance, exact in ((cosine_distance, 5e-7), (great_circle, 5e-7)):
            value = distance(u, v)
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(exact, abs=2e-7 if distance is cosine_distance else 1e-9)
            (gradient,) = torch.autograd.grad(value, u)
            assert gradient.isfinite().all()


def test_a_loss_is_the_weighted_mean_of_its_views_distances(clip) -> None:
    pictures = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    prompts = parse("a fox:3 | snow:-1.0")
    views = Crops.clipdraw(Clock(seed=4), k=3)(pictures, clip.image_size)
    for distance, closed in (
        (cosine_distance, lambda cosine: 1 - cosine),
        (great_circle, lambda cosine: math.acos(cosine) ** 2 / 2),
    ):
        values = ClipLoss(clip, prompts, Crops.clipdraw(Clock(seed=4), k=3), distance)(pictures)
        for i in range(2):
            seen = clip.encode_image(views[i]).double()
            fox, snow = (seen @ clip.encode_text([text])[0].double() for text in ("a fox", "snow"))
            expected = (
                sum(
                    0.75 * closed(f) - 0.25 * closed(s)
                    for f, s in zip(fox.tolist(), snow.tolist(), strict=True)
                )
                / 3
            )
            assert values[i].item() == pytest.approx(expected, abs=1e-5)


def test_crops_come_at_the_encoders_own_size_and_prompts_are_encoded_once(clip) -> None:
    clock = Clock(3)
    loss = ClipLoss(clip, parse("a fox | snow"), Crops.clipdraw(clock))
    for clock.index in range(3):
        loss(torch.rand(1, 3, 40, 40))
    assert clip.sizes == {(16, 16)}
    assert sorted(clip.encoded) == ["a fox", "snow"]


def test_prompts_of_every_kind(clip, tmp_path: Path) -> None:
    picture = torch.zeros(1, 3, 10, 20)
    write_png(tmp_path / "cat.png", picture)
    twice = tuple(range(clip.embed_dim))
    made = embed(
        clip, [*parse(f"a fox:0.5 | @{tmp_path}/cat.png"), Prompt(embedding=tuple(map(float, twice)))]
    )
    padded = torch.ones(1, 3, 20, 20)
    padded[:, :, 5:15] = 0
    square = F.interpolate(padded, size=16, mode="bilinear", antialias=True)
    assert torch.allclose(made[0], clip.encode_text(["a fox"])[0])
    assert F.cosine_similarity(made[1], clip.encode_image(square)[0], dim=0) > 0.99
    assert F.cosine_similarity(made[2], torch.tensor(twice).float(), dim=0) > 0.9999
    assert torch.allclose(made.norm(dim=1), torch.ones(3))


def test_mistakes_are_told(clip, tmp_path: Path) -> None:
    crops = Crops.clipdraw(Clock())
    with pytest.raises(InputError, match="12 numbers, got 3"):
        ClipLoss(clip, [Prompt(embedding=(1.0, 0.0, 0.0))], crops)
    with pytest.raises(InputError, match="missing"):
        ClipLoss(clip, parse(f"@{tmp_path}/missing.png"), crops)
    with pytest.raises(InputError, match="zero"):
        ClipLoss(clip, [Prompt("a fox", weight=0.0)], crops)
    with pytest.raises(InputError, match="none"):
        ClipLoss(clip, [], crops)


def test_the_score_is_the_weighted_cosine_of_clean_views(clip) -> None:
    pictures = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    score = clip_score(clip, parse("a fox:3 | snow:-1.0"), pictures)
    assert not score.requires_grad
    target = 0.75 * clip.encode_text(["a fox"])[0] - 0.25 * clip.encode_text(["snow"])[0]
    views = clean_views(pictures, 16)
    for i in range(3):
        assert torch.allclose(score[i], (clip.encode_image(views[i]) @ target).mean(), atol=1e-6)


def test_guidance_raises_the_score(clip) -> None:
    clock = Clock(30, seed=1)
    picture = torch.full((2, 3, 24, 24), 0.5, requires_grad=True)
    prompts = parse("a fox")
    loss = ClipLoss(clip, prompts, Crops.clipdraw(clock), great_circle)
    before = clip_score(clip, prompts, picture)
    optimizer = torch.optim.Adam([picture], lr=0.05)
    for clock.index in range(30):
        optimizer.zero_grad()
        loss(picture.clamp(0, 1)).sum().backward()
        optimizer.step()
    assert (clip_score(clip, prompts, picture.clamp(0, 1)) > before + 0.3).all()


def test_it_guides_with_a_real_model(model_folder) -> None:
    model = load(f"local-dir:{model_folder('vit')}")
    assert isinstance(model, Encoder)
    picture = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = ClipLoss(model, parse("a red heart | the blue whale:-0.5"), Crops.clipdraw(Clock()))
    before = loss(picture)
    (gradient,) = torch.autograd.grad(before.sum(), picture)
    assert gradient.isfinite().all()
    assert (loss(picture - 0.2 * gradient / gradient.norm()) < before).all()


# Stops, stories, templates and embedding files


def vqgan_clip(seen: torch.Tensor, target: torch.Tensor, weight: float, stop: float) -> torch.Tensor:
    """The gradient of VQGAN-CLIP's prompt to embeddings [k, d]: its formula, its `replace_grad` by hand."""
    seen = seen.detach().requires_grad_()
    sign = math.copysign(1, weight)
    distances = F.normalize(seen, dim=1).sub(F.normalize(target, dim=0)).norm(dim=1).div(2).arcsin()
    distances = distances.pow(2).mul(2) * sign
    (abs(weight) * torch.maximum(distances, torch.tensor(stop)).mean()).backward()
    return seen.grad


@pytest.mark.parametrize(("weight", "away"), [(1.0, 1), (-1.0, -1)])
def test_stops_are_vqgan_clips(clip, weight: float, away: int) -> None:
    picture = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    crops = Crops.clipdraw(Clock(seed=1), k=6)
    distances = great_circle(clip.encode_image(crops(picture, 16)[0]), clip.encode_text(["a fox"])).sort()[0]
    stops = [-math.inf, *(away * (distances[i] + distances[i + 1]).item() / 2 for i in range(5)), away * 4.9]
    target = clip.encode_text(["a fox"])[0]
    for stop in stops:
        if stop == -4.9:
            continue
        image = picture.clone().requires_grad_()
        value = ClipLoss(clip, [Prompt("a fox", weight=weight, stop=stop)], crops, great_circle)(image)
        assert value.item() == pytest.approx(away * distances.mean().item(), abs=1e-5)  # whatever the stop
        (gradient,) = torch.autograd.grad(value.sum(), image)
        seen = clip.encode_image(crops(image, 16)[0])
        (expected,) = torch.autograd.grad(seen, image, vqgan_clip(seen, target, weight, stop))
        assert torch.allclose(gradient, expected, atol=1e-6)
        if stop == 4.9:
            assert not gradient.any()


def test_a_story_goes_on_with_the_clock(clip) -> None:
    clock = Clock(100)
    picture = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    crops = Crops.clipdraw(clock)
    story = ClipLoss(clip, parse("a fox => snow | blurry:-1"), crops)
    for clock.index, line in (
        (0, "a fox | blurry:-1"),
        (50, "a fox | snow | blurry:-2"),
        (56, "a fox:0.26 | snow:0.74 | blurry:-1"),
        (100, "snow | blurry:-1"),
    ):
        assert torch.allclose(story(picture), ClipLoss(clip, parse(line), crops)(picture), atol=1e-6)
    score = clip_score(clip, parse("a fox => snow | blurry:-1"), picture)
    assert torch.equal(score, clip_score(clip, parse("snow | blurry:-1"), picture))


def test_a_scene_that_is_not_seen_costs_nothing(clip) -> None:
    clock, looks = Clock(2), []
    see = clip.encode_image
    clip.encode_image = lambda images: looks.append(len(images)) or see(images)
    loss = ClipLoss(clip, parse("a fox [0,0,0.5,1] => snow [0.5,0,1,1]"), Crops.clipdraw(clock, 3))
    for clock.index, expected in ((0, [3]), (1, [3, 3]), (2, [3])):
        looks.clear()
        loss(torch.rand(1, 3, 20, 20))
        assert looks == expected


def test_templates_are_a_mean_of_unit_embeddings(clip) -> None:
    sentences = ["a photo of a {}.", "the {}", "{}"]
    made = embed(clip, parse("a fox | @me:0.5", sentences)[:1])[0]
    rows = clip.encode_text(["a photo of a a fox.", "the a fox", "a fox"])
    assert torch.allclose(made, F.normalize(rows.mean(0), dim=0), atol=1e-6)
    (one,) = embed(clip, parse("a fox", ["the {}"]))
    assert torch.allclose(one, rows[1])
    with pytest.raises(InputError, match="once, for the label"):
        embed(clip, parse("a fox", ["a photo"]))


def test_a_saved_embedding_is_a_prompt(clip, tmp_path: Path) -> None:
    (fox,) = embed(clip, parse("a fox"))
    for name in ("fox.npy", "fox.safetensors"):
        save_embedding(tmp_path / name, 3 * fox)
        assert torch.allclose(embed(clip, parse(f"@{tmp_path}/{name}"))[0], fox, atol=1e-6)
    save_embedding(tmp_path / "short.npy", fox[:3])
    with pytest.raises(InputError, match=r"12 numbers, got 3 in .*short\.npy"):
        ClipLoss(clip, parse(f"@{tmp_path}/short.npy"), Crops.clipdraw(Clock()))
