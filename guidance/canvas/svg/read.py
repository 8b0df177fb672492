"""An SVG document as a scene."""

import warnings
from dataclasses import dataclass
from math import hypot
from pathlib import Path

import numpy as np

from guidance.canvas.raster.scene import Scene
from guidance.canvas.svg import geometry
from guidance.canvas.svg.css import INHERITED, Sheet, Style, inherit
from guidance.canvas.svg.document import MAX_DEPTH, Budget, Element, load, parse
from guidance.canvas.svg.drawn import Drawn, ground, overlap, to_scene
from guidance.canvas.svg.geometry import Array, Contour
from guidance.canvas.svg.gradients import Gradient, resolve
from guidance.canvas.svg.shapes import number, outlines
from guidance.canvas.svg.values import (
    RGBA,
    parse_colour,
    parse_fraction,
    parse_length,
    parse_paint,
    parse_transform,
)
from guidance.canvas.svg.viewport import Viewport, fit, stated
from guidance.canvas.svg.warn import SvgWarning
from guidance.errors import InputError

#: A scene holds nothing further out, in canvases.
FARTHEST = 1e4

#: Elements that draw nothing by themselves.
_SILENT = {
    "", "defs", "title", "desc", "metadata", "style", "linearGradient", "radialGradient", "symbol",
    "clipPath", "mask", "filter", "pattern", "marker", "view", "cursor", "solidColor",
}  # fmt: skip
_UNSUPPORTED = {
    "text": "text",
    "image": "images",
    "foreignObject": "foreignObject",
    "script": "scripts",
    "animate": "animations",
    "animateMotion": "animations",
    "animateTransform": "animations",
    "set": "animations",
}
_UNSUPPORTED_PROPERTIES = {
    "clip-path": "clip paths",
    "mask": "masks",
    "filter": "filters",
    "transform": "transforms in CSS",
    "mix-blend-mode": "blend modes",
}


@dataclass(frozen=True)
class _Place:
    """Where an element stands: `matrix` takes its coordinates to the canvas."""

    matrix: Array
    style: Style
    viewport: tuple[float, float]
    depth: int = 0
    uses: frozenset[Element] = frozenset()


def read_svg(source: Path | str) -> tuple[Scene, tuple[int, int]]:
    """The drawing in an SVG file, a population of one, and the (height, width) in pixels that it states.

    `source` names the file, or is the document if it begins with "<". The canvas is the document's viewport;
    its width is 1. A shape with fill and stroke becomes two paths; a first opaque rectangle over the whole
    canvas the background. What `to_svg` wrote comes back, but for the digits that it rounded and strokes of
    varying width, which are outlines in SVG. The size is what `rasterize` takes, and follows the
    viewBox where the document states none.

    It reads shapes, groups, `use` of the document's own elements, nested `svg`, solid and gradient paint, and
    styles by attribute, `style`, and rules for names, classes and ids. The rest is left out or drawn like
    what comes next to it, and one `SvgWarning` names it. Strokes are drawn with round caps and joins. Path
    data with an error is drawn up to there, as SVG has it. Nothing is run or fetched, whatever it says.

    Raises `InputError` for a file that cannot be read, malformed XML, a DTD or entities, a document without
    size or drawing, and one beyond the caps: 64 million bytes, 200,000 elements, 64 levels, eight million
    steps of work (such as a path command), a minute.
    """
    root = parse(*load(source))
    reader = _Reader(root)
    size = stated(root, reader.note)
    scene = reader.scene(root, size)
    if reader.notes:
        warnings.warn(
            f"parts of the SVG are left out or simplified: {', '.join(reader.notes)}",
            SvgWarning,
            stacklevel=2,
        )
    return scene, size.pixels()


