"""From control points to the vertices of polylines, and back."""

from typing import no_type_check

import triton
import triton.language as tl

#: Pieces of a cubic that are handled at a time.
_PIECES = tl.constexpr(32)


@triton.jit
@no_type_check
def flatten(control, corners, counts, bases, contours, vertices):
    """Evaluates one cubic at even parameters from 0 to 1: x, y and radius.

    `counts` are the pieces of the cubics, `bases` the pieces before them. A contour has a vertex more than it
    has pieces; where two cubics meet, both write the same one.
    """
    cubic = tl.program_id(0)
    n = tl.load(counts + cubic)
    base = tl.load(bases + cubic) + tl.load(contours + cubic)
    p0 = control + tl.load(corners + cubic * 4) * 3
    p1 = control + tl.load(corners + cubic * 4 + 1) * 3
    p2 = control + tl.load(corners + cubic * 4 + 2) * 3
    p3 = control + tl.load(corners + cubic * 4 + 3) * 3
    for start in range(0, n + 1, _PIECES):
        i = start + tl.arange(0, _PIECES)
        t = i.to(tl.float32) / n
        for axis in tl.static_range(3):
            a, b, c, d = tl.load(p0 + axis), tl.load(p1 + axis), tl.load(p2 + axis), tl.load(p3 + axis)
            # Control points that are equal make vertices that are.
            value = a + t * (3 * (b - a) + t * (3 * (a - b - b + c) + t * (d - a + 3 * (b - c))))
            tl.store(vertices + (base + i) * 3 + axis, tl.where(i < n, value, d), i <= n)


@triton.jit(do_not_specialize=["cubics"])
@no_type_check
def unflatten(counts, bases, contours, cubics, gradient, to_corners):
    """The backward of `flatten`, for the four corners of one cubic: [cubics, 4, 3]."""
    cubic = tl.program_id(0)
    n = tl.load(counts + cubic)
    contour = tl.load(contours + cubic)
    base = tl.load(bases + cubic) + contour
    # A vertex between two cubics belongs to the second.
    end = n + 1
    if cubic + 1 < cubics:
        end -= (tl.load(contours + cubic + 1) == contour).to(tl.int32)
    for axis in tl.static_range(3):
        g0 = tl.zeros([_PIECES], tl.float32)
        g1, g2, g3 = g0, g0, g0
        for start in range(0, end, _PIECES):
            i = start + tl.arange(0, _PIECES)
            t = i.to(tl.float32) / n
            s = 1 - t
            g = tl.load(gradient + (base + i) * 3 + axis, i < end, 0.0)
            g0, g1, g2, g3 = (
                g0 + g * s * s * s,
                g1 + g * 3 * s * s * t,
                g2 + g * 3 * s * t * t,
                g3 + g * t * t * t,
            )
        row = to_corners + cubic * 12 + axis
        tl.store(row, tl.sum(g0, 0))
        tl.store(row + 3, tl.sum(g1, 0))
        tl.store(row + 6, tl.sum(g2, 0))
        tl.store(row + 9, tl.sum(g3, 0))
