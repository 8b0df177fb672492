"""Pictures with their names under them, on one page."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from guidance.clip.pictures import Unusable, as_image, decode
from guidance.clip.sources import read
from guidance.errors import InputError
from guidance.media import sheet, write_png

LINE = 16
#: A file, the offset of the picture in it or None for all of the file, and the picture's length.
Place = tuple[str, int | None, int]


def write_sheet(path: Path, places: Sequence[Place], names: Sequence[str]) -> None:
    """Write a `named_sheet` as a PNG; raises InputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, named_sheet(places, names))
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another --sheet") from error


def named_sheet(places: Sequence[Place], names: Sequence[str], side: int = 160) -> Float[Tensor, "1 3 H W"]:
    """A contact sheet of pictures in files, `side` pixels each, with up to two lines of text under each.

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
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(LINE - 4)
    for row, line in enumerate(name.splitlines()[:2]):
        while line and draw.textlength(line, font) > side:
            line = line[:-2] + "…" if len(line) > 2 else ""
        draw.text((side / 2, side + row * LINE), line, "black", font, anchor="ma")
    return as_image(tile)
