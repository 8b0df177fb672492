"""SVG's shapes as contours."""

from collections.abc import Callable
from math import hypot

from guidance.canvas.svg import geometry
from guidance.canvas.svg.document import Element
from guidance.canvas.svg.geometry import Contour
from guidance.canvas.svg.values import Note, parse_length


def number(element: Element, name: str, whole: float, note: Note, default: float = 0.0) -> float:
    """An attribute that is a length in the user's units, where `whole` is 100%."""
    text = element.attributes.get(name)
    if text is None or text.strip() == "auto":
        return default
    value = parse_length(text, whole, note)
    if value is None:
        note("malformed numbers")
        return default
    return value


def outlines(
    element: Element, viewport: tuple[float, float], spend: Callable[[int], None], note: Note
) -> list[Contour] | None:
    """The contours of a shape in its own coordinates, none if it is not rendered; None for other elements."""
    width, height = viewport
    diagonal = hypot(width, height) / 2**0.5

    def get(name: str, whole: float) -> float:
        return number(element, name, whole, note)

    if element.name == "path":
        found, whole = geometry.path(element.attributes.get("d", ""), spend)
        if not whole:
            note("path data with an error (drawn up to it)")
        return found
    if element.name in ("polyline", "polygon"):
        values = geometry.numbers(element.attributes.get("points", ""))
        points = [complex(*values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
        spend(len(points))
        return geometry.polygon(points, element.name == "polygon")
    if element.name == "line":
        ends = [complex(get(f"x{i}", width), get(f"y{i}", height)) for i in (1, 2)]
        return geometry.polygon(ends, False)
    if element.name == "rect":
        size = (get("width", width), get("height", height))
        rx, ry = _radii(element, viewport, note)
        if min(size) <= 0:
            return []
        return geometry.rectangle(get("x", width), get("y", height), *size, rx, ry)
    if element.name in ("circle", "ellipse"):
        radius = get("r", diagonal)
        rx, ry = (radius, radius) if element.name == "circle" else _radii(element, viewport, note)
        centre = complex(get("cx", width), get("cy", height))
        return geometry.ellipse(centre, rx, ry) if min(rx, ry) > 0 else []
    return None


def _radii(element: Element, viewport: tuple[float, float], note: Note) -> tuple[float, float]:
    """rx and ry, each the other if it is not given."""
    given = [element.attributes.get(name, "auto").strip() != "auto" for name in ("rx", "ry")]
    rx, ry = number(element, "rx", viewport[0], note), number(element, "ry", viewport[1], note)
    return max(rx if given[0] else ry, 0.0), max(ry if given[1] else rx, 0.0)
