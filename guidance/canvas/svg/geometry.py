"""The shapes of SVG as contours of cubic Bézier segments.

We parse path data ourselves: fontTools and svgelements read numbers such as 007, 1. or -6.e-5 as something
else, pass over garbage, or fail where a flag of an arc is followed by a line break (fontTools 4.68), and
neither draws what comes before an error.
"""

import re
from cmath import phase
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, radians, sin, sqrt, tan

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Numbers beyond this are taken for an error; their products still fit into a double.
LARGEST = 1e12

_COMMAND = re.compile(r"[ \t\r\n\f]*([MmZzLlHhVvCcSsQqTtAa])")
_NUMBER = re.compile(r"[ \t\r\n\f]*,?[ \t\r\n\f]*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")
_FLAG = re.compile(r"[ \t\r\n\f]*,?[ \t\r\n\f]*([01])")
_BLANK = re.compile(r"[ \t\r\n\f]*")
_COUNTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}


@dataclass(frozen=True)
class Contour:
    """Control points as complex numbers, [3s + 1], or [3s] if it is closed."""

    points: list[complex]
    closed: bool

    def array(self) -> Array:
        """The control points, [k, 2]."""
        points = np.array(self.points)
        return np.stack([points.real, points.imag], -1)


def numbers(text: str) -> list[float]:
    """The numbers of a list, up to the first thing that is none."""
    found, at = [], 0
    while (match := _NUMBER.match(text, at)) and abs(value := float(match[1])) < LARGEST:
        found.append(value)
        at = match.end()
    return found


class _Pen:
    """Collects contours; its methods take absolute points."""

    def __init__(self) -> None:
        self.contours: list[Contour] = []
        self.start = self.at = 0j
        self._points: list[complex] = []
        self._begun = False

    def move(self, to: complex) -> None:
        self.end()
        self.start = self.at = to
        self._begun = True

    def curve(self, a: complex, b: complex, to: complex) -> None:
        if not self._points:
            self._points = [self.at]
            self._begun = True
        self._points += [a, b, to]
        self.at = to

    def line(self, to: complex) -> None:
        step = (to - self.at) / 3
        self.curve(self.at + step, to - step, to)

    def quadratic(self, control: complex, to: complex) -> None:
        self.curve(self.at + (control - self.at) * 2 / 3, to + (control - to) * 2 / 3, to)

    def arc(self, rx: float, ry: float, angle: float, large: bool, sweep: bool, to: complex) -> None:
        """An elliptical arc, by at most 90° a cubic (SVG 2, appendix B.2)."""
        rx, ry = abs(rx), abs(ry)
        if to == self.at:
            return
        # One so thin beside its chord that it is a line, or so large that it cannot be told from it.
        if not 1e-12 * abs(to - self.at) < min(rx, ry) <= max(rx, ry) < 1e12 * abs(to - self.at):
            self.line(to)
            return
        turn = complex(cos(radians(angle)), sin(radians(angle)))
        half = (self.at - to) / 2 / turn  # from the middle of the chord, along the axes of the ellipse
        unit = complex(half.real / rx, half.imag / ry)
        grow = abs(unit)
        if grow > 1:
            rx, ry, unit = rx * grow, ry * grow, unit / grow
        away = sqrt(max(0.0, 1 / abs(unit) ** 2 - 1)) * (1 if large != sweep else -1)
        centre = unit * -1j * away
        first, last = unit - centre, -unit - centre
        extent = phase(last / first)
        if sweep and extent < 0:
            extent += 2 * pi
        elif not sweep and extent > 0:
            extent -= 2 * pi
        middle = (self.at + to) / 2

        def place(point: complex) -> complex:
            point += centre
            return middle + complex(point.real * rx, point.imag * ry) * turn

        count = max(1, ceil(abs(extent) / (pi / 2) - 1e-6))
        step = extent / count
        reach = 4 / 3 * tan(step / 4)
        begin = first
        for i in range(1, count + 1):
            end = first * complex(cos(i * step), sin(i * step))
            goal = to if i == count else place(end)
            self.curve(place(begin * (1 + 1j * reach)), place(end * (1 - 1j * reach)), goal)
            begin = end

    def close(self) -> None:
        if not self._begun:
            return
        # Relative steps that lead back to the start miss it by rounding.
        if not self._points or abs(self.at - self.start) > 1e-9 * max(map(abs, self._points)):
            self.line(self.start)
        self.contours.append(Contour(self._points[:-1], True))
        self._points = []
        self._begun = False
        self.at = self.start

    def end(self) -> None:
        if self._points:
            self.contours.append(Contour(self._points, False))
        self._points = []


