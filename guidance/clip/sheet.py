"""Pictures with their names under them, on one page."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from guidance.clip.pictures import Unusable, as_image, decode
from guidance.clip.sources import read
from guidance.media import sheet

LINE = 16


def named_sheet(
    places: Sequence[tuple[str, int | None, int]], names: Sequence[str], side: int = 160
) -> Float[Tensor, "1 3 H W"]:
    """A contact sheet of pictures in files, `side` pixels each, with up to two lines of text under each.

    A place is a file, the offset of the picture in it (None for all of the file) and its length. What cannot
    be read any more is a grey square.
    """
    return sheet(torch.cat([_tile(place, name, side) for place, name in zip(places, names, strict=True)]))


def _tile(place: tuple[str, int | None, int], name: str, side: int) -> Float[Tensor, "1 3 h w"]:
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
