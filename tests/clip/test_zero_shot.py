"""Classifiers against open_clip's own, counts against plain ones, and every wrong label told."""

import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from PIL import Image

from guidance.clip import Clip, PromptWarning, load, templates
from guidance.clip.labels import read_labels
from guidance.clip.templates import OPENAI, PLAIN, fill, read_templates
from guidance.clip.zero_shot import classifier, evaluate, probabilities, zero_shot
from guidance.errors import InputError

LABELS = ["red heart", "fox", "blue whale", "snow", "smiling face", "the {} sunglasses"]


@pytest.fixture(scope="module")
def folder(model_folder) -> Path:
    return model_folder("vit")


@pytest.fixture(scope="module")
def clip(folder) -> Clip:
    return load(f"local-dir:{folder}")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        yield


def test_openais_templates_are_openais():
    assert [fill(template, "cat") for template in OPENAI] == [f("cat") for f in OPENAI_IMAGENET_TEMPLATES]


@pytest.mark.parametrize("sentences", [PLAIN, OPENAI, ["a {}", "{}, in snow"]])
def test_the_ensemble_is_open_clips(clip, folder, sentences):
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    callables = [lambda label, s=sentence: s.replace("{}", label) for sentence in sentences]
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, LABELS, callables).T
    weights = classifier(clip, LABELS, sentences)
    torch.testing.assert_close(weights, expected, rtol=0, atol=2e-6)
    # The mean of vectors that have lost their length is another one than of those that have not.
    texts = [fill(s, label) for label in LABELS for s in sentences]
    raw = model.encode_text(tokenizer(texts)).unflatten(0, (len(LABELS), -1)).mean(1)
    if len(sentences) > 1:
        assert (torch.nn.functional.normalize(raw, dim=-1) - weights).abs().max() > 1e-5


def test_probabilities_have_the_models_own_temperature(clip, folder):
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, _ = model.get_logits(clip._pixels(images), tokenizer(LABELS))
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert clip.logit_scale > 10
    torch.testing.assert_close(zero_shot(clip, images, LABELS), logits.softmax(-1), rtol=0, atol=1e-5)


