"""The directional loss against the paper's formula, and where it has no direction."""

import pytest
import torch
import torch.nn.functional as F

from guidance.clock import Clock
from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses import DirectionalLoss
from guidance.losses.clip import embed
from guidance.media import write_png
from guidance.prompts import parse


def pictures(b: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(b, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_papers(clip) -> None:
    image, source = pictures(2), pictures(2, seed=1)
    crops = Crops.clipdraw(Clock(seed=3), k=3)
    values = DirectionalLoss(clip, source, parse("a dog"), parse("a cat"), crops)(image)
    text = clip.encode_text(["a cat"])[0] - clip.encode_text(["a dog"])[0]
    for i in range(2):
        change = clip.encode_image(crops(image, 16)[i]) - clip.encode_image(crops(source, 16)[i])
        cosine = F.cosine_similarity(change, text[None])
        # Without the paper's zero over zero: exact by the lengths that there are.
        length = change.norm(dim=-1)
        expected = 1 - cosine * length / (length**2 + 0.05**2).sqrt()
        assert length.min() > 0.2  # so that the two are nearly the same
        assert values[i].item() == pytest.approx(expected.mean().item(), abs=1e-5)
        assert values[i].item() == pytest.approx(1 - cosine.mean().item(), abs=0.03)


def test_pictures_and_weights_give_a_direction_too(clip, tmp_path) -> None:
    write_png(tmp_path / "cat.png", pictures(1, seed=2))
    views = Crops(Clock())
    loss = DirectionalLoss(clip, pictures(1), parse("a dog:3 | fog:-1"), parse(f"@{tmp_path}/cat.png"), views)
    dog, fog = clip.encode_text(["a dog", "fog"])
    text = embed(clip, parse(f"@{tmp_path}/cat.png"))[0] - (0.75 * dog - 0.25 * fog)
    change = clip.encode_image(views(pictures(1, 5), 16)[0]) - clip.encode_image(views(pictures(1), 16)[0])
    expected = 1 - change @ F.normalize(text, dim=0) / (change.square().sum() + 0.05**2).sqrt()
    assert loss(pictures(1, 5)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_it_is_finite_and_has_a_way_to_go_at_the_source(clip) -> None:
    image = pictures(2).requires_grad_()
    loss = DirectionalLoss(clip, image, parse("a dog"), parse("a cat"), Crops.clipdraw(Clock()))
    value = loss(image)
    assert value.tolist() == [1.0, 1.0]
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 100
    assert (loss(image - 0.1 * gradient / gradient.norm()) < value).all()


def test_a_source_of_another_size_is_seen_by_the_same_views(clip) -> None:
    # Nothing but boxes, which look the same at any size where the picture is plain.
    views, args = Crops(Clock(), 3, scale=(0.3, 0.8)), (parse("a dog"), parse("a cat"))
    values = [
        DirectionalLoss(clip, torch.full((1, 3, side, side), 0.3), *args, views)(pictures(2))
        for side in (8, 40)
    ]
    assert torch.allclose(*values, atol=1e-5)


def test_no_change_is_refused(clip) -> None:
    with pytest.raises(InputError, match="mean the same"):
        DirectionalLoss(clip, pictures(1), parse("a cat"), parse("a cat"), Crops(Clock()))
