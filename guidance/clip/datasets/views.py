"""Random views of pictures, drawn from given random numbers: as 8-bit sRGB arrays, by Pillow, in threads."""

from dataclasses import dataclass
from math import cos, exp, log, pi, sin, sqrt
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageChops, ImageFilter

from guidance.clip.pictures import decode
from guidance.errors import InputError

#: The random numbers that a view needs, uniform in [0, 1).
DRAWS = 32
#: Of these, what the colours of a strong view take; the places take those before.
_COLOURS = 24
#: A strong view's crops, as shares of the picture.
STRONG = (0.3, 1.0)

Draws = Float32[np.ndarray, " draws"]
Pixels = UInt8[np.ndarray, "size size 3"]


@dataclass(frozen=True)
class Augmentation:
    """How a picture becomes the views of it that a model learns from.

    `crop` is the standard of the field, torchvision's RandomResizedCrop of the picture on white: a part of
    `scale` of its area and of `ratio`, width to height, made square (open_clip's numbers). `page` suits
    pictures with transparency: whole, 0.6 to 1.15 of the page, turned by up to 14 degrees, shifted by up to
    0.12, on a page that is white half of the time and else of any colour.

    Further views are strong, as in SimCLR: smaller crops (of a page, as it is), mirrored, with other colours,
    grey or blurred at times. Raises InputError for a scale or ratio that is none.
    """

    size: int
    kind: Literal["crop", "page"] = "crop"
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"the size of pictures must be at least 1, got {self.size}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"the scale of crops must be two rising numbers in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"the ratio of crops must be two rising positive numbers, got {self.ratio}")

    def decode(self, content: bytes) -> Image.Image:
        """A picture file's content as views are made of it, no larger than they need; raises Unusable."""
        enough = round(self.size * max(2.0, 1 / sqrt(min(self.scale[0], STRONG[0]))))
        picture, *_ = decode(content, enough // 2, opacity=self.kind == "page")
        factor = min(picture.size) // enough
        return picture.reduce(factor) if factor > 1 else picture

    def view(self, picture: Image.Image, draws: Draws, *, strong: bool) -> Pixels:
        """A view of what `decode` gave."""
        if self.kind == "page":
            seen = _page(picture, draws, self.size)
        else:
            box = crop_box(picture.size, draws, STRONG if strong else self.scale, self.ratio)
            # One operation, of the box's own pixels: no copy of the box is made before.
            seen = picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        return np.asarray(_recoloured(seen, draws[_COLOURS:]) if strong else seen)


def crop_box(
    size: tuple[int, int], draws: Draws, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The box, left, top, right, bottom, of torchvision's RandomResizedCrop in a picture of `size`.

    Ten tries at an area and a ratio that fit; then the middle, of the nearest ratio.
    """
    width, height = size
    low, high = log(ratio[0]), log(ratio[1])
    x, y = draws[20:22].tolist()
    for area, shape in draws[:20].reshape(10, 2).tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        shape = exp(low + (high - low) * shape)
        w, h = round(sqrt(area * shape)), round(sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _page(picture: Image.Image, draws: Draws, size: int) -> Image.Image:
    """A premultiplied picture on a page; the numbers are those with which the embedded guide was trained."""
    zoom, turn, back, x, y, white, *colour = draws[:9].tolist()
    scale = (0.6 + 0.55 * zoom) * size / max(picture.size)
    if scale < 1:
        # Averaged, not sampled. What is enlarged needs no step before the turn, which is most of the cost.
        shape = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
        picture, scale = picture.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0), 1.0
    angle = 0.25 * (turn - back)
    across, down = cos(angle) / scale, sin(angle) / scale
    # From the page's coordinates to the picture's, about both middles.
    cx, cy = size / 2 + 0.12 * size * (2 * x - 1), size / 2 + 0.12 * size * (2 * y - 1)
    matrix = (
        across, down, picture.width / 2 - across * cx - down * cy,
        -down, across, picture.height / 2 + down * cx - across * cy,
    )  # fmt: skip
    seen = picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    *bands, opacity = seen.split()
    page = (255, 255, 255) if white < 0.5 else [int(256 * share) for share in colour]
    # The page where the picture is clear, by a table for each colour: Pillow's bands are quicker than arrays.
    clear = np.arange(255, -1, -1)
    behind = [opacity.point(((clear * level + 127) // 255).tolist()) for level in page]
    return Image.merge("RGB", list(map(ImageChops.add, bands, behind)))


def _recoloured(picture: Image.Image, draws: Draws) -> Image.Image:
    """Mirrored half of the time, colours jittered or grey (one time in five), blurred half of the time.

    SimCLR's brightness, contrast and saturation (0.4) and hue (0.1), as one matrix, about mid-grey.
    """
    mirror, grey, blur, radius, *jitter = draws.tolist()
    if mirror < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    brightness, contrast, saturation = (1 + 0.4 * (2 * value - 1) for value in jitter[:3])
    saturation = 0.0 if grey < 0.2 else saturation
    hue = 2 * pi * 0.1 * (2 * jitter[3] - 1)
    # Chroma shrunk and turned, in YIQ.
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    across, down = saturation * cos(hue), saturation * sin(hue)
    turn = np.array([[1, 0, 0], [0, across, -down], [0, down, across]])
    colours = brightness * contrast * np.linalg.inv(yiq) @ turn @ yiq
    offset = np.full((3, 1), 127.5 * (1 - contrast))
    picture = picture.convert("RGB", tuple(np.hstack([colours, offset]).ravel().tolist()))
    if blur < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(picture.width / 224 * (0.1 + 1.9 * radius)))
    return picture
