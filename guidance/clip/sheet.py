"""Pictures with their names under them, on one page."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from math import ceil, isqrt
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
    return told + _without(names[:MOST])


def write_table(
    path: Path, cells: Sequence[Sequence[Path]], rows: Sequence[str], columns: Sequence[str]
) -> str:
    """Write a `named_table` of picture files as a PNG; returns a line, and raises, as `write_sheet` does."""
    places = [[(str(file), None, 0) for file in row] for row in cells]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, named_table(places, rows, columns))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another --sheet") from error
    return f"sheet: {path}" + _without([*rows, *columns])


def named_sheet(places: Sequence[Place], names: Sequence[str], side: int = 160) -> Float[Tensor, "1 3 H W"]:
    """A contact sheet of pictures in files, `side` pixels each, with up to two lines of text under each.

    A line is in the first font that has all its characters, or else without those that the best one lacks.
    What cannot be read any more is a grey square.
    """
    return sheet(torch.cat([_tile(place, name, side) for place, name in zip(places, names, strict=True)]))


def named_table(
    cells: Sequence[Sequence[Place]], rows: Sequence[str], columns: Sequence[str]
) -> Float[Tensor, "1 3 H W"]:
    """Rows of pictures, each under its name, and the names of the columns above them all.

    A picture has up to 160 pixels a side, and fewer, but at least 32, where the page would have over ten
    million.
    """
    side = max(32, min(160, isqrt(MOST * 160**2 // (len(rows) * len(columns)))))
    step, high = side + 4, side + LINE + 8
    page = Image.new("RGB", (len(columns) * step + 4, len(rows) * high + LINE + 4), "white")
    for j, column in enumerate(columns):
        _write(page, column, 4 + j * step, 2, side)
    for i, (row, places) in enumerate(zip(rows, cells, strict=True)):
        top = LINE + 4 + i * high
        _write(page, one_line(row), 4, top, page.width - 8)
        for j, place in enumerate(places):
            _paste(page, place, 4 + j * step, top + LINE + 2, side)
    return as_image(page)


def _tile(place: Place, name: str, side: int) -> Float[Tensor, "1 3 h w"]:
    tile = Image.new("RGB", (side, side + 2 * LINE), "white")
    _paste(tile, place, 0, 0, side)
    for row, line in enumerate(_lines(name)):
        _write(tile, line, 0, side + row * LINE, side)
    return as_image(tile)


def _paste(page: Image.Image, place: Place, left: int, top: int, side: int) -> None:
    try:
        picture, _, _ = decode(read(*place).data, side)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    except Unusable:
        picture = Image.new("RGB", (side, side), "lightgrey")
    page.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))


def _write(page: Image.Image, line: str, left: int, top: int, width: int) -> None:
    """A line in the middle of `width` pixels, cut where it is longer."""
    draw, font = ImageDraw.Draw(page), _font(line)
    line = "".join(character for character in line if _has(font, character))
    if draw.textlength(line, font) > width:
        letters = range(1, len(line))
        fits = bisect_right(letters, width, key=lambda n: ceil(draw.textlength(f"{line[:n]}…", font)))
        line = f"{line[:fits]}…" if fits else ""
    draw.text((left + width / 2, top), line, "black", font, anchor="ma")


def _lines(name: str) -> list[str]:
    """The first line, and the rest in a second one."""
    first, _, rest = name.partition("\n")
    return [first, one_line(rest)]


def _without(names: Sequence[str]) -> str:
    """What is said of characters that no font here has, if there are any."""
    lines = [line for name in names for line in _lines(name)]
    lacking = sorted({c for line in lines for c in line if not _has(_font(line), c)})
    if not lacking:
        return ""
    some = "".join(lacking[:8]) + ("…" if len(lacking) > 8 else "")
    return f", without letters that no font here has ({some}); Noto Sans CJK has most"


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
