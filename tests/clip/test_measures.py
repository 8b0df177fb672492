"""What is measured while a model trains, against sorting everything, and a canary that dies."""

import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidance import Clip, InputError, embed_images, embed_texts, load
from guidance.clip.datasets import Caption, HeldOut
from guidance.clip.measures import Canary, ForgettingWarning, classify, measure, read_labelled

NAMES = [
    "red heart",
    "pizza",
    "cat face",
    "sun",
    "rocket",
    "house",
    "fish",
    "tree",
    "carrot",
    "banana",
    "key",
]


@pytest.fixture(scope="module")
def held() -> HeldOut:
    """Pictures of noise; each has an English and a German caption, the last two share the German one."""
    images = torch.randint(256, (len(NAMES), 3, 64, 64), generator=torch.Generator().manual_seed(0))
    german = [f"{name} auf Deutsch" for name in NAMES[:-1]] + [f"{NAMES[-2]} auf Deutsch"]
    captions = [(Caption(a, "en"), Caption(b, "de")) for a, b in zip(NAMES, german, strict=True)]
    return HeldOut(images.to(torch.uint8), captions, {})


def forgetful(amount: float) -> Clip:
    """tiny with noise on the weights of both towers."""
    clip = load("tiny")
    clip._model = deepcopy(clip._model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in clip._model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += amount * noise * (parameter.std() if parameter.numel() > 1 else 0)
    return clip


def test_measures_are_those_of_sorted_lists(held: HeldOut) -> None:
    clip = load("tiny")
    found = measure(clip, held)
    images = embed_images(clip, held.images.permute(0, 2, 3, 1).numpy())
    for prefix, language in (("", None), ("de/", "de"), ("en/", "en")):
        spoken = [[c.text for c in own if language in (None, c.language)] for own in held.captions]
        texts = sorted({text for own in spoken for text in own})
        order = (images @ embed_texts(clip, texts).T).argsort(1, descending=True)
        places = [
            min(order[i].tolist().index(texts.index(text)) for text in own) for i, own in enumerate(spoken)
        ]
        assert found[f"{prefix}image_to_text_R@5"] == pytest.approx(np.mean(np.array(places) < 5))
        assert found[f"{prefix}image_to_text_median_rank"] == 1 + np.median(places)


def test_a_text_of_many_languages_is_one(held: HeldOut) -> None:
    same = HeldOut(held.images, [(Caption("key", own[0].text),) for own in held.captions], {})
    assert measure(load("tiny"), same)["image_to_text_R@1"] == 1.0
    assert measure(load("tiny"), same)["text_to_image_R@1"] == 1.0
    with pytest.raises(InputError, match="nothing to measure with"):
        measure(load("tiny"), HeldOut(held.images, [()] * len(NAMES), {}))


def test_few_captions_of_a_language_are_not_told(held: HeldOut) -> None:
    few = [(own[0], own[1]) if i < 5 else (own[0],) for i, own in enumerate(held.captions)]
    found = measure(load("tiny"), HeldOut(held.images, few, {}))
    assert "en/text_to_image_R@1" in found
    assert "de/text_to_image_R@1" not in found


def test_labelled_folders_are_classified(tmp_path: Path) -> None:
    for name, colour in (("red heart", "red"), ("blue heart", "blue"), ("green heart", "green")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (80, 80), colour).save(tmp_path / name / "a.png")
    (tmp_path / "red heart" / "broken.png").write_bytes(b"no picture")
    clip = load("tiny")
    labelled = read_labelled(tmp_path, clip)
    assert (labelled.labels, labelled.truth) == (["blue heart", "green heart", "red heart"], [0, 1, 2])
    similarity = (
        embed_images(clip, labelled.images.permute(0, 2, 3, 1).numpy()) @ embed_texts(clip, labelled.labels).T
    )
    right = (similarity.argmax(1) == torch.arange(3)).float().mean().item()
    assert classify(clip, labelled) == {"top1": pytest.approx(right), "top5": 1.0}


def test_no_labelled_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no pictures with labels"):
        read_labelled(tmp_path, load("tiny"))


def test_a_canary_of_few_names_could_not_die() -> None:
    for count in (2, 11, 20):
        with pytest.raises(InputError, match=f"more than 20 names, got {count}"):
            Canary(load("tiny"), [f"name {i}" for i in range(count)])


def test_a_canary_of_names_lives_and_dies() -> None:
    before, names = load("tiny"), [*NAMES, *(f"{name} at night" for name in NAMES)]
    canary = Canary(before, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canary(before) == 1.0
        assert canary(forgetful(0.01)) > 0.9
    with pytest.warns(ForgettingWarning, match="of what the model knew"):
        assert canary(forgetful(3.0)) < 0.7


def test_a_canary_of_pictures_counts_what_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty pictures and texts whose embeddings are the axes; then of some texts, each other's."""
    axes = torch.eye(50)
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64).clone()
    known = HeldOut(images, [(Caption(f"{i}"),) for i in range(50)], {})
    clip, swapped = load("tiny"), list(range(50))
    monkeypatch.setattr(clip, "encode_image", lambda x: axes[(x[:, 0, 0, 0] * 255).round().long()])
    monkeypatch.setattr(clip, "encode_many", lambda texts: axes[[swapped[int(text)] for text in texts]])
    clip.embed_dim = 50
    canary = Canary(clip, known)
    swapped[:4] = [1, 0, 3, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canary(clip) == pytest.approx(0.92)
    swapped[:] = [*range(1, 30), 0, *range(30, 50)]
    with pytest.warns(ForgettingWarning, match="60% of what the model knew"):
        assert canary(clip) == pytest.approx(0.4)
