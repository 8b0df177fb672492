"""A scene as an SVG document."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guidance.canvas.raster.scene import Gradients, Scene
from guidance.errors import InputError

Array = NDArray[np.float64]

#: How far, in pixels, the outline of a stroke of varying width may be from the stroke.
TOLERANCE = 0.02

#: Gradients that change by less than this over the canvas are drawn as if they changed by as much: not by a
#: level of 8 bits, and the inverse that SVG wants of their transform exists.
FLATTEST = 1e-3


def to_svg(
    scene: Scene,
    size: float | tuple[float, float],
    *,
    member: int = 0,
    title: str | None = None,
    metadata: str | None = None,
    unit: Literal["px", "mm"] = "px",
    layers: Sequence[tuple[str, int]] = (),
) -> str:
    """One member of the scene's population as an SVG of `size` pixels, in painting order.

    `size` is the width of a square or (height, width), or as many millimetres. Any viewer shows what
    `rasterize(scene, size)` does; without a background the document is transparent. `title` is free text,
    such as the prompt; `metadata` is XML for the element of that name, well-formed and escaped. `layers`,
    names with numbers of paths, one after another, become Inkscape's layers, which are groups to others.

    SVG's strokes have one width. A path whose width varies becomes the outline of its stroke: of the union of
    the discs along it, as discs and the quadrilaterals that join them, within 0.02 pixels. A gradient whose
    transform is singular, or flatter than a thousandth over the canvas, is written as one that steep: the
    picture's centre keeps its colour and the others change by less than a level of 8 bits.

    Raises `InputError` for a member that there is not or a size below 1.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    if min(height, width) < 1:
        raise InputError(f"size must be at least 1 {unit}, got {height:g} by {width:g}")
    scene = scene.member(member)
    suffix = "" if unit == "px" else unit
    names = ' xmlns:inkscape="http://www.inkscape.org/namespaces/inkscape"' if layers else ""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg"{names} viewBox="0 0 {width:g} {height:g}"',
        f' width="{width:g}{suffix}" height="{height:g}{suffix}">',
    ]
    if title:
        lines.append(f"<title>{escape(printable(title))}</title>")
    if metadata:
        lines.append(f"<metadata>\n{metadata}\n</metadata>")
    if scene.gradients is not None:
        lines += ["<defs>", *_gradients(scene.gradients, width, height), "</defs>"]
    if scene.background is not None:
        lines.append(f'<rect width="{width:g}" height="{height:g}" fill="{_rgb(_list(scene.background))}"/>')
    lines.append('<g fill="none" stroke-linecap="round" stroke-linejoin="round">')
    paths = iter(_paths(scene, width))
    for name, count in layers:
        lines += [
            f'<g inkscape:groupmode="layer" inkscape:label="{escape(name)}">',
            *islice(paths, count),
            "</g>",
        ]
    return "\n".join([*lines, *paths, "</g>", "</svg>"]) + "\n"


def _paths(scene: Scene, width: float) -> Iterable[str]:
    """The elements of the paths, in painting order."""
    gradients = set() if scene.gradients is None else set(scene.gradients.paths.tolist())
    n = scene.opacity.shape[1]
    along = scene.widths.ndim == 1
    points = _split(_array(scene.points) * width, scene.sizes)
    thicknesses = _split(_array(scene.widths) * width, scene.sizes) if along else None
    widths = np.zeros(n) if along else _array(scene.widths[0]) * width
    closed = [False] * len(points) if scene.closed is None else scene.closed.tolist()
    counts = [1] * n if scene.contours is None else scene.contours[0].tolist()
    filled = [False] * n if scene.filled is None else scene.filled[0].tolist()
    even_odd = [False] * n if scene.even_odd is None else scene.even_odd[0].tolist()
    rows = zip(_list(scene.colours[0]), _list(scene.opacity[0]), counts, filled, even_odd, strict=True)
    first = 0
    for i, (colour, opacity, count, fill, even) in enumerate(rows):
        ours = slice(first, first + count)
        first += count
        stroke_width = float(widths[i])
        data = "".join(_contour(*contour) for contour in zip(points[ours], closed[ours], strict=True))
        if thicknesses is not None and not fill:
            varying = np.concatenate(thicknesses[ours])
            stroke_width = float(varying[0])
            if (varying != stroke_width).any():
                data = "".join(
                    _outline(*contour)
                    for contour in zip(points[ours], thicknesses[ours], closed[ours], strict=True)
                )
                fill, even = True, False
        kind = "fill" if fill else "stroke"
        paint = f"url(#g{i})" if i in gradients else _rgb(colour)
        yield (
            f'<path d="{data}" {kind}="{paint}" {kind}-opacity="{opacity:.4f}"'
            + (' fill-rule="evenodd"' if fill and even else "")
            + ("/>" if fill else f' stroke-width="{stroke_width:.3f}"/>')
        )