class _Reader:
    """Walks through a document, collects its paths, and notes what they cannot hold."""

    def __init__(self, root: Element) -> None:
        self.notes: list[str] = []
        self._spend = Budget().spend
        self._drawn: list[Drawn] = []
        self._ids: dict[str, Element] = {}
        sheets: list[str] = []
        queue = [root]
        while queue:
            element = queue.pop()
            queue += reversed(element.children)
            self._ids.setdefault(element.attributes.get("id", ""), element)
            if element.name == "style":
                sheets.append(element.text)
        self._ids.pop("", None)
        self._sheet = Sheet(sheets, self._spend, self.note)
        self._declared: dict[Element, Style] = {}
        self._styles: dict[Element, Style] = {}

    def note(self, feature: str) -> None:
        if feature not in self.notes:
            self.notes.append(feature)

    def scene(self, root: Element, size: Viewport) -> Scene:
        """Raises `InputError` when nothing is drawn."""
        matrix = np.diag([1 / size.width, 1 / size.width, 1.0])
        initial = _Place(matrix, dict(INHERITED), (size.width, size.height))
        self._draw(root, initial, size)
        if not self._drawn:
            raise InputError("the SVG has no path that can be drawn; give one with shapes")
        background = ground(self._drawn[0], size.height / size.width) if len(self._drawn) > 1 else None
        return to_scene(self._drawn[background is not None :], background)

    def _draw(self, element: Element, place: _Place, box: Viewport | None = None) -> None:
        """Draws an element; an `svg` or `symbol` into `box`, if that is given."""
        attributes = element.attributes
        self._spend(15 + len(attributes) + sum(map(len, attributes.values())) // 16)
        if place.depth > MAX_DEPTH:
            raise InputError(f"the SVG's uses nest more than {MAX_DEPTH} levels deep; simplify it")
        if element.name in _SILENT and box is None:
            return
        style = inherit(place.style, self._own(element))
        if style["display"] == "none":
            return
        moved = attributes.get("transform", "")
        self._spend(len(moved) // 4)
        matrix = parse_transform(moved)
        if matrix is None:
            self.note("malformed transforms")
            matrix = np.eye(3)
        if attributes.get("transform-origin") or style["transform-origin"]:
            self.note("transform-origin")
        matrix = place.matrix @ matrix
        if not np.abs(matrix).max() < geometry.LARGEST or abs(np.linalg.det(matrix)) < 1e-24:
            return
        here = _Place(matrix, style, place.viewport, place.depth + 1, place.uses)
        first = len(self._drawn)
        if element.name in ("g", "a"):
            self._children(element, here)
        elif element.name in ("svg", "symbol"):
            self._nested(element, here, box)
        elif element.name == "switch":
            self._switch(element, here)
        elif element.name == "use":
            self._use(element, here)
        elif (shape := outlines(element, here.viewport, self._spend, self.note)) is not None:
            self._paint(shape, here)
        else:
            self.note(_UNSUPPORTED.get(element.name, "unknown elements"))
        if len(self._drawn) > first:
            for name, feature in _UNSUPPORTED_PROPERTIES.items():
                if style[name].lower() not in ("none", "normal"):
                    self.note(feature)
            self._fade(first, parse_fraction(style["opacity"]))

    def _own(self, element: Element) -> Style:
        if element not in self._declared:
            self._declared[element] = self._sheet.declared(element, self._spend)
        return self._declared[element]

    def _style(self, element: Element) -> Style:
        """The properties of an element where it stands in the document."""
        if element not in self._styles:
            parent = dict(INHERITED) if element.parent is None else self._style(element.parent)
            self._styles[element] = inherit(parent, self._own(element))
        return self._styles[element]

    def _children(self, element: Element, place: _Place) -> None:
        for child in element.children:
            self._draw(child, place)

    def _switch(self, element: Element, place: _Place) -> None:
        for child in element.children:
            language = child.attributes.get("systemLanguage", "en")
            if child.name in ("", "foreignObject") or "requiredExtensions" in child.attributes:
                continue
            if any(name.strip().lower().startswith("en") for name in language.split(",")):
                self._draw(child, place)
                return

    def _use(self, element: Element, place: _Place) -> None:
        link = element.attributes.get("href", "").strip()
        if link and not link.startswith("#"):
            self.note("external references")
        target = self._ids.get(link[1:]) if link.startswith("#") else None
        if target is None:
            return
        if target in place.uses:
            self.note("uses that lead to themselves")
            return
        width, height = place.viewport
        move = np.eye(3)
        move[:2, 2] = number(element, "x", width, self.note), number(element, "y", height, self.note)
        there = _Place(place.matrix @ move, place.style, place.viewport, place.depth, place.uses | {target})
        if target.name not in ("svg", "symbol"):
            self._draw(target, there)
            return
        given = [element if name in element.attributes else target for name in ("width", "height")]
        box = Viewport(
            number(target, "x", width, self.note),
            number(target, "y", height, self.note),
            number(given[0], "width", width, self.note, width),
            number(given[1], "height", height, self.note, height),
        )
        self._draw(target, there, box)

    def _nested(self, element: Element, place: _Place, box: Viewport | None) -> None:
        width, height = place.viewport
        if box is None:
            box = Viewport(
                number(element, "x", width, self.note),
                number(element, "y", height, self.note),
                number(element, "width", width, self.note, width),
                number(element, "height", height, self.note, height),
            )
        if box.empty:
            return
        inner, viewport = fit(element, box, self.note)
        first = len(self._drawn)
        self._children(element, _Place(place.matrix @ inner, place.style, viewport, place.depth, place.uses))
        # The canvas itself ends where the outermost svg does.
        if place.depth > 1 and element.attributes.get("overflow") not in ("visible", "auto"):
            corners = np.array([[box.x, box.y], [box.x + box.width, box.y + box.height]])
            edges = np.sort(corners @ place.matrix[:2, :2].T + place.matrix[:2, 2], 0).flatten()
            self._spend(10 * (len(self._drawn) - first))
            for drawn in self._drawn[first:]:
                if ((drawn.box() - edges) * [1, 1, -1, -1]).min() < -1e-3:
                    self.note("clipping to nested viewports")
                    break

    def _paint(self, contours: list[Contour], place: _Place) -> None:
        """Adds the fill and the stroke of a shape."""
        style = place.style
        if not contours or style["visibility"] in ("hidden", "collapse"):
            return
        if any(style[f"marker-{where}"] != "none" for where in ("start", "mid", "end")):
            self.note("markers")
        fill = self._resolve("fill", place, contours)
        stroke = self._resolve("stroke", place, contours)
        parts: list[Drawn | None] = []
        if fill is not None and min(_box(contours)[2:]) > 0:
            solid = [contour for contour in contours if not geometry.is_dot(contour)]
            parts.append(self._path(solid, place, fill, None))
        diagonal = hypot(*place.viewport) / 2**0.5
        width = parse_length(style["stroke-width"], diagonal, self.note)
        assert width is not None
        # A stroke without width shows nothing; one that is all there is we keep: it may be going to grow.
        if stroke is not None and (width > 0 or fill is None):
            parts.append(self._path(self._stroked(contours, style), place, stroke, width))
        if style["paint-order"].split()[:1] == ["stroke"]:
            parts.reverse()
        first = len(self._drawn)
        self._drawn += [part for part in parts if part is not None]
        self._spend(5 * (len(self._drawn) - first))

    def _stroked(self, contours: list[Contour], style: Style) -> list[Contour]:
        """The contours that have a stroke; notes what its style has that ours have not."""
        if style["stroke-dasharray"] not in ("none", ""):
            self.note("dashes")
        if style["stroke-linecap"] != "round":
            if style["stroke-linecap"] != "square":
                contours = [contour for contour in contours if not geometry.is_dot(contour)]
            if any(not contour.closed for contour in contours):
                self.note("caps other than round")
        if style["stroke-linejoin"] != "round" and any(map(geometry.has_corner, contours)):
            self.note("joins other than round")
        return contours

    def _path(
        self, contours: list[Contour], place: _Place, paint: RGBA | Gradient, width: float | None
    ) -> Drawn | None:
        """A fill, or a stroke of a `width` in the user's units."""
        style, matrix = place.style, place.matrix
        scale = 0.0
        if width:
            area = abs(float(np.linalg.det(matrix)))
            scale = area**0.5
            if style["vector-effect"] == "non-scaling-stroke":
                self.note("strokes that do not scale")
            elif (matrix[:2, :2] ** 2).sum() > (2 + 1e-6) * area:  # an axis is over 1.001 times the other
                self.note("strokes under a transform that is not uniform")
        points = [contour.array() @ matrix[:2, :2].T + matrix[:2, 2] for contour in contours]
        thickness = scale * (width or 0.0)
        if not points:
            return None
        if not max(thickness, *(np.abs(p).max() for p in points)) < FARTHEST:
            self.note(f"parts further than {FARTHEST:,.0f} canvases away")
            return None
        if isinstance(paint, Gradient):
            inverse = np.linalg.inv(matrix)
            paint = Gradient(paint.radial, paint.matrix @ inverse, paint.offsets, paint.colours)
            if not np.abs(paint.matrix).max() < 1e12:
                paint = paint.colours[-1]
        opacity = parse_fraction(style["fill-opacity" if width is None else "stroke-opacity"])
        assert opacity is not None
        if not isinstance(paint, Gradient):
            opacity *= paint[3]
        return Drawn(
            points,
            [contour.closed for contour in contours],
            width is None,
            style["fill-rule"] == "evenodd",
            thickness,
            paint,
            opacity,
        )

    def _resolve(self, name: str, place: _Place, contours: list[Contour]) -> RGBA | Gradient | None:
        """The paint of a shape's `fill` or `stroke`."""
        paint = parse_paint(place.style[name])
        assert paint is not None
        target = self._ids.get(paint.reference.removeprefix("#"))
        if paint.reference and not paint.reference.startswith("#"):
            self.note("external references")
        elif target is not None and target.name in ("linearGradient", "radialGradient"):
            box = _box(contours)
            return resolve(target, self._ids, self._style, box, place.viewport, self._spend, self.note)
        elif target is not None:
            self.note("patterns" if target.name == "pattern" else f"paint by {target.name[:40] or 'others'}")
        return parse_colour(place.style["color"]) if paint.current else paint.colour

    def _fade(self, first: int, opacity: float | None) -> None:
        """The opacity of an element, on all that it has drawn."""
        assert opacity is not None
        if opacity == 1:
            return
        parts = self._drawn[first:]
        for part in parts:
            part.opacity *= opacity
        if len(parts) > 1 and overlap(parts):
            self.note("opacity of groups whose parts overlap")


def _box(contours: list[Contour]) -> tuple[float, float, float, float]:
    """The box around a shape: left, top, width, height."""
    curves = [geometry.segments(contour.array(), contour.closed) for contour in contours]
    left, top, right, bottom = geometry.bounds(np.concatenate(curves))
    return left, top, right - left, bottom - top
