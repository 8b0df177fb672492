"""Several CLIPs at once: their names and shares, views of their own, and no dependence on order."""

import copy

import pytest
import torch

import guidance as g
from guidance.clock import at
from guidance.errors import InputError

PICTURES = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def guides(clip) -> dict:
    other = copy.deepcopy(clip)
    other.kernels = other.kernels.flip(0)
    return {"a": (0.25, clip), "b": (0.75, other)}


def test_models_come_with_their_shares_in_the_order_of_their_names(model_folder) -> None:
    vit, resnet = (f"local-dir:{model_folder(kind)}" for kind in ("vit", "resnet"))
    for line in (f"{vit}:1.5 | {resnet}:0.5", f" {resnet}:0.5|{vit}:1.5 "):
        guides = g.load_guides(line)
        assert [(name, share) for name, (share, _) in guides.items()] == [(resnet, 0.25), (vit, 0.75)]
        assert all(clip.name == name for name, (_, clip) in guides.items())


def test_a_model_by_two_names_is_told(model_folder) -> None:
    folder = model_folder("vit")
    with pytest.raises(InputError, match="guides once"):
        g.load_guides(f"local-dir:{folder} | local-dir:{folder.parent}/../{folder.parent.name}/{folder.name}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "empty"),
        ("tiny |", "empty"),
        ("tiny | tiny:0.5", "twice"),
        ("tiny:-1", "positive"),
        ("tiny:0.0", "positive"),
        ("tiny:nan", "positive"),
        ("tiny:inf", "positive"),
        ("tinny", "did you mean tiny"),
        ("tiny | ViT-B/33", "ViT-B/3"),
    ],
)
def test_mistakes_are_told_in_one_line(line: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        g.load_guides(line)
    assert "\n" not in str(error.value)


def test_one_guide_sees_the_views_as_they_are(clip) -> None:
    prompts, views = g.parse("a fox | snow:-0.5"), g.Crops.clipdraw(g.Clock(seed=3))
    losses = g.clip_losses({"tiny": (1.0, clip)}, prompts, views)
    assert losses.keys() == {"clip"}
    share, loss = losses["clip"]
    assert share == 1.0
    assert torch.equal(loss(PICTURES), g.ClipLoss(clip, prompts, views)(PICTURES))


def test_every_guide_has_views_of_its_own_whatever_the_order(guides) -> None:
    prompts, views = g.parse("a fox"), g.Crops.clipdraw(g.Clock(seed=3))
    losses = g.clip_losses(guides, prompts, views)
    turned = g.clip_losses(dict(reversed(guides.items())), prompts, views)
    assert list(losses) == list(turned) == ["clip/a", "clip/b"]
    seen = []
    for name, (share, loss) in losses.items():
        assert share == turned[name][0] == guides[name[-1]][0]
        assert torch.equal(loss(PICTURES), turned[name][1](PICTURES))
        seen.append(loss.crops(PICTURES, 16))
    assert not torch.allclose(seen[0], seen[1])


def test_the_same_guide_alone_and_beside_another_has_the_same_loss_of_its_views(guides) -> None:
    losses = g.clip_losses(guides, g.parse("a fox"), g.Crops(g.Clock()))  # whole frames: nothing is drawn
    for name, (_, loss) in losses.items():
        alone = g.ClipLoss(guides[name[-1]][1], g.parse("a fox"), g.Crops(g.Clock()))
        assert torch.equal(loss(PICTURES), alone(PICTURES))


def test_the_score_is_the_mean_by_shares(guides) -> None:
    prompts = g.parse("a fox:2 | snow:-1.0")
    expected = sum(share * g.clip_score(clip, prompts, PICTURES) for share, clip in guides.values())
    assert torch.allclose(g.guide_score(guides, prompts, PICTURES), expected)
    turned = dict(reversed(guides.items()))
    assert torch.equal(g.guide_score(turned, prompts, PICTURES), g.guide_score(guides, prompts, PICTURES))


def test_separate_prompts_have_the_same_sum_at_every_moment(guides) -> None:
    clock = g.Clock(10, seed=3)
    prompts = g.parse("a fox:2 => snow | blurry [0,0,0.5,1]:-0.5:-0.9 | a fox")
    views = g.Crops.clipdraw(clock, 2)
    whole = g.clip_losses(guides, prompts, views)
    parts = g.clip_losses(guides, prompts, views, separate=True)
    assert [name for name in parts if name.startswith("clip/a/")] == [
        "clip/a/1 a fox",
        "clip/a/2 snow",
        "clip/a/3 blurry [0.0,0.0,0.5,1.0]",
        "clip/a/4 a fox",
    ]
    for clock.index in (0, 5, 10):
        sums = []
        for losses in (whole, parts):
            image = PICTURES.clone().requires_grad_()
            value = sum(at(weight, clock.progress) * loss(image) for weight, loss in losses.values())
            sums.append((value, *torch.autograd.grad(value.sum(), image)))
        for here, there in zip(*sums, strict=True):
            assert torch.allclose(here, there, atol=1e-6)


def test_the_steps_report_how_far_prompts_agree(clip) -> None:
    clock = g.Clock(1)
    prompts = g.parse("a fox | a fox:2 | a fox:-1")
    losses = g.clip_losses({"tiny": (1.0, clip)}, prompts, g.Crops.clipdraw(clock), separate=True)
    (step,) = g.optimize(g.Strokes(3, 24, clock), losses, clock, report=True)
    first, second, away = losses
    assert step.report.cosines[first, second].item() == pytest.approx(1, abs=1e-5)
    assert step.report.cosines[first, away].item() == pytest.approx(-1, abs=1e-5)
