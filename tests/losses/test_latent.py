"""Losses of latents and of populations against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from guidance.clock import Clock
from guidance.crops import Crops
from guidance.losses import DiversityLoss, LatentLoss

IMAGES = torch.rand(3, 3, 17, 23, generator=torch.Generator().manual_seed(0))


def test_a_latent_is_held_where_it_was() -> None:
    start = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    latent = torch.nn.Parameter(start.clone())
    loss = LatentLoss(latent)
    assert loss(IMAGES).tolist() == [0, 0, 0]
    with torch.no_grad():
        latent[1] += 0.5
        latent[2, 0, 0] += 4
    assert loss(IMAGES).tolist() == pytest.approx([0, 0.25, 2], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss(IMAGES).sum(), latent)
    torch.testing.assert_close(gradient, 2 * (latent.detach() - start) / 8)


def test_diversity_is_the_mean_cosine_of_all_pairs_of_views(clip) -> None:
    values = DiversityLoss(clip, Crops.clipdraw(Clock(seed=2), k=4))(IMAGES)
    views = Crops.clipdraw(Clock(seed=2), k=4)(IMAGES, clip.image_size)
    seen = [clip.encode_image(member) for member in views]
    for i in range(3):
        cosines = [
            F.cosine_similarity(u, v, dim=0) for j in range(3) if j != i for u in seen[i] for v in seen[j]
        ]
        assert values[i].item() == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-5)


def test_members_go_apart(clip) -> None:
    loss = DiversityLoss(clip, Crops(Clock()))
    squares = IMAGES[..., :17]
    same = (squares[:1] + 0.01 * squares).requires_grad_()
    before = loss(same)
    assert (before > 0.9).all()
    (gradient,) = torch.autograd.grad(before.sum(), same)
    assert (loss(same - gradient / gradient.norm()) < before - 1e-3).all()


def test_one_alone_is_diverse(clip) -> None:
    image = IMAGES[:1].clone().requires_grad_()
    value = DiversityLoss(clip, Crops(Clock()))(image)
    value.sum().backward()
    assert value.tolist() == [0]
    assert not image.grad.any()
