"""Pictures, read from and written to files.

Inside the package an image is a float32 tensor `[b, 3, h, w]`, sRGB in [0, 1]; here is where files become
such tensors and tensors become files. Every file is written beside its place and renamed, so that nobody ever
meets half of one.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional

from guidance.errors import InputError

#: Larger pictures are refused before they are decoded (a small file can unfold to gigabytes).
MAX_PIXELS = 64_000_000
#: The files that are read. Pillow knows others, of which some run programs (EPS runs Ghostscript).
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to: renamed to `path` at the end, deleted on an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_image(path: Path | str) -> Float[Tensor, "1 3 h w"]:
    """A picture file as an image: upright (EXIF), its first frame, on white where it is transparent.

    Raises InputError when there is no such file, it is no picture, is broken, or has over 64 million pixels.
    """
    return _read(Path(path), _tensor)


def read_fitted(path: Path, size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """A picture file, or the picture that the run in a folder made, stretched to (h, w).

    Raises InputError as `read_image` does.
    """
    return fitted(read_image(path / "final.png" if os.path.isdir(path) else path), size)


def fitted(image: Float[Tensor, "b 3 h0 w0"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """The image stretched to (h, w), bicubically, without aliasing."""
    return functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def read_rgba(path: Path | str) -> Float[Tensor, "1 4 h w"]:
    """A picture file as `read_image` gives it, but with its opacity, by which the colours are multiplied."""
    return _read(Path(path), _premultiplied)


def _read(path: Path, convert: Callable[[Image.Image], Tensor]) -> Tensor:
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise InputError(f"there is no picture at {path}; check the name")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about size, where the limit here is lower, and oddities in a file
            Image.init()  # AVIF is not in every build of Pillow
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{file.width}×{file.height} pixels are too many")
                return convert(ImageOps.exif_transpose(file))
    # Pillow's decoders raise nearly anything on a broken file (SyntaxError, struct.error, IndexError, ...).
    except Exception as error:
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else error
        raise InputError(f"cannot read {path} ({reason}); give a whole PNG, JPEG or WebP picture") from error


def _tensor(picture: Image.Image) -> Float[Tensor, "1 3 h w"]:
    if _is_deep(picture):
        rgba = _premultiplied(picture)
        return rgba[:, :3] + 1 - rgba[:, 3:]
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def _is_deep(picture: Image.Image) -> bool:
    """Whether the pixels are one number of 16 bits or more, which Pillow's conversions clip at 255."""
    return picture.mode == "F" or picture.mode.startswith("I")


def _premultiplied(picture: Image.Image) -> Float[Tensor, "1 4 h w"]:
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if _is_deep(picture):
        grey = torch.from_numpy(np.array(picture.convert("I")))
        alpha = torch.ones(grey.shape)
        if isinstance(clear := picture.info.get("transparency"), int):
            alpha = (grey != clear).float()
        grey = alpha * (grey.float() / 65535).clamp(0, 1)
        return torch.stack([grey, grey, grey, alpha])[None]
    rgba = torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1)[None].float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)


def _picture(image: Float[Tensor, "1 3 h w"]) -> Image.Image:
    pixels = (image[0].detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()))


def write_png(path: Path, image: Float[Tensor, "1 3 h w"], text: Mapping[str, str] | None = None) -> None:
    """Write a PNG, atomically; `text` goes into it as international text (iTXt), a chunk for each keyword."""
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_itxt(keyword, value)
    with replacing(path) as temporary:
        _picture(image).save(temporary, "png", pnginfo=info)


def read_text(path: Path | str) -> dict[str, str]:
    """The texts in a PNG by keyword, as `write_png` takes them."""
    with Image.open(path) as file:
        return {str(keyword): str(value) for keyword, value in file.info.items() if isinstance(value, str)}


def jpeg(image: Float[Tensor, "1 3 h w"]) -> bytes:
    """A JPEG without visible loss: a frame of a film, a few times quicker than a PNG."""
    data = io.BytesIO()
    _picture(image).save(data, "jpeg", quality=95, subsampling=0)
    return data.getvalue()


def sheet(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "1 3 H W"]:
    """A contact sheet: the images in √b columns on white, 1/32 of a side apart."""
    b, _, height, width = images.shape
    columns = ceil(sqrt(b))
    rows = ceil(b / columns)
    gap = max(1, max(height, width) // 32)
    cells = functional.pad(images.detach(), (0, gap, 0, gap), value=1.0)
    cells = functional.pad(cells, (0, 0, 0, 0, 0, 0, 0, rows * columns - b), value=1.0)
    grid = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return functional.pad(grid, (gap, 0, gap, 0), value=1.0)[None]
