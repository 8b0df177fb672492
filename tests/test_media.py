"""Pictures against Pillow."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from guidance import media
from guidance.errors import InputError

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def colour(image: torch.Tensor, y: int, x: int) -> tuple[float, ...]:
    return tuple(round(c, 2) for c in image[0, :, y, x].tolist())


def test_png_round_trip_keeps_pixels_and_text(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 17, 23)).float() / 255
    media.write_png(tmp_path / "a.png", image, {"Description": "ein Fuchs – 狐 🦊"})
    assert torch.equal(media.read_image(tmp_path / "a.png"), image)
    assert media.read_text(tmp_path / "a.png") == {"Description": "ein Fuchs – 狐 🦊"}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "LAB"])
def test_modes_read_as_pillow_converts_them(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.tiff")
    expected = np.array(picture.convert("RGB"), dtype=np.float32) / 255
    assert np.allclose(media.read_image(tmp_path / "a.tiff")[0].permute(1, 2, 0).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("read", [media.read_image, media.read_rgba])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, read: Callable[[Path], torch.Tensor]) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert colour(image[:, :3], 0, 1) == (0.5, 0.5, 0.5)
    assert colour(image[:, :3], 0, 2) == (1.0, 1.0, 1.0)
    assert (image[:, 3:] == 1).all()


def test_transparency_is_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    image = media.read_image(tmp_path / "a.png")
    assert colour(image, 0, 0) == RED
    assert colour(image, 0, 1) == (1.0, 0.5, 0.5)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    palette.save(tmp_path / "p.gif", transparency=0)
    assert colour(media.read_image(tmp_path / "p.gif"), 0, 0) == (1.0, 1.0, 1.0)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), "red")
    picture.paste("lime", (0, 0, 8, 8))  # the left half, which orientation 6 turns to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    image = media.read_image(tmp_path / "a.png")
    assert image.shape == (1, 3, 16, 8)
    assert (colour(image, 0, 4), colour(image, 15, 4)) == (GREEN, RED)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colour(media.read_image(tmp_path / "a.gif"), 0, 0) == RED


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    media.write_png(whole, torch.rand(1, 3, 64, 64))
    bad = {"bomb.png": bomb(), "cut.png": whole.read_bytes()[:5000], "text.png": b"hello", "empty.png": b""}
    bad["flipped.png"] = whole.read_bytes()[:60] + b"\0" * 200 + whole.read_bytes()[260:]
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    for name in [*bad, "missing.png", ".", "x" * 300]:
        with pytest.raises(InputError) as caught:
            media.read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


def sixteen_bit_png(colour_type: int, row: list[int], *, transparent: int | None = None) -> bytes:
    """A row of three pixels, by the PNG specification: Pillow cannot write all of these."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b"\0" + np.array(row, dtype=">u2").tobytes()
    clear = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + clear + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "red"),
    [
        (sixteen_bit_png(0, [0, 32768, 65535]), [0, 0.5, 1]),
        (sixteen_bit_png(0, [0, 32768, 65535], transparent=32768), [0, 1, 1]),
        (sixteen_bit_png(2, [0, 0, 0, 32768, 0, 0, 65535, 0, 0]), [0, 0.5, 1]),
        (sixteen_bit_png(4, [0, 65535, 32768, 65535, 0, 0]), [0, 0.5, 1]),
        (sixteen_bit_png(6, [0, 0, 0, 65535, 32768, 0, 0, 65535, 0, 0, 0, 0]), [0, 0.5, 1]),
    ],
)
def test_every_kind_of_sixteen_bit_png(tmp_path: Path, data: bytes, red: list[float]) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert media.read_image(tmp_path / "a.png")[0, 0, 0].tolist() == pytest.approx(red, abs=0.005)
    rgba = media.read_rgba(tmp_path / "a.png")
    assert (rgba[:, 0] + 1 - rgba[:, 3])[0, 0].tolist() == pytest.approx(red, abs=0.005)


def test_a_printers_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert colour(media.read_image(tmp_path / "a.jpg"), 4, 4) == pytest.approx(RED, abs=0.02)


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)  # to call it would be another error
    with pytest.raises(InputError, match="not a picture"):
        media.read_image(tmp_path / "a.png")


def encoded(form: str) -> bytes:
    picture, data = Image.radial_gradient("L").resize((24, 16)).convert("RGB"), io.BytesIO()
    frames = {"save_all": True, "append_images": [picture.rotate(90)]} if form in ("gif", "webp") else {}
    picture.save(data, form, **frames)
    return data.getvalue()


@given(
    form=st.sampled_from(["png", "jpeg", "gif", "webp", "tiff", "bmp"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 2000) | st.none(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_picture_is_read_or_told_in_one_line(
    tmp_path: Path, form: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(encoded(form))
    for place, value in changes:
        data[place % len(data)] = value
    (tmp_path / "a").write_bytes(data[:cut])
    told, image = "", torch.zeros(1)
    try:
        image = media.read_image(tmp_path / "a")
    except InputError as error:
        told = str(error)
    assert "\n" not in told
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    media.write_text(path, "old")

    def fail_halfway() -> None:
        with media.replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_or_that_of_a_run_is_stretched(tmp_path: Path) -> None:
    halves = torch.zeros(1, 3, 8, 8)
    halves[..., 4:] = 1
    media.write_png(tmp_path / "final.png", halves)
    for place in (tmp_path, tmp_path / "final.png"):
        image = media.read_fitted(place, (12, 30))
        assert image.shape == (1, 3, 12, 30)
        assert image[..., :12].max() < 0.01
        assert image[..., 18:].min() > 0.99
        assert (image.min(), image.max()) == (0, 1)  # bicubic interpolation goes beyond both


def test_sheet_places_images_in_rows() -> None:
    images = torch.arange(5.0).div(10).view(5, 1, 1, 1).expand(5, 3, 32, 64)
    page = media.sheet(images)
    assert page.shape == (1, 3, 2 + 2 * 34, 2 + 3 * 66)
    centres = [round(page[0, 0, 2 + 34 * (i // 3) + 16, 2 + 66 * (i % 3) + 32].item(), 3) for i in range(6)]
    assert centres == [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
    assert page[0, :, 0].min() == 1
    assert media.sheet(images[:1]).shape == (1, 3, 36, 68)
