"""How picture files are read for a model, against open_clip's own transform and Pillow's full decoding."""

import io
import threading
from contextlib import suppress

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from guidance.clip import encoder, load
from guidance.clip.pictures import Unusable, ahead, decode, encode, fitting, prepare

TOKENIZER = open_clip.get_tokenizer("ViT-B-32")


def noise(*shape: int, low: int = 0, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(6, 8, 3, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def clip(model_folder):
    return load(f"local-dir:{model_folder('vit')}")


@pytest.mark.parametrize("mode", ["squash", "longest", "shortest"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_loss_the_pixels_are_those_of_open_clips_transform(model_folder, mode, interpolation):
    model = open_clip.create_model(f"local-dir:{model_folder('vit')}")
    model.visual.preprocess_cfg |= {"resize_mode": mode, "interpolation": interpolation, "fill_color": 200}
    clip = encoder.Clip(model, TOKENIZER, name="x", embed_dim=48, device=torch.device("cpu"))
    picture = Image.fromarray(noise(90, 141, 3))
    cfg = model.visual.preprocess_cfg | {"mean": (0, 0, 0), "std": (1, 1, 1)}
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**cfg), is_train=False
    )
    ready = prepare(saved(picture, "png"), clip.image_size, fitting(clip))
    expected = (transform(picture) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ready.pixels, expected)
    assert (ready.width, ready.height) == (141, 90)


def test_embeddings_are_those_of_the_plain_loop(clip, model_folder):
    """To rounding for PNG; for a JPEG that is decoded at a half, with a cosine above 0.9999."""
    name = f"local-dir:{model_folder('vit')}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    cases = [(smooth(200, 150, seed), kind) for seed in range(3) for kind in ("png", "jpeg")]
    contents = [saved(picture, kind) for picture, kind in cases]
    batch = torch.stack([transform(Image.open(io.BytesIO(content))) for content in contents])
    with torch.no_grad():
        expected = F.normalize(model.eval().encode_image(batch), dim=-1)
    fit = fitting(clip)
    got = encode(clip, [prepare(content, clip.image_size, fit).pixels for content in contents])
    torch.testing.assert_close(got[::2], expected[::2], rtol=0, atol=2e-6)
    assert F.cosine_similarity(got[1::2], expected[1::2]).min() > 0.9999
    assert not torch.equal(got[1::2], expected[1::2])


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    picture = smooth(1600, 1200)
    seen, width, height = decode(saved(picture, "jpeg", quality=95), 64)
    assert (width, height) == (1600, 1200)
    assert seen.size == (200, 150)
    expected = picture.resize(seen.size, Image.Resampling.BOX)
    assert np.abs(np.int16(seen) - np.int16(expected)).mean() < 1.5


def test_a_small_picture_is_decoded_whole():
    picture = smooth(60, 50)
    seen, *_ = decode(saved(picture, "png"), 64)
    np.testing.assert_array_equal(np.array(seen), np.array(picture))


def test_pictures_are_upright():
    picture = smooth(400, 300)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    seen, width, height = decode(saved(picture, "jpeg", exif=exif, quality=95), 32)
    assert (width, height) == (300, 400)
    expected = picture.transpose(Image.Transpose.ROTATE_270).resize(seen.size, Image.Resampling.BOX)
    assert np.abs(np.int16(seen) - np.int16(expected)).mean() < 3


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (9, 9), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (9, 9), (0, 0, 0, 127)), (128, 128, 128)),
        (Image.new("LA", (9, 9), (50, 255)), (50, 50, 50)),
        (Image.new("L", (9, 9), 50), (50, 50, 50)),
        (Image.new("1", (9, 9), 1), (255, 255, 255)),
        (Image.new("P", (9, 9), 0), (0, 0, 0)),
        (Image.fromarray(np.full((9, 9), 128 * 257, np.uint16)), (128, 128, 128)),
    ],
)
def test_every_mode_of_pixels_becomes_rgb_on_white(picture, expected):
    seen, *_ = decode(saved(picture, "png"), 4)
    assert seen.mode == "RGB"
    assert seen.getpixel((4, 4)) == expected


def frames(kind: str) -> bytes:
    return saved(smooth(20, 20), kind, save_all=True, append_images=[smooth(20, 20, 1)], duration=100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a picture"),
        (b"#!/bin/sh\necho no picture", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (saved(smooth(99, 99), "jpeg")[:900], "broken"),
        (saved(smooth(99, 99), "png")[:3000], "broken"),
        (frames("gif"), "animated"),
        (frames("png"), "animated"),
        (frames("webp"), "animated"),
        (saved(Image.new("1", (9000, 8000)), "png"), "over 64 million pixels"),
        (saved(Image.new("1", (30000, 30000)), "png"), "over 64 million pixels"),
        (saved(Image.new("1", (60000, 2)), "png"), "too narrow"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_has_a_reason(content, reason):
    with pytest.raises(Unusable, match=reason):
        decode(content, 64)


def test_a_still_gif_and_the_pages_of_a_tiff_are_pictures():
    assert decode(saved(smooth(20, 20), "gif"), 64)[1:] == (20, 20)
    pages = saved(smooth(20, 20), "tiff", save_all=True, append_images=[smooth(30, 30)])
    assert decode(pages, 64)[1:] == (20, 20)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_noise_is_never_more_than_unusable():
    """Pictures of every format with a few bytes changed."""
    rng = np.random.default_rng(0)
    whole = [saved(smooth(40, 30), kind) for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm")]
    for content in whole:
        for _ in range(40):
            data = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(0, len(data), 5)
            data[places] = rng.integers(0, 256, 5)
            with suppress(Unusable):
                decode(data.tobytes(), 16)


def test_work_is_done_ahead_in_order_and_not_all_at_once():
    started: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        started.append(item)
        gate.wait(10)
        if item == 2:
            raise Unusable("no")
        return item * item

    taken: list[int] = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = ahead(items(), work, 5)
    gate.set()
    first = next(results)
    assert first == (0, 0)
    assert len(taken) == 6
    rest = list(results)
    assert [item for item, _ in rest] == list(range(1, 100))
    assert isinstance(rest[1][1], Unusable)
    assert rest[-1] == (99, 99 * 99)
    assert sorted(started) == list(range(100))


def test_a_defect_of_ours_is_not_hidden():
    def work(item: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ahead([1], work, 2))
