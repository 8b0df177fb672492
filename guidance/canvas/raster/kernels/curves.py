"""From control points to the vertices of polylines, and back."""

from math import sqrt
from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.compiled import kernel
from guidance.canvas.raster.model import FEWEST_PIECES, MOST_PIECES, TOLERANCE


@kernel
@no_type_check
def pieces(control, corners, counts):
    """`guidance.canvas.raster.polylines.pieces`, compiled: `counts` is the result."""
    two = np.float32(2)
    for k in range(len(corners)):
        bend = np.zeros(3, np.float32)
        for i in range(2):
            for axis in range(3):
                a = control[corners[k, i], axis]
                b, c = control[corners[k, i + 1], axis], control[corners[k, i + 2], axis]
                bend[axis] = max(bend[axis], abs(a - two * b + c))
        most = np.float32(6) * max(sqrt(bend[0] * bend[0] + bend[1] * bend[1]), bend[2])
        pieces = np.float32(1) + sqrt(most / np.float32(8 * TOLERANCE))
        counts[k] = int(min(max(pieces, np.float32(FEWEST_PIECES)), np.float32(MOST_PIECES)))


@kernel
@no_type_check
def flatten(control, corners, per_contour, ends, counts, vertices):
    """Evaluates every cubic at `counts` even parameters from 0 on, and every contour's last one at 1, too.

    `control` is [p, 3]: x, y and radius; so is `vertices`. `ends` are the first vertices of the contours.
    """
    cubic = 0
    for contour in range(len(per_contour)):
        v = ends[contour]
        for _ in range(per_contour[contour]):
            n = counts[cubic]
            for axis in range(3):
                p0, p1 = control[corners[cubic, 0], axis], control[corners[cubic, 1], axis]
                p2, p3 = control[corners[cubic, 2], axis], control[corners[cubic, 3], axis]
                a1, a2 = np.float32(3) * (p1 - p0), np.float32(3) * (p0 - p1 - p1 + p2)
                a3 = p3 - p0 + np.float32(3) * (p1 - p2)
                step = np.float32(1) / np.float32(n)
                for i in range(n):
                    t = np.float32(i) * step
                    vertices[v + i, axis] = p0 + t * (a1 + t * (a2 + t * a3))
                vertices[v + n, axis] = p3
            v += n
            cubic += 1


@kernel
@no_type_check
def unflatten(gradient, corners, per_contour, ends, counts, to_control):
    """The backward of `flatten`: adds to the control points what their weights make of the vertices'
    gradient."""
    cubic = 0
    one, three = np.float32(1), np.float32(3)
    for contour in range(len(per_contour)):
        v = ends[contour]
        last = v + 0
        for k in range(per_contour[contour]):
            last += counts[cubic + k]
        for _ in range(per_contour[contour]):
            n = counts[cubic]
            step = one / np.float32(n)
            c0, c1, c2, c3 = corners[cubic, 0], corners[cubic, 1], corners[cubic, 2], corners[cubic, 3]
            for axis in range(3):
                g0 = g1 = g2 = g3 = np.float32(0)
                for i in range(n):
                    t = np.float32(i) * step
                    s = one - t
                    g = gradient[v + i, axis]
                    g0 += g * s * s * s
                    g1 += g * three * s * s * t
                    g2 += g * three * s * t * t
                    g3 += g * t * t * t
                if v + n == last:
                    g3 += gradient[last, axis]
                to_control[c0, axis] += g0
                to_control[c1, axis] += g1
                to_control[c2, axis] += g2
                to_control[c3, axis] += g3
            v += n
            cubic += 1
