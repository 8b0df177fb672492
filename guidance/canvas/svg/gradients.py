"""SVG's gradients, resolved to what a scene holds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, isfinite

import numpy as np

from guidance.canvas.svg.css import Style
from guidance.canvas.svg.document import Element
from guidance.canvas.svg.geometry import Array
from guidance.canvas.svg.values import RGBA, Note, parse_colour, parse_fraction, parse_length, parse_transform

#: Of a gradient with more stops only so many are used; a table of all gradients is as wide as the longest.
MAX_STOPS = 64

#: In SVG, the common attributes go from one kind of gradient to the other, those of its geometry do not.
_COMMON = ("gradientUnits", "gradientTransform", "spreadMethod")
_GEOMETRY = {
    "linearGradient": {"x1": "0%", "y1": "0%", "x2": "100%", "y2": "0%"},
    "radialGradient": {"cx": "50%", "cy": "50%", "r": "50%"},
}


@dataclass(frozen=True)
class Gradient:
    """A gradient for one path: `matrix` [2, 3] takes the user's space to (u, v), as in `Gradients`."""

    radial: bool
    matrix: Array
    offsets: list[float]
    colours: list[RGBA]


def resolve(
    element: Element,
    ids: dict[str, Element],
    style: Callable[[Element], Style],
    box: tuple[float, float, float, float],
    viewport: tuple[float, float],
    spend: Callable[[int], None],
    note: Note,
) -> Gradient | RGBA | None:
    """A gradient for a path with the bounding `box` (left, top, width, height), or the colour it is all over.

    None if nothing is to be painted: a gradient without stops, or one that scales with a box without area.
    `style` gives an element's properties. What cannot be represented goes to `note`.
    """
    chain = _chain(element, ids)
    spend(20 + sum(len(link.children) for link in chain))
    kind = element.name
    attributes = dict(_GEOMETRY[kind])
    names: tuple[str, ...]
    for link in reversed(chain):
        names = (*_COMMON, *_GEOMETRY[kind], "fx", "fy", "fr") if link.name == kind else _COMMON
        attributes |= {name: link.attributes[name] for name in names if name in link.attributes}
    filled = [link for link in chain if any(child.name == "stop" for child in link.children)]
    if not filled:
        return None
    elements = [child for child in filled[0].children if child.name == "stop"]
    if len(elements) > MAX_STOPS:
        note(f"gradients with over {MAX_STOPS} stops")
        elements = [elements[i] for i in np.linspace(0, len(elements) - 1, MAX_STOPS).round().astype(int)]
    stops = [_stop(child, style, note) for child in elements]
    offsets = np.maximum.accumulate([offset for offset, _ in stops]).tolist()
    colours = [paint for _, paint in stops]
    if len(stops) == 1:
        return colours[0]
    if attributes.get("spreadMethod", "pad") not in ("pad", ""):
        note("spread methods of gradients")
    if style(element)["color-interpolation"].lower() == "linearrgb":
        note("gradients in linear RGB")

    # From the user's space to that of the gradient.
    boxed = attributes.get("gradientUnits") != "userSpaceOnUse"
    left, top, width, height = box
    units = np.array([[width, 0, left], [0, height, top], [0, 0, 1]]) if boxed else np.eye(3)
    given = parse_transform(attributes.get("gradientTransform", ""))
    if given is None:
        note("malformed transforms")
        given = np.eye(3)
    forward = units @ given
    if not abs(np.linalg.det(forward)) > 1e-12 * np.abs(forward[:2, :2]).max(initial=0) ** 2:
        return None
    backward = np.linalg.inv(forward)

    whole = (1.0, 1.0) if boxed else viewport
    diagonal = hypot(*whole) / 2**0.5

    def number(name: str, whole: float) -> float:
        value = parse_length(attributes[name], whole, note)
        if value is None:
            note("malformed numbers")
            value = whole * float(_GEOMETRY[kind].get(name, "50%").removesuffix("%")) / 100
        return value

    if kind == "linearGradient":
        x1, x2 = number("x1", whole[0]), number("x2", whole[0])
        y1, y2 = number("y1", whole[1]), number("y2", whole[1])
        dx, dy = x2 - x1, y2 - y1
        square = dx * dx + dy * dy
        if not square > 1e-24:
            return colours[-1]
        matrix = np.array([[dx, dy, -dx * x1 - dy * y1], [-dy, dx, dy * x1 - dx * y1]]) / square
    else:
        cx, cy, r = number("cx", whole[0]), number("cy", whole[1]), number("r", diagonal)
        if not r > 1e-12:
            return colours[-1]
        focus = [("fx", whole[0], cx), ("fy", whole[1], cy), ("fr", diagonal, 0.0)]
        away = [number(name, part) - usual for name, part, usual in focus if name in attributes]
        if max(map(abs, away), default=0) > 1e-3 * r:
            note("focal points of gradients")
        matrix = np.array([[1, 0, -cx], [0, 1, -cy]]) / r
    total = matrix @ backward
    if not np.abs(total).max() < 1e12:
        return colours[-1]
    return Gradient(kind == "radialGradient", total, offsets, colours)


def _chain(element: Element, ids: dict[str, Element]) -> list[Element]:
    """The gradient and those that it refers to, one after the other; a circle ends it."""
    chain = [element]
    while True:
        link = ids.get(chain[-1].attributes.get("href", "").strip().removeprefix("#"))
        if link is None or link.name not in _GEOMETRY or link in chain or len(chain) > 16:
            return chain
        chain.append(link)


def _stop(element: Element, style: Callable[[Element], Style], note: Note) -> tuple[float, RGBA]:
    properties = style(element)
    name = properties["stop-color"]
    painted = parse_colour(properties["color"] if name.lower() == "currentcolor" else name)
    opacity = parse_fraction(properties["stop-opacity"])
    assert painted is not None
    assert opacity is not None
    offset = parse_fraction(element.attributes.get("offset", "0"))
    if offset is None or not isfinite(offset):
        note("malformed numbers")
        offset = 0.0
    return offset, (*painted[:3], painted[3] * opacity)
