"""Where sketches begin: the axioms of integrated gradients, scipy's Gaussian, and chances that add up."""

import pytest
import torch
from scipy import ndimage

from guidance.clip import load
from guidance.clip.salient import blur, outlines, relevance, salience, salient_places
from guidance.clock import Clock
from guidance.errors import InputError


def noise(h: int, w: int) -> torch.Tensor:
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))


def disc(size: int) -> torch.Tensor:
    """A blue disc in the upper left quarter of a white picture."""
    grid = (torch.arange(size) + 0.5) / size
    inside = (grid - 0.3) ** 2 + (grid[:, None] - 0.3) ** 2 < 0.04
    picture = torch.ones(1, 3, size, size)
    picture[:, :2, inside] = 0.2
    return picture


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_relevance_sums_to_what_the_picture_adds_to_white_paper(model_folder, kind: str) -> None:
    clip = load(f"local-dir:{model_folder(kind)}")
    picture = noise(40, 40)
    seen, paper = clip.encode_image(torch.cat([picture, torch.ones_like(picture)]))
    found = relevance(clip, picture, steps=24)
    assert found.shape == (40, 40)
    assert found.sum().item() == pytest.approx((1 - seen @ paper).item(), rel=0.05, abs=1e-4)


def test_white_paper_is_not_relevant(model_folder) -> None:
    clip = load(f"local-dir:{model_folder('vit')}")
    picture = disc(32)
    found = relevance(clip, picture)
    assert not found[(picture == 1).all(1)[0]].any()
    assert found.abs().sum() > 0


def test_a_blur_is_scipys() -> None:
    picture = noise(17, 23)
    for sigma in (0.8, 3.0):
        for plane, blurred in zip(picture[0], blur(picture, sigma)[0], strict=True):
            expected = ndimage.gaussian_filter(plane.numpy(), sigma, mode="nearest")
            torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("broad", [False, True])
def test_outlines_are_inside_the_edge_of_what_is_darker(broad: bool) -> None:
    size = 224
    lines = outlines(disc(size), broad=broad)
    assert lines.min() >= 0
    assert lines.max() <= 1
    grid = (torch.arange(size) + 0.5) / size
    radius = ((grid - 0.3) ** 2 + (grid[:, None] - 0.3) ** 2).sqrt()
    assert lines[(radius > 0.185) & (radius < 0.195)].min() > 0.9
    assert lines[radius > 0.21].max() < 0.01
    assert lines[radius < (0.1 if broad else 0.17)].max() < (1 if broad else 0.01)
    assert not outlines(torch.full((1, 3, 30, 30), 0.5)).any()


def test_places_are_drawn_by_the_softmax_where_there_is_salience() -> None:
    chart = torch.tensor([[0.0, 0.2], [0.5, 1.0]])
    drawn = torch.cat([salient_places(chart, 1, Clock(seed=seed))[0] for seed in range(2000)])
    counts = [(drawn == torch.tensor(place)).all(1).float().mean().item() for place in
              ([0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75])]  # fmt: skip
    chances = torch.softmax(torch.tensor([0.2, 0.5, 1.0]) / 0.3, 0).tolist()
    assert counts[0] == 0
    assert counts[1:] == pytest.approx(chances, abs=0.04)
    # All four are different, though one has no chance while there are others.
    assert len(salient_places(chart, 4, Clock())[0].unique(dim=0)) == 4


@pytest.mark.parametrize("n", [0, -1, 5])
def test_more_places_than_pixels_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"from 1 to as many places, got {n}"):
        salient_places(torch.ones(2, 2), n, Clock())


def test_places_are_of_their_member_and_of_the_clocks_beginning() -> None:
    chart = noise(20, 30)[0, 0]
    together = salient_places(chart, 5, Clock(9, seed=3, index=4), b=3)
    assert together.shape == (3, 5, 2)
    assert together[..., 1].max() < 20 / 30
    for i in range(3):
        assert torch.equal(salient_places(chart, 5, Clock(9, seed=3 + i))[0], together[i])


def test_salience_is_on_the_lines_only(model_folder) -> None:
    clip = load(f"local-dir:{model_folder('vit')}")
    picture = disc(64)
    lines = outlines(picture)
    chart = salience(clip, picture, lines)
    assert chart.max() > 0
    assert (chart <= lines).all()
    assert not chart[lines == 0].any()
