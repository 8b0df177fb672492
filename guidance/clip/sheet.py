"""Pictures with their names under them, on one page."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from guidance.clip.pictures import Unusable, as_image, decode
from guidance.clip.sources import read
from guidance.clip.table import one_line
from guidance.errors import InputError
from guidance.media import sheet, write_png

LINE = 16
#: More pictures are left out: a page of ten million pixels is what a viewer still shows quickly.
MOST = 400
#: Fonts for what Pillow's own, which is Latin, has not: by the names of their files, which Pillow finds where
#: Linux, macOS and Windows keep fonts.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJK.ttc",
    "NotoSans-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "tahoma.ttf",
    "Nirmala.ttf",
)
#: A file, the offset of the picture in it or None for all of the file, and the picture's length.
Place = tuple[str, int | None, int]


def write_sheet(path: Path, places: Sequence[Place], names: Sequence[str]) -> str:
    """Write a `named_sheet` as a PNG; returns a line that says where, and what is not on it.

    Raises InputError when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, named_sheet(places[:MOST], names[:MOST]))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another --sheet") from error
    told = f"sheet: {path}"
    if len(places) > MOST:
        told += f", the first {MOST} of {len(places)}"
    lacking = sorted({c for name in names[:MOST] for c in _undrawn(name)})
    if lacking:
        some = "".join(lacking[:8]) + ("…" if len(lacking) > 8 else "")
        told += f", without letters that no font here has ({some}); Noto Sans CJK has most"
    return told


def named_sheet(places: Sequence[Place], names: Sequence[str], side: int = 160) -> Float[Tensor, "1 3 H W"]:
    """A contact sheet of pictures in files, `side` pixels each, with up to two lines of text under each.

    A line is in the first font that has all its characters, or else without those that the best one lacks.
    What cannot be read any more is a grey square.
    """
    return sheet(torch.cat([_tile(place, name, side) for place, name in zip(places, names, strict=True)]))


def _tile(place: Place, name: str, side: int) -> Float[Tensor, "1 3 h w"]:
    tile = Image.new("RGB", (side, side + 2 * LINE), "white")
    try:
        picture, _, _ = decode(read(*place).data, side)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    except Unusable:
        picture = Image.new("RGB", (side, side), "lightgrey")
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    draw = ImageDraw.Draw(tile)
    for row, line in enumerate(_lines(name)):
        font = _font(line)
        line = "".join(character for character in line if _has(font, character))
        while line and draw.textlength(line, font) > side:
            line = line[:-2] + "…" if len(line) > 2 else ""
        draw.text((side / 2, side + row * LINE), line, "black", font, anchor="ma")
    return as_image(tile)


def _lines(name: str) -> list[str]:
    """The first line, and the rest in a second one."""
    first, _, rest = name.partition("\n")
    return [first, one_line(rest)]


def _undrawn(name: str) -> set[str]:
    return {c for line in _lines(name) for c in line if not _has(_font(line), c)}


@cache
def _fonts() -> list[ImageFont.FreeTypeFont]:
    own = ImageFont.load_default(LINE - 4)
    assert isinstance(own, ImageFont.FreeTypeFont)  # the other kind comes without a size
    found = [own]
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, LINE - 4))
        except OSError:  # not here
            continue
    return found


@cache
def _font(line: str) -> ImageFont.FreeTypeFont:
    return max(_fonts(), key=lambda font: sum(_has(font, character) for character in line))


@cache
def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font draws something else for a character than for one that does not exist."""
    unknown, mask = font.getmask("\U0010ffff"), font.getmask(character)
    return character.isspace() or (mask.size, bytes(mask)) != (unknown.size, bytes(unknown))