def test_images_may_be_arrays_or_files(clip, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for pixels, path in zip(array, paths, strict=True):
        Image.fromarray(pixels).save(path)
    expected = zero_shot(clip, torch.from_numpy(array).permute(0, 3, 1, 2) / 255, LABELS)
    torch.testing.assert_close(zero_shot(clip, array, LABELS), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(zero_shot(clip, paths, LABELS), expected, rtol=0, atol=1e-6)


def test_probabilities_have_a_gradient(clip):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    chances = probabilities(clip, clip.encode_image(images), classifier(clip, LABELS))
    (gradient,) = torch.autograd.grad(chances[0, 0], images)
    with torch.no_grad():
        nearer = zero_shot(clip, images + 0.01 * gradient / gradient.abs().max(), LABELS)
    assert nearer[0, 0] > chances[0, 0]


def test_many_labels_are_encoded_in_parts_alike(clip):
    labels = [f"fox {i}" for i in range(30)]
    weights = classifier(clip, labels, OPENAI)  # 1024 texts at a time are 12 labels
    for i in (0, 11, 12, 29):
        alone = classifier(clip, [labels[i], "x"], OPENAI)[0]
        torch.testing.assert_close(weights[i], alone, rtol=0, atol=2e-6)


def test_tiny_knows_colours():
    page = torch.ones(3, 3, 64, 64)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = x**2 + y**2 < 0.6
    for i in range(3):
        page[i, :, disc] = 0.0
        page[i, i, disc] = 1.0
    chances = zero_shot(load("tiny"), page, ["red circle", "green circle", "blue circle"])
    assert chances.argmax(dim=1).tolist() == [0, 1, 2]
    torch.testing.assert_close(chances.sum(1), torch.ones(3))


def test_a_new_word_in_a_label_is_told_and_those_of_the_templates_are_not(clip):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        classifier(clip, ["a red heart", "a zeppelin"], ["{}", "a {}"])
    assert len(told) == 1
    assert "'zeppelin'" in str(told[0].message)


def test_a_label_that_fits_alone_but_not_into_a_template_is_told_once(clip):
    label = "a red heart in the snow"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        classifier(clip, [label, "fox"])
    assert told == []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        classifier(clip, [label, "fox"], ["a {}", "a fox in the snow and a whale: {}"])
    assert len(told) == 1
    assert "2 of 2 labels" in str(told[0].message)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        classifier(clip, [label, "fox"], ["{} in the snow"])
    assert [f"1 of 2 labels, such as {label!r}" in str(note.message) for note in told] == [True]


def test_evaluation_counts():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 8, generator=generator)
    truth = torch.randint(0, 7, (200,), generator=generator).tolist()  # nothing has the last label
    result = evaluate(scores, truth)
    order = [sorted(range(8), key=lambda i: -row[i]) for row in scores.tolist()]
    assert result.top1 == pytest.approx(sum(o[0] == t for o, t in zip(order, truth, strict=True)) / 200)
    assert result.top5 == pytest.approx(sum(t in o[:5] for o, t in zip(order, truth, strict=True)) / 200)
    assert result.counts == [truth.count(i) for i in range(8)]
    assert result.recall[7] is None
    for label in range(7):
        hits = [o[0] == label for o, t in zip(order, truth, strict=True) if t == label]
        assert result.recall[label] == pytest.approx(sum(hits) / len(hits))
    assert sum(times for *_, times in result.confusions) == 200 - round(200 * result.top1)
    for label, taken, times in result.confusions:
        assert label != taken
        assert times == sum(t == label and o[0] == taken for o, t in zip(order, truth, strict=True))
    assert [times for *_, times in result.confusions] == sorted((t for *_, t in result.confusions))[::-1]


def test_fewer_than_five_labels():
    assert evaluate(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), [0, 0]).top5 == 1


def test_labels_are_read_from_a_line_or_a_file(tmp_path):
    assert read_labels(" cat, red heart ,Füchse") == ["cat", "red heart", "Füchse"]
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffa cat, asleep\r\n红心 \n".encode())
    assert read_labels(f"@{file}") == ["a cat, asleep", "红心"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat", "at least two.*@labels.txt"),
        ("", "must not be empty"),
        ("cat,,dog", "must not be empty"),
        ("cat,dog, cat", "'cat' again"),
        ("@nowhere.txt", "cannot read the labels in 'nowhere.txt'"),
        ("@" + "x" * 5000, "cannot read the labels"),
        ("@a\0b", "cannot read the labels"),
        ("cat,\udcff", "must be Unicode"),
    ],
)
def test_wrong_labels_are_told(text, told):
    with pytest.raises(InputError, match=told) as caught:
        read_labels(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"cat\n\ndog\n", b"cat\ndog\ncat\n", b"", b"\xff\xfe\x00", b"cat\n"])
def test_wrong_files_of_labels_are_told(tmp_path, content):
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_labels(f"@{file}")


def test_templates_are_read_by_name_or_from_a_file(tmp_path):
    assert read_templates("plain") == ["{}"]
    assert read_templates("openai") == templates.OPENAI
    (tmp_path / "t.txt").write_text("a photo of a {}.\n{} {0.__class__}\n")
    assert read_templates(str(tmp_path / "t.txt")) == ["a photo of a {}.", "{} {0.__class__}"]
    assert fill("{} {0.__class__}", "cat") == "cat {0.__class__}"


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "at least one"), ("a {}\n\n", "number 2"), ("a {} {}", "number 1"), ("a photo", "number 1")],
)
def test_wrong_templates_are_told(tmp_path, clip, content, told):
    with pytest.raises(InputError, match=told):
        classifier(clip, LABELS, content.splitlines())
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(InputError, match=told):
        read_templates(str(tmp_path / "t.txt"))
    with pytest.raises(InputError, match="plain, openai or a text file, got 'opnai'"):
        read_templates("opnai")