def _contour(points: Array, closed: bool) -> str:
    """Path data of one contour of cubics."""
    corners = [f"{x:.3f} {y:.3f}" for x, y in points.tolist()]
    if closed:
        corners.append(corners[0])
    return f"M{corners[0]}C{' '.join(corners[1:])}{'Z' if closed else ''}"


def _outline(points: Array, widths: Array, closed: bool) -> str:
    """Path data of a contour's stroke of varying width.

    The curve (x, y, radius) is cut into pieces so short that the chord of each is near (the error of a chord
    over a step h is at most h²/8 of the second derivative). The union of the discs along a piece is the discs
    at its ends and the quadrilateral of their outer tangents; all are run through in the same direction, so
    that the nonzero rule unites them.
    """
    rows = np.column_stack([points, widths / 2])
    if closed:
        rows = np.concatenate([rows, rows[:1]])
    nodes = [rows[:1]]
    for start in range(0, len(rows) - 1, 3):
        a, b, c, d = rows[start : start + 4]
        bend = 6 * max(np.abs(a - 2 * b + c).sum(), np.abs(b - 2 * c + d).sum())
        t = np.linspace(0, 1, 1 + max(1, int(np.ceil(np.sqrt(bend / 8 / TOLERANCE)))))[1:, None]
        s = 1 - t
        nodes.append(s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d)
    discs = np.concatenate(nodes)
    data = [
        f"M{x - r:.3f} {y:.3f}a{r:.3f} {r:.3f} 0 1 1 {2 * r:.3f} 0a{r:.3f} {r:.3f} 0 1 1 {-2 * r:.3f} 0Z"
        for x, y, r in discs.tolist()
        if r >= 0.0005
    ]
    p, q = discs[:-1], discs[1:]
    along = q[:, 0] + 1j * q[:, 1] - p[:, 0] - 1j * p[:, 1]
    length, taper = np.abs(along), p[:, 2] - q[:, 2]
    apart = length > np.abs(taper)  # otherwise one disc holds the other
    p, q, along, length, taper = p[apart], q[apart], along[apart], length[apart], taper[apart]
    turn = np.exp(1j * np.arccos(taper / length))
    left, right = along / length * turn, along / length / turn
    sides = [(p, left), (p, right), (q, right), (q, left)]
    corners = np.stack([end[:, 0] + 1j * end[:, 1] + end[:, 2] * side for end, side in sides], 1)
    data += [
        f"M{'L'.join(f'{corner.real:.3f} {corner.imag:.3f}' for corner in quad)}Z"
        for quad in corners.tolist()
    ]
    return "".join(data)


def _gradients(gradients: Gradients, width: float, height: float) -> Iterable[str]:
    """The elements that define the gradients, called after their paths."""
    rows = zip(
        gradients.paths.tolist(),
        gradients.radial.tolist(),
        _array(gradients.transforms),
        _list(gradients.offsets),
        _list(gradients.colours),
        strict=True,
    )
    centre = np.array([0.5, height / width / 2])
    for path, radial, transform, offsets, colours in rows:
        # Around the centre: (u, v) = middle + matrix · (place − centre).
        matrix = transform[:, :2]
        middle = matrix @ centre + transform[:, 2]
        if radial:
            left, stretch, right = np.linalg.svd(matrix)
            inverse = right.T / np.maximum(stretch, FLATTEST) @ left.T * width
            origin = centre * width - inverse @ middle
            # SVG's matrix is that from the gradient's space to the canvas, column by column.
            numbers = " ".join(f"{number:.9g}" for number in [*inverse.T.flatten(), *origin])
            kind = "radialGradient"
            geometry = f'cx="0" cy="0" r="1" gradientTransform="matrix({numbers})"'
        else:
            # Colours are constant across the direction in which u grows, whatever v does.
            steep = float(np.hypot(*matrix[0]))
            direction = matrix[0] / steep if steep > 0 else np.array([1.0, 0.0])
            step = direction / max(steep, FLATTEST) * width
            x1, y1 = centre * width - step * middle[0]
            x2, y2 = centre * width + step * (1 - middle[0])
            kind = "linearGradient"
            geometry = f'x1="{x1:.9g}" y1="{y1:.9g}" x2="{x2:.9g}" y2="{y2:.9g}"'
        yield f'<{kind} id="g{path}" gradientUnits="userSpaceOnUse" {geometry}>'
        for offset, (*colour, opacity) in zip(offsets, colours, strict=True):
            yield f'<stop offset="{offset:.6g}" stop-color="{_rgb(colour)}" stop-opacity="{opacity:.4f}"/>'
        yield f"</{kind}>"


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def _list(tensor: Tensor) -> list:
    return tensor.detach().double().cpu().tolist()


def _split(rows: Array, sizes: Tensor) -> list[Array]:
    return np.split(rows, sizes.cumsum(0)[:-1].tolist())


def _rgb(colour: list[float]) -> str:
    """A colour with the decimals that eight bits would lose; CSS rounds or keeps them."""
    return f"rgb({', '.join(f'{100 * channel:.2f}%' for channel in colour)})"


def printable(text: str) -> str:
    """The text without the characters that XML forbids, most of them control characters."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
    )
