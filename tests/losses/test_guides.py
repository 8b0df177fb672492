"""Several CLIPs at once: their names and shares, views of their own, and no dependence on order."""

import copy

import pytest
import torch

import guidance as g
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
