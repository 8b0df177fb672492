"""The embedded model: small, whole, and a guide."""

import warnings
from pathlib import Path

import open_clip
import pytest
import torch

import guidance as g
from guidance.clip import PromptWarning
from guidance.clip.names import MODELS

FOLDER = MODELS / "tiny"


@pytest.fixture(scope="module")
def tiny() -> g.Clip:
    return g.load("tiny")


def test_it_is_small_and_has_a_card() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 15_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(title in card for title in ("## Data and licence", "## Training", "## What it can and cannot"))


def test_open_clip_loads_it_as_it_is(tiny: g.Clip) -> None:
    model = open_clip.create_model(f"local-dir:{FOLDER}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    names = ["red heart", "rotes Herz", "赤いハート", "قلب أحمر"]
    expected = model.encode_text(tokenizer(names), normalize=True)
    torch.testing.assert_close(tiny.encode_text(names), expected, atol=1e-4, rtol=0)


def test_translations_are_near_each_other(tiny: g.Clip) -> None:
    names = ["red heart", "rotes Herz", "cœur rouge", "corazón rojo", "czerwone serce"]
    others = ["pizza", "Hund", "voiture", "casa", "ryba"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        heart, *translations = tiny.encode_text(names)
        elsewhere = tiny.encode_text(others)
    for translation in translations:
        assert heart @ translation > (elsewhere @ heart).max() + 0.2


def test_its_gradient_paints_the_middle_of_a_blank_page_in_the_right_colour(tiny: g.Clip) -> None:
    texts = tiny.encode_text(["red heart", "green heart", "blue heart"])
    page = torch.ones(3, 3, 64, 64)
    for _ in range(25):
        page.requires_grad_()
        (way,) = torch.autograd.grad((tiny.encode_image(page) * texts).sum(), page)
        step = way / way.square().mean((1, 2, 3), keepdim=True).sqrt()
        page = (page.detach() + 0.04 * step).clamp(0, 1)
    middle, rim = page[:, :, 20:44, 20:44].mean((2, 3)), page[:, :, :4].mean((2, 3))
    assert middle.argmax(1).tolist() == [0, 1, 2]
    assert (rim.mean(1) > middle.mean(1) + 0.1).all()


def test_a_word_that_it_never_saw_is_named(tiny: g.Clip) -> None:
    with pytest.warns(PromptWarning, match=r"'zeppelin'.*ViT-B-32"):
        tiny.encode_text(["a red zeppelin"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode_text(["a drawing of a red heart", "rotes Herz", "大きな赤い丸"])


def test_a_drawing_gets_nearer(tmp_path: Path) -> None:
    from guidance import cli

    small = ["--steps", "30", "--paths", "64", "--size", "96", "--crops", "4", "--output", str(tmp_path)]
    assert cli.main(["clipdraw", "a red heart", *small]) == 0
    picture = g.read_image(tmp_path / "clipdraw" / "a-red-heart-0" / "final.png")[0]
    middle, corner = picture[:, 384:640, 384:640].mean((1, 2)), picture[:, :64, :64].mean((1, 2))
    assert middle[0] > middle[1] + 0.1
    assert corner.min() > 0.9
