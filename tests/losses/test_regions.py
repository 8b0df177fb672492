"""Prompts that act in a part of the picture: nothing else moves, and nothing else is seen."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from guidance.clock import Clock
from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses import ClipLoss, clip_score
from guidance.losses.regions import Region
from guidance.media import write_png
from guidance.prompts import parse


def pictures(b: int = 2, h: int = 24, w: int = 30) -> torch.Tensor:
    return torch.rand(b, 3, h, w, generator=torch.Generator().manual_seed(0))


def gradient(clip, line: str, images: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    loss = ClipLoss(clip, parse(line), Crops.pixray(Clock(seed=2), 6))
    return torch.autograd.grad(loss(images).sum(), images)[0].abs().sum((0, 1))


@pytest.fixture
def disc(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(24), torch.arange(30), indexing="ij")
    inside = (y - 10) ** 2 + (x - 20) ** 2 < 36
    write_png(tmp_path / "disc.png", inside.float().expand(1, 3, -1, -1))
    return tmp_path / "disc.png", inside


def test_nothing_moves_outside_of_a_box(clip) -> None:
    moved = gradient(clip, "a fox [0.2,0.25,0.7,1]", pictures())
    inside = torch.zeros(24, 30, dtype=torch.bool)
    inside[6:24, 6:21] = True
    assert (moved[~inside] == 0).all()
    assert (moved[inside] > 0).float().mean() > 0.9


def test_nothing_moves_outside_of_a_mask(clip, disc) -> None:
    path, inside = disc
    moved = gradient(clip, f"a fox [@{path}]", pictures())
    assert (moved[~inside] == 0).all()
    assert (moved[inside] > 0).float().mean() > 0.9


def test_a_prompt_beside_it_moves_everything(clip, disc) -> None:
    assert (gradient(clip, f"a fox [@{disc[0]}] | snow:0.1", pictures()) > 0).float().mean() > 0.9


def test_a_box_is_seen_as_if_it_were_the_picture(clip) -> None:
    part = pictures()[..., 6:24, 6:21]
    views = Crops.clipdraw(Clock(seed=2), 3)
    line = "a fox:2 | snow:-1"
    boxed = parse(" | ".join(part.replace(":", " [0.2,0.25,0.7,1]:") for part in line.split(" | ")))
    assert torch.equal(ClipLoss(clip, boxed, views)(pictures()), ClipLoss(clip, parse(line), views)(part))
    assert torch.equal(clip_score(clip, boxed, pictures()), clip_score(clip, parse(line), part))


def test_outside_of_a_mask_is_the_views_ground(clip, disc) -> None:
    path, inside = disc
    seen = Region(path)(pictures(), (0.1, 0.2, 0.3))
    rows, columns = slice(5, 16), slice(15, 26)
    assert inside[rows, columns].sum() == inside.sum()
    expected = torch.where(inside, pictures(), torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    assert torch.allclose(seen, expected[..., rows, columns])
    # What is there does not matter, then.
    other = torch.where(inside, pictures(), 1 - pictures())
    loss = ClipLoss(clip, parse(f"a fox [@{path}]"), Crops.clipdraw(Clock(), 3))
    assert torch.equal(loss(pictures()), loss(other))


def test_a_mask_fits_pictures_of_any_size_and_acts_by_halves_where_it_is_grey(disc) -> None:
    for h, w in ((24, 30), (48, 60), (12, 15)):
        seen = Region(disc[0])(torch.zeros(1, 3, h, w))
        assert seen.shape[2] == pytest.approx(h * 11 / 24, abs=1.1)
        assert seen.shape[3] == pytest.approx(w * 11 / 30, abs=1.1)
        area = disc[1].sum().item() * (h * w) / (24 * 30)
        assert (1 - seen).sum().item() / 3 == pytest.approx(area, rel=1e-4)


def test_where_a_mask_is_transparent_it_does_not_act(tmp_path: Path) -> None:
    mask = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    mask.putpixel((1, 1), (255, 255, 255, 255))
    mask.save(tmp_path / "mask.png")
    images = pictures(1, 2, 4)
    assert torch.equal(Region(tmp_path / "mask.png")(images), images[..., 1:2, 1:2])


@pytest.mark.parametrize("box", ["0,0,0.001,0.001", "0.999,0.999,1,1", "0.5,0,0.5001,1"])
def test_the_smallest_box_is_a_pixel(box: str) -> None:
    (prompt,) = parse(f"a fox [{box}]")
    assert 1 in Region(prompt.region)(pictures()).shape[2:]


def test_a_mask_that_is_none_is_told(clip, tmp_path: Path) -> None:
    write_png(tmp_path / "black.png", torch.zeros(1, 3, 4, 4))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name, words in (("black.png", "black all over"), ("broken.png", "broken"), ("no.png", "no picture")):
        with pytest.raises(InputError, match=words) as error:
            ClipLoss(clip, parse(f"a fox [@{tmp_path}/{name}]"), Crops(Clock()))
        assert "\n" not in str(error.value)
