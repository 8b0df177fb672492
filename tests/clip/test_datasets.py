"""Batches for training: pure functions of (sources, seed, number), whatever the sources and the processes."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from guidance import InputError
from guidance.clip.datasets import (
    Augmentation,
    Batch,
    Batches,
    Caption,
    Row,
    Source,
    batches,
    held_out,
    mixture,
)
from guidance.clip.datasets.batches import choose_texts
from guidance.clip.datasets.mixture import Mixture
from guidance.clip.datasets.rows import Listed, Rows
from guidance.clip.datasets.views import DRAWS, crop_box
from guidance.clip.pictures import Unusable, decode


def png(number: int, width: int = 12, height: int = 10) -> bytes:
    """A picture of one colour, which tells its number."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (number % 256, number // 256, 77)).save(stream, "png")
    return stream.getvalue()


def source(count: int, first: int = 0, broken: tuple[int, ...] = ()) -> Source:
    def row(number: int) -> Row:
        content = b"broken" if number in broken else png(number)
        texts = (Caption(f"number {number}", "en"), Caption(f"Nummer {number}", "de"))
        return Row(f"{number}.png", lambda: content, texts)

    return Source(
        f"from {first}", Listed([row(number) for number in range(first, first + count)]), Listed([])
    )


class Counting(Rows):
    """Rows that cannot be had, in blocks."""

    block = 10

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Row:
        raise NotImplementedError


def numbers(batch: Batch) -> list[int]:
    """Which pictures are in a batch, told by their colours."""
    red, green, _ = batch.images[0, :, :, 4, 4].int().unbind(-1)
    return (red + 256 * green).tolist()


def equal(a: Batch, b: Batch) -> bool:
    same = torch.equal(a.images, b.images) and torch.equal(a.ids, b.ids)
    return same and a.captions == b.captions and a.languages == b.languages


def build(sources: list[tuple[float, Source]], **options: object) -> Batches:
    settings: dict = {"batch": 8, "seed": 3, "views": 2, "texts": 2} | options
    return Batches(sources, Augmentation(8), **settings)


def test_a_batch_is_the_same_wherever_one_starts():
    sources = [(1.0, source(21, broken=(4, 9))), (2.5, source(30, 100))]
    reached = list(build(sources, most_broken=0.9).iterate(0, 30))
    for first in (0, 7, 29):
        (batch,) = build(sources, most_broken=0.9).iterate(first, first + 1)
        assert equal(batch, reached[first])
    again = build(sources, most_broken=0.9)
    assert [equal(a, b) for a, b in zip(again.iterate(5, 8), reached[5:8], strict=True)] == [True] * 3
    assert equal(next(again.iterate(0, 1)), reached[0])
    assert not equal(next(build(sources, seed=4).iterate(0, 1)), reached[0])


@pytest.mark.parametrize("kind", ["crop", "page"])
def test_pixels_do_not_depend_on_the_cache_nor_on_what_fits(kind):
    def made(cache: int) -> Tensor:
        rows = [Row(f"{i}", lambda i=i: noise(i, 40 + i, 90), (Caption("x"),)) for i in range(9)]
        augmentation = Augmentation(8, kind)
        settings: dict = {"batch": 6, "seed": 0, "views": 2, "cache": cache}
        batches = Batches([(1.0, Source("", Listed(rows), Listed([])))], augmentation, **settings)
        return torch.stack([batch.images for batch in batches.iterate(0, 6)])

    assert torch.equal(made(2**30), made(0))
    assert torch.equal(made(20_000), made(0))


def test_what_is_cached_is_not_fetched_again():
    fetched: list[int] = []

    def fetch(number: int) -> bytes:
        fetched.append(number)
        return png(number)

    rows = [Row(f"{i}", lambda i=i: fetch(i), (Caption("x"),)) for i in range(8)]
    sources = [(1.0, Source("", Listed(rows), Listed([])))]
    room = 3 * 4 * 12 * 10  # for three of the eight
    for cache, times in ((2**20, 8), (room, 3 + 4 * 5), (0, 4 * 8)):
        fetched.clear()
        made = build(sources, cache=cache)
        for step in range(4):
            list(made.iterate(step, step + 1))
        assert len(fetched) == times


