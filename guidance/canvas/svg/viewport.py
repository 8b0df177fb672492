"""Viewports: the size that a document states, and how a viewBox fits into one."""

from typing import NamedTuple

import numpy as np

from guidance.canvas.raster import MAX_SIZE
from guidance.canvas.svg.document import Element
from guidance.canvas.svg.geometry import Array, numbers
from guidance.canvas.svg.values import Note, parse_length
from guidance.errors import InputError

#: How many times longer one side of a picture may be than the other.
MAX_ASPECT = 1000.0


class Viewport(NamedTuple):
    """A rectangle in units of the user."""

    x: float
    y: float
    width: float
    height: float

    @property
    def empty(self) -> bool:
        """Whether there is nothing to see in it."""
        return min(self.width, self.height) < 1e-9

    def pixels(self) -> tuple[int, int]:
        """Height and width in whole pixels, at least 1, smaller if `rasterize` could not draw them."""
        scale = min(1.0, MAX_SIZE / max(self.width, self.height))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))


def stated(root: Element, note: Note) -> Viewport:
    """The outermost viewport, in pixels; what is missing follows the viewBox.

    Raises `InputError` when the document states no size, none with an area, or an extreme aspect.
    """
    box = _view_box(root, note)
    sizes: list[float | None] = []
    for name in ("width", "height"):
        text = root.attributes.get(name, "auto").strip()
        known = parse_length(text, 1, note) if text != "auto" and not text.endswith("%") else None
        if known is None and text != "auto" and not text.endswith("%"):
            note("malformed numbers")
        sizes.append(known)
    width, height = sizes
    if box is not None:
        if box.empty:
            raise InputError("the SVG's viewBox has no area; correct it")
        if width is None:
            width = box.width if height is None else height * box.width / box.height
        if height is None:
            height = width * box.height / box.width
    if width is None or height is None:
        raise InputError("the SVG states no size; give it a viewBox, or a width and a height")
    if not (min(width, height) > 1e-9 and 1 / MAX_ASPECT <= width / height <= MAX_ASPECT):
        raise InputError(
            f"the SVG's sides must be above 0 and within {MAX_ASPECT:g} times of each other,"
            f" got {width:g} by {height:g}"
        )
    return Viewport(0, 0, width, height)


def fit(element: Element, into: Viewport, note: Note) -> tuple[Array, tuple[float, float]]:
    """How an element's `viewBox` and `preserveAspectRatio` place it in a viewport.

    The matrix from its own coordinates to those around it, and the viewport's width and height in its own.
    """
    box = _view_box(element, note)
    if box is not None and box.empty:
        return np.zeros((3, 3)), (0.0, 0.0)
    if box is None:
        return np.array([[1.0, 0, into.x], [0, 1, into.y], [0, 0, 1]]), (into.width, into.height)
    scale = np.array([into.width / box.width, into.height / box.height])
    align, *meet = element.attributes.get("preserveAspectRatio", "").split() or ["xMidYMid"]
    if align != "none":
        scale[:] = scale.max() if meet == ["slice"] else scale.min()
    shares = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}
    share = np.array([shares.get(align[1:4], 0.5), shares.get(align[5:8], 0.5)])
    room = np.array([into.width, into.height]) - scale * [box.width, box.height]
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = np.array([into.x, into.y]) + share * room - scale * [box.x, box.y]
    return matrix, (box.width, box.height)


def _view_box(element: Element, note: Note) -> Viewport | None:
    text = element.attributes.get("viewBox")
    if text is None:
        return None
    values = numbers(text)
    if len(values) != 4:
        note("malformed numbers")
        return None
    return Viewport(*values)
