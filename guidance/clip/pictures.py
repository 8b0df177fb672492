"""Picture files made ready for a model on all cores, while the model runs: upright, on white, at its size.

The result is what open_clip's own preprocessing gives, 8 bits a channel, with four differences. A JPEG is
decoded at a half, a quarter or an eighth of its size where that is at least twice what the model sees
(libjpeg's scaled DCT), which is several times as quick for photographs. A picture is turned as its EXIF data
say. It lies on white where it is transparent, not on whatever colour is hidden there. 16 bits are scaled, not
clipped.

Files may come from anyone: the formats are few, sizes are bounded before anything is decoded, and whatever
Pillow raises makes the picture `Unusable`, with a reason.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from guidance.clip.encoder import Clip
from guidance.media import MAX_PIXELS

#: Larger files are not read.
MAX_BYTES = 256 * 2**20
#: Formats that show pictures, not programs (EPS) or documents.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
#: Of these, files with several frames move; a TIFF has pages and a JPEG (MPO) other views of the same.
ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")

T = TypeVar("T")
P = TypeVar("P")
Fit = Callable[[Image.Image], Image.Image]
Pixels = UInt8[np.ndarray, "size size 3"]


class Unusable(Exception):
    """A picture that cannot be used; its text is the reason, a few words."""


@dataclass(frozen=True)
class Ready:
    """A picture as a model sees it, and the size that it had, in pixels."""

    pixels: Pixels
    width: int
    height: int


def suffixes() -> set[str]:
    """The endings of picture files' names, with their dots, in lower case."""
    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}


def fitting(clip: Clip) -> Fit:
    """The geometry of open_clip's own preprocessing for a model: from RGB pictures to those it sees."""
    import open_clip

    cfg = clip.preprocessing
    transform = open_clip.image_transform(
        clip.image_size,
        is_train=False,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        resize_mode=cfg["resize_mode"],
        interpolation=cfg["interpolation"],
        fill_color=cfg["fill_color"],
    )
    steps = transform.transforms[:-2]  # what follows makes tensors and normalises them

    def fit(picture: Image.Image) -> Image.Image:
        for step in steps:
            picture = step(picture)
        return picture

    return fit


def decode(content: bytes, size: int, *, opacity: bool = False) -> tuple[Image.Image, int, int]:
    """A picture as 8-bit RGB, at least twice `size` a side unless it is smaller, and its width and height.

    With `opacity` it is premultiplied RGBA instead of lying on white. Raises Unusable for a picture that is
    broken, animated or huge, and for what is no picture.
    """
    try:
        with Image.open(BytesIO(content), formats=_formats()) as file:
            width, height = file.size
            if width * height > MAX_PIXELS:
                raise Unusable(f"over {MAX_PIXELS // 10**6} million pixels")
            if file.format in ANIMATED and file.is_animated:  # type: ignore[attr-defined]
                raise Unusable("animated")
            shorter, longer = sorted(file.size)
            if size * size * longer > MAX_PIXELS * shorter:
                raise Unusable(
                    "too narrow"
                )  # a model may see its shorter side enlarged, and all of the longer
            if shorter > 2 * size:
                file.draft(None, (2 * size * width // shorter, 2 * size * height // shorter))
            stored = file.size
            picture = _flat(ImageOps.exif_transpose(file), opacity)
            upright = (width, height) if picture.size == stored else (height, width)
            return picture, *upright
    except Unusable:
        raise
    except Image.UnidentifiedImageError as error:
        raise Unusable("not a picture") from error
    except Image.DecompressionBombError as error:
        raise Unusable(f"over {MAX_PIXELS // 10**6} million pixels") from error
    # Pillow's decoders raise nearly anything on a broken file (SyntaxError, struct.error, IndexError, ...).
    except Exception as error:
        raise Unusable("broken") from error


def prepare(content: bytes, size: int, fit: Fit) -> Ready:
    """A picture file's content made ready for a model that sees `size` pixels; raises Unusable."""
    picture, width, height = decode(content, size)
    return Ready(np.array(fit(picture)), width, height)


def ahead(
    items: Iterable[T], work: Callable[[T], P], lead: int, threads: int | None = None
) -> Iterator[tuple[T, P | Unusable]]:
    """Each item with what `work` makes of it, in order; up to `lead` of them are worked on in advance.

    The work is done by `threads`, by default one for each core: Pillow's decoders run outside Python's lock.
    """
    waiting: deque[tuple[T, Future[P | Unusable]]] = deque()
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        with warnings.catch_warnings():
            # What Pillow finds odd in a file that it can read is nothing that the user can change.
            warnings.filterwarnings("ignore", module="PIL")
            for item in items:
                waiting.append((item, pool.submit(_attempt, work, item)))
                if len(waiting) > lead:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@torch.no_grad()
def encode(clip: Clip, pictures: list[Pixels]) -> Float[Tensor, "n d"]:
    """Embeddings, on the CPU, of pictures that are ready."""
    batch = torch.from_numpy(np.stack(pictures)).to(clip.device).permute(0, 3, 1, 2)
    return clip.encode_image(batch.float() / 255).cpu()


def as_image(picture: Image.Image) -> Float[Tensor, "1 3 h w"]:
    """An RGB picture as an image in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _attempt(work: Callable[[T], P], item: T) -> P | Unusable:
    try:
        return work(item)
    except Unusable as reason:
        return reason


def _formats() -> list[str]:
    """Those that this Pillow was built with."""
    known = set(Image.registered_extensions().values())
    return [name for name in FORMATS if name in known]


def _flat(picture: Image.Image, opacity: bool) -> Image.Image:
    """8-bit RGB on white, or RGBa."""
    if picture.mode == "F":
        raise Unusable("floating-point pixels")
    if picture.mode.startswith("I"):  # Pillow's own conversion to RGB would clip 16 bits at 255
        grey = np.array(picture.convert("I")).clip(0, 65535) / 257
        picture = Image.fromarray(grey.round().astype(np.uint8))
    if opacity:
        return picture.convert("RGBA").convert("RGBa")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