def test_two_processes_see_what_one_sees(monkeypatch):
    sources = [(1.0, source(21, broken=(4,))), (1.0, source(11, 100))]
    whole = list(build(sources, most_broken=0.9).iterate(2, 9))
    halves = []
    monkeypatch.setattr(batches, "world", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(batches, "rank", lambda number=number: number)
        part = build(sources, most_broken=0.9)
        assert part.epoch_steps == 4
        halves.append(list(part.iterate(2, 9)))
    for one, a, b in zip(whole, *halves, strict=True):
        assert a.images.shape == b.images.shape == (2, 4, 3, 8, 8)
        assert torch.equal(one.images, torch.cat([a.images, b.images], 1))
        assert torch.equal(one.ids, torch.cat([a.ids, b.ids]))
        assert one.captions == [left + right for left, right in zip(a.captions, b.captions, strict=True)]
        assert one.languages == a.languages + b.languages


def test_every_epoch_has_every_row_once_in_another_order(monkeypatch):
    monkeypatch.setattr(mixture, "CYCLE", 16)
    every = build([(1.0, source(23)), (1.0, source(70, 300))], batch=31)
    assert (every.epoch_steps, every.epoch_samples) == (3, 93)
    epochs = [[n for b in every.iterate(first, first + 3) for n in numbers(b)] for first in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == [*range(23), *range(300, 370)]
    assert epochs[0] != epochs[1] != epochs[2]
    # The small source comes all along the epoch.
    assert all(1 <= sum(n < 300 for n in epochs[0][i : i + 31]) <= 14 for i in (0, 31, 62))


def test_weights_say_how_often_each_row_comes(monkeypatch):
    monkeypatch.setattr(mixture, "CYCLE", 32)
    mixed = Mixture([(2.0, Counting(40)), (0.5, Counting(100)), (1.0, Counting(30))], seed=1)
    assert mixed.epoch == 160
    seen = [mixed[i] for i in range(4 * 160)]
    counts = Counter(seen)
    assert {counts[0, row] for row in range(40)} == {8}
    assert {counts[1, row] for row in range(100)} == {2}
    assert {counts[2, row] for row in range(30)} == {4}
    for start in range(0, 640, 80):  # evenly
        parts = Counter(source for source, _ in seen[start : start + 80])
        assert abs(parts[0] - 40) < 12
        assert abs(parts[2] - 15) < 10
    # At any position, in any order.
    assert [mixed[i] for i in (639, 3, 200)] == [seen[i] for i in (639, 3, 200)]


def test_blocks_come_one_after_the_other_and_are_shuffled_inside(monkeypatch):
    monkeypatch.setattr(mixture, "CYCLE", 32)
    mixed = Mixture([(1.0, Counting(37)), (1.0, Counting(50))], seed=1)
    rows = [row for source, row in (mixed[i] for i in range(87)) if source == 0]
    assert [row // 10 for row in rows] == [i // 10 for i in range(37)]
    assert sorted(rows) == list(range(37))
    assert rows != sorted(rows)
    again = [row for source, row in (mixed[i] for i in range(87, 174)) if source == 0]
    assert again != rows
    assert mixed.neighbours(0, 35) == range(30, 37)


def test_a_broken_place_is_filled_counted_and_named_once(tmp_path):
    log = tmp_path / "broken.jsonl"
    log.write_text('{"picture": "5.png", "reason": "not a picture"}\n{"pict')  # of a training that was killed
    sources = [(1.0, source(40, broken=(5, 17)))]
    made = build(sources, log=log, texts=1)
    shown = list(made.iterate(0, 15))
    assert made.broken == {"5.png": "not a picture", "17.png": "not a picture"}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines == [{"picture": f"{i}.png", "reason": "not a picture"} for i in (5, 17)]
    for batch in shown:
        assert batch.images.shape == (2, 8, 3, 8, 8)
        told = [int(text.split()[1]) for text in batch.captions[0]]
        assert numbers(batch) == told
        assert not {5, 17} & set(told)
    # The places of the two are not filled by the same pictures again and again.
    assert max(Counter(n for batch in shown for n in numbers(batch)).values()) <= 3 + 3


def test_too_many_broken_ones_stop_the_training():
    sources = [(1.0, source(100, broken=tuple(range(0, 100, 4))))]
    with pytest.raises(
        InputError, match=r"(2|3)\d% of the pictures are broken, .* 10% .*: \d+\.png \(not a pic"
    ):
        list(build(sources).iterate(0, 100))
    assert len(list(build(sources, most_broken=0.4).iterate(0, 100))) == 100
    with pytest.raises(InputError, match="in a row are broken"):
        list(build([(1.0, source(9, broken=tuple(range(9))))]).iterate(0, 1))


def test_the_only_good_picture_of_a_small_source_is_found():
    small = source(40, 500, broken=tuple(range(501, 540)))
    for seed in range(5):
        both = [(1.0, source(300)), (1.0, small)]
        shown = build(both, batch=10, seed=seed, most_broken=0.99).iterate(0, 34)
        assert Counter(n for batch in shown for n in numbers(batch))[500] == 40


def test_texts_languages_and_ids_belong_together():
    (batch,) = build([(1.0, source(8))]).iterate(0, 1)
    for first, second, language, number in zip(*batch.captions, batch.languages, numbers(batch), strict=True):
        assert {first, second} == {f"number {number}", f"Nummer {number}"}
        assert language == ("en" if first.startswith("number") else "de")
    assert len(batch.ids.unique()) == 16
    twins = [Row(name, lambda: png(1), (Caption("same"),)) for name in ("a", "a", "b")]
    (batch,) = build([(1.0, Source("", Listed(twins), Listed([])))], batch=3).iterate(0, 1)
    assert len(batch.ids[:, 0].unique()) == 2
    assert len(batch.ids[:, 1].unique()) == 1


def test_texts_differ_while_there_are_others():
    captions = [Caption(letter) for letter in "abc"]
    rng = np.random.default_rng(0)
    chosen = ["".join(c.text for c in choose_texts(captions, rng.random(3).tolist())) for _ in range(600)]
    assert {len(set(letters)) for letters in chosen} == {3}
    assert all(60 < count < 140 for count in Counter(chosen).values())
    assert len(set(chosen)) == 6
    assert [c.text for c in choose_texts(captions[:1], [0.2, 0.999])] == ["a", "a"]


def noise(seed: int, width: int, height: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(stream, "png")
    return stream.getvalue()


def test_boxes_are_distributed_like_torchvisions():
    rng = np.random.default_rng(0)
    for size, scale in (((200, 100), (0.3, 1.0)), ((90, 100), (0.9, 1.0)), ((1000, 10), (0.9, 1.0))):
        draws = rng.random((2000, DRAWS), dtype=np.float32)
        ours = torch.tensor([crop_box(size, row, scale, (3 / 4, 4 / 3)) for row in draws]).float()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            crop = v2.RandomResizedCrop(8, scale=scale)
            picked = [crop.make_params([torch.empty(3, size[1], size[0])]) for _ in range(2000)]
        theirs = torch.tensor(
            [[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in picked]
        ).float()
        spread = theirs.std(0).clamp(min=0.5)
        assert ((ours.mean(0) - theirs.mean(0)).abs() < 0.12 * spread).all()
        assert ((ours.std(0) - theirs.std(0)).abs() < 0.12 * spread).all()
        assert (ours[:, :2] >= 0).all()
        assert (ours[:, 2:] <= torch.tensor(size)).all()


@pytest.mark.parametrize(("width", "height"), [(60, 50), (300, 200), (12, 30)])
def test_a_crop_looks_like_torchvisions_of_the_same_box(width, height):
    content = noise(1, width, height)
    augmentation = Augmentation(32, scale=(0.5, 1.0))
    draws = np.random.default_rng(2).random(DRAWS, dtype=np.float32)
    picture = augmentation.decode(content)
    shrunk = width / picture.width
    assert shrunk == {60: 1, 300: 3, 12: 1}[width]
    left, top, right, bottom = crop_box(picture.size, draws, (0.5, 1.0), augmentation.ratio)
    whole = v2.functional.pil_to_tensor(decode(content, 999)[0])
    box = [round(shrunk * n) for n in (top, left, bottom - top, right - left)]
    expected = v2.functional.resized_crop(whole, *box, [32, 32], antialias=True)
    seen = torch.from_numpy(augmentation.view(picture, draws, strong=False).copy()).permute(2, 0, 1)
    assert (seen.float() - expected.float()).abs().mean() < 2


def test_a_page_shows_the_picture_where_it_is_put():
    stream = io.BytesIO()
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[10:30, 10:30] = (255, 0, 0, 255)
    Image.fromarray(picture).save(stream, "png")
    augmentation = Augmentation(64, "page")
    decoded = augmentation.decode(stream.getvalue())
    draws = np.full(DRAWS, 0.5, np.float32)
    draws[0] = (1 - 0.6) / 0.55  # as large as the page
    draws[6:9] = (0.0, 0.5, 0.999)
    draws[5] = 0.0
    seen = augmentation.view(decoded, draws, strong=False)
    assert seen[32, 32].tolist() == [255, 0, 0]
    assert seen[2, 2].tolist() == [255, 255, 255]
    red = (seen == [255, 0, 0]).all(-1)
    assert abs(red.sum() - 32 * 32) < 150
    draws[5], draws[3] = 0.9, 1.0  # on a coloured page, to the right
    seen = augmentation.view(decoded, draws, strong=False)
    assert seen[2, 2].tolist() == [0, 128, 255]
    moved = (seen == [255, 0, 0]).all(-1)
    assert np.argwhere(moved)[:, 1].mean() - np.argwhere(red)[:, 1].mean() == pytest.approx(
        0.12 * 64, abs=0.6
    )
    draws[1], draws[3] = 1.0, 0.5  # turned by an eighth of a radian, about the middle
    turned = (augmentation.view(decoded, draws, strong=False) == [255, 0, 0]).all(-1)
    rows, columns = np.argwhere(turned).mean(0)
    assert abs(rows - 31.5) < 0.6
    assert abs(columns - 31.5) < 0.6
    assert abs(turned.sum() - red.sum()) < 80
    assert not np.array_equal(turned, red)


def test_strong_views_change_the_colours_and_mirror():
    augmentation = Augmentation(32)
    decoded = augmentation.decode(noise(3, 60, 60))
    draws = np.random.default_rng(0).random((400, DRAWS), dtype=np.float32)
    draws[:, 25:28] = np.maximum(draws[:, 25:28], 0.5)
    draws[:, 26] = 0.9  # sharp
    grey = draws.copy()
    grey[:, 25] = 0.0
    views = np.stack([augmentation.view(decoded, row, strong=True) for row in grey])
    assert np.abs(views[..., 0].astype(int) - views[..., 2]).max() <= 3
    # In the middle of all jitter the colours are the picture's.
    draws[0, 28:] = 0.5
    draws[0, 24] = 0.9
    box = crop_box(decoded.size, draws[0], (0.3, 1.0), (3 / 4, 4 / 3))
    plain = np.asarray(decoded.resize((32, 32), Image.Resampling.BICUBIC, box)).astype(int)
    assert np.abs(augmentation.view(decoded, draws[0], strong=True) - plain).max() <= 2
    draws[0, 24] = 0.1
    assert np.abs(augmentation.view(decoded, draws[0], strong=True) - plain[:, ::-1]).max() <= 2
    draws[0, 26] = 0.1
    blurred = augmentation.view(decoded, draws[0], strong=True).astype(int)
    assert np.abs(np.diff(blurred, axis=0)).sum() <= np.abs(np.diff(plain, axis=0)).sum()


def test_a_picture_of_another_make_is_kept_small():
    augmentation = Augmentation(8)
    assert min(augmentation.decode(noise(0, 2000, 1500)).size) < 32
    with pytest.raises(Unusable):
        augmentation.decode(b"nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "multiple"),
        ({"views": 0}, "at least 1 view"),
        ({"most_broken": 1.0}, r"\[0, 1\)"),
    ],
)
def test_numbers_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        build([(1.0, source(3))], **options)


def test_a_batch_that_processes_cannot_share(monkeypatch):
    monkeypatch.setattr(batches, "world", lambda: 3)
    with pytest.raises(InputError, match="number of processes, 3, got 8"):
        build([(1.0, source(3))])


def test_nothing_to_train_on():
    only = Source("x", Listed([]), source(3).train)
    with pytest.raises(InputError, match="all are held out"):
        build([(1.0, only)])
    for scale, ratio in (((0.0, 1.0), (1.0, 1.0)), ((0.5, 0.4), (1.0, 1.0)), ((0.5, 1.0), (2.0, 1.0))):
        with pytest.raises(InputError):
            Augmentation(8, scale=scale, ratio=ratio)


def test_held_out_rows_as_the_model_sees_them(tmp_path):
    rows = source(30).train
    sources = [(1.0, Source("x", source(5, 200).train, rows)), (1.0, source(4, 300, broken=(301,)))]

    def fit(picture: Image.Image) -> Image.Image:
        return picture.resize((8, 8))

    seen = held_out(sources, 8, fit)
    assert seen.images[:, 0, 4, 4].tolist() == list(range(30))
    assert seen.captions[7] == (Caption("number 7", "en"), Caption("Nummer 7", "de"))
    some = held_out(sources, 8, fit, most=10)
    assert some.images[:, 0, 4, 4].tolist() == sorted(set(some.images[:, 0, 4, 4].tolist()))
    assert len(some.captions) == 10
    whole = held_out(sources, 8, fit, everything=True)
    assert len(whole.captions) == 30 + 5 + 3
    assert whole.broken == {"301.png": "not a picture"}
    with pytest.raises(InputError, match="held out"):
        held_out(sources[1:], 8, fit)
