"""The values of SVG's attributes and CSS's properties: colours, paints, lengths, transforms.

tinycss2 reads CSS and its colours: it is small, pure Python, kept by the makers of WeasyPrint, and works
without recursion on what nests.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np
import tinycss2
from tinycss2 import color4
from tinycss2.ast import Node

from guidance.canvas.svg.geometry import LARGEST, Array, numbers
from guidance.errors import InputError

#: Takes the name of a feature that cannot be represented.
Note = Callable[[str], None]
#: sRGB and opacity in [0, 1].
RGBA = tuple[float, float, float, float]

_LENGTH = re.compile(r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Z]*|%)\s*")
_UNITS = {
    "": 1.0,
    "px": 1.0,
    "pt": 4 / 3,
    "pc": 16.0,
    "in": 96.0,
    "cm": 96 / 2.54,
    "mm": 96 / 25.4,
    "q": 96 / 101.6,
}
#: Relative to the font, of which we know no more than that it is usually 16 pixels high.
_FONT_UNITS = {"em": 16.0, "rem": 16.0, "ex": 8.0, "ch": 8.0}


class Paint(NamedTuple):
    """A colour, the element's `color` (`current`), the gradient with the id `reference`, or nothing."""

    colour: RGBA | None = None
    current: bool = False
    reference: str = ""


@lru_cache(4096)
def parse_paint(value: str) -> Paint | None:
    """The value of `fill` or `stroke`; None if it is invalid."""
    parts = [token for token in tokens(value) if token.type not in ("whitespace", "comment")]
    reference = ""
    if parts and parts[0].type == "url":
        reference = parts.pop(0).value
    elif parts and parts[0].type == "function" and parts[0].lower_name == "url":
        strings = [t for t in parts.pop(0).arguments if t.type == "string"]
        reference = strings[0].value if strings else " "
    if reference and not parts:
        return Paint(reference=reference)
    if len(parts) != 1:
        return None
    word = parts[0].lower_value if parts[0].type == "ident" else ""
    if word == "none":
        return Paint(reference=reference)
    if word == "currentcolor":
        return Paint(current=True, reference=reference)
    found = _colour(parts[0])
    return None if found is None else Paint(found, reference=reference)


@lru_cache(4096)
def parse_colour(value: str) -> RGBA | None:
    """sRGB and opacity in [0, 1] of a colour in any form of CSS that stays in sRGB; None if it is invalid."""
    return _colour(tinycss2.parse_one_component_value(readable(value), skip_comments=True))


def parse_fraction(value: str) -> float | None:
    """A number or percentage, such as an opacity, within [0, 1]; None if it is neither."""
    match = _LENGTH.fullmatch(value)
    if not match or match[2] not in ("", "%"):
        return None
    return _clip(float(match[1]) / (100 if match[2] else 1))


def parse_length(value: str, whole: float, note: Note) -> float | None:
    """A length in pixels, where `whole` is 100%; None if it is invalid."""
    match = _LENGTH.fullmatch(value)
    if not match:
        return None
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        scale = whole / 100
    elif unit in _FONT_UNITS:
        note("lengths relative to the font")
        scale = _FONT_UNITS[unit]
    elif unit in _UNITS:
        scale = _UNITS[unit]
    else:
        return None
    return number * scale if abs(number) < LARGEST else None


_TRANSFORM = re.compile(r"[\s,]*(matrix|translate|scale|rotate|skewX|skewY)\s*\(([^()]*)\)")


def parse_transform(text: str) -> Array | None:
    """The matrix [3, 3] of a `transform` attribute; None if it is malformed."""
    total = np.eye(3)
    at = 0
    while match := _TRANSFORM.match(text, at):
        step = _matrix(match[1], numbers(match[2]))
        if step is None:
            return None
        total = total @ step
        if not np.abs(total).max() < LARGEST:
            return None
        at = match.end()
    return total if text[at:].strip(" \t\r\n\f,") in ("", "none") else None


def _matrix(kind: str, values: list[float]) -> Array | None:
    counts = {"matrix": (6,), "translate": (1, 2), "scale": (1, 2), "rotate": (1, 3)}
    if len(values) not in counts.get(kind, (1,)):
        return None
    if kind == "matrix":
        a, b, c, d, e, f = values
        return np.array([[a, c, e], [b, d, f], [0, 0, 1]])
    if kind == "translate":
        return np.array([[1, 0, values[0]], [0, 1, values[1] if len(values) == 2 else 0], [0, 0, 1]])
    if kind == "scale":
        return np.diag([values[0], values[-1], 1.0])
    angle = np.radians(values[0])
    if kind == "rotate":
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        if len(values) == 3:
            centre = np.array(values[1:])
            turn[:2, 2] = centre - turn[:2, :2] @ centre
        return turn
    skew = np.eye(3)
    skew[(0, 1) if kind == "skewX" else (1, 0)] = np.tan(angle)
    return skew


def _colour(token: Node) -> RGBA | None:
    if token.type == "function" and token.lower_name not in ("rgb", "rgba", "hsl", "hsla", "hwb"):
        return None
    found = color4.parse_color(token)
    if found is None or found == "currentcolor":
        return None
    red, green, blue, alpha = found.to("srgb")
    if not all(map(isfinite, (red, green, blue, alpha))):
        return None
    return _clip(red), _clip(green), _clip(blue), _clip(alpha)


def _clip(number: float) -> float:
    return min(max(number, 0.0), 1.0)


def readable(text: str) -> str:
    """CSS that tinycss2 can read. Raises `InputError`."""
    # Python refuses to make whole numbers of thousands of digits, and tinycss2 makes them.
    if re.search("[0-9]{1000}", text):
        raise InputError("the SVG's CSS has a number of more than 1000 digits; correct it")
    return text


def tokens(text: str) -> list[Node]:
    """The tokens of CSS."""
    return tinycss2.parse_component_value_list(readable(text))