def path(data: str, spend: Callable[[int], None]) -> tuple[list[Contour], bool]:
    """The contours of path data up to its first error, and whether there was none.

    That is how SVG wants errors handled. Raises what `spend`, called for every command, raises.
    """
    pen = _Pen()
    at, command, control = 0, "", 0j
    previous = ""  # the curve before, for S and T
    begun = False
    whole = True
    while True:
        if match := _COMMAND.match(data, at):
            command, at = match[1], match.end()
        elif _BLANK.fullmatch(data, at):
            break
        elif command in ("", "Z", "z"):
            whole = False
            break
        kind = command.upper()
        values: list[float] = []
        for i in range(_COUNTS[kind]):
            match = (_FLAG if kind == "A" and i in (3, 4) else _NUMBER).match(data, at)
            if not match or abs(float(match[1])) >= LARGEST:
                break
            values.append(float(match[1]))
            at = match.end()
        if len(values) < _COUNTS[kind] or not (begun or kind == "M"):
            whole = False
            break
        spend(4 if kind == "A" else 1)
        begun = True
        base = pen.at if command.islower() else 0j
        if abs(base) > LARGEST:  # steps that add up
            whole = False
            break
        pairs = [base + complex(*values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
        smooth = 2 * pen.at - control
        if kind == "M":
            pen.move(pairs[0])
            command = "l" if command == "m" else "L"
        elif kind == "Z":
            pen.close()
        elif kind == "L":
            pen.line(pairs[0])
        elif kind == "H":
            pen.line(complex(base.real + values[0], pen.at.imag))
        elif kind == "V":
            pen.line(complex(pen.at.real, base.imag + values[0]))
        elif kind == "C":
            control = pairs[1]
            pen.curve(*pairs)
        elif kind == "S":
            reflected = smooth if previous in ("C", "S") else pen.at
            control = pairs[0]
            pen.curve(reflected, *pairs)
        elif kind == "Q":
            control = pairs[0]
            pen.quadratic(*pairs)
        elif kind == "T":
            control = smooth if previous in ("Q", "T") else pen.at
            pen.quadratic(control, pairs[0])
        elif kind == "A":
            end = base + complex(values[5], values[6])
            pen.arc(values[0], values[1], values[2], bool(values[3]), bool(values[4]), end)
        previous = kind
    pen.end()
    return pen.contours, whole


def polygon(points: Sequence[complex], closed: bool) -> list[Contour]:
    """Straight lines from point to point."""
    if not points:
        return []
    pen = _Pen()
    pen.move(points[0])
    for point in points[1:]:
        pen.line(point)
    if closed:
        pen.close()
    pen.end()
    return pen.contours


def ellipse(centre: complex, rx: float, ry: float) -> list[Contour]:
    """From the right, clockwise, as SVG has it."""
    pen = _Pen()
    pen.move(centre + rx)
    for to in (centre + 1j * ry, centre - rx, centre - 1j * ry, centre + rx):
        pen.arc(rx, ry, 0, False, True, to)
    pen.close()
    return pen.contours


def rectangle(x: float, y: float, width: float, height: float, rx: float, ry: float) -> list[Contour]:
    """From the upper left corner, clockwise; the corners are rounded with the radii rx and ry."""
    rx, ry = min(rx, width / 2), min(ry, height / 2)
    left, top, right, bottom = x, y, x + width, y + height
    if rx == 0 or ry == 0:
        corners = [complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)]
        return polygon(corners, True)
    pen = _Pen()
    pen.move(complex(left + rx, top))
    sides = [
        (complex(right - rx, top), complex(right, top + ry)),
        (complex(right, bottom - ry), complex(right - rx, bottom)),
        (complex(left + rx, bottom), complex(left, bottom - ry)),
        (complex(left, top + ry), complex(left + rx, top)),
    ]
    for side, corner in sides:
        if abs(side - pen.at) > 1e-12 * (width + height):
            pen.line(side)
        pen.arc(rx, ry, 0, False, True, corner)
    pen.close()
    return pen.contours


def segments(points: Array, closed: bool) -> Array:
    """The control points of every segment of a contour, [s, 4, 2], of those of the contour, [k, 2]."""
    points = np.concatenate([points, points[: int(closed)]])
    return points[np.arange(0, len(points) - 1, 3)[:, None] + np.arange(4)]


def bounds(segments: Array) -> tuple[float, float, float, float]:
    """The box around curves, [s, 4, 2], not their control points: left, top, right, bottom."""
    a, b, c, d = np.moveaxis(segments, 1, 0)
    # The roots of the derivative, e t² + 2 f t + g, in the form that is stable when e vanishes.
    e, f, g = -a + 3 * b - 3 * c + d, a - 2 * b + c, b - a
    root = np.sqrt(np.maximum(f * f - e * g, 0))
    q = -(f + np.where(f < 0, -root, root))
    with np.errstate(all="ignore"):
        t = np.stack([q / e, g / q])
    t = np.where((t > 0) & (t < 1), t, 0.0)
    s = 1 - t
    places = np.concatenate(
        [(s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d).reshape(-1, 2), a, d]
    )
    left, top = places.min(0)
    right, bottom = places.max(0)
    return float(left), float(top), float(right), float(bottom)


def has_corner(contour: Contour) -> bool:
    """Whether two segments meet in an angle of more than about 3°."""
    steps = np.diff(np.array(contour.points + contour.points[: int(contour.closed)]))
    # Control points that coincide with their neighbours give no direction.
    moved = np.flatnonzero(np.abs(steps) > 1e-9 * np.abs(steps).max())
    directions = steps[moved] / np.abs(steps[moved])
    turns = directions * np.roll(directions, -1).conj()
    joints = moved // 3 != np.roll(moved, -1) // 3
    if len(joints):
        joints[-1] = contour.closed
    return bool((turns.real[joints] < 0.9986).any())


def is_dot(contour: Contour) -> bool:
    """Whether it has no extent."""
    return all(point == contour.points[0] for point in contour.points)
