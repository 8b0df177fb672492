"""Fills: the exact areas of pixels within polygons, and how they change as the polygons do."""

from math import ceil, floor
from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.compiled import grow, inner
from guidance.canvas.raster.model import LEVEL, NONZERO

_LEVEL = np.float32(LEVEL)


@inner
@no_type_check
def _cut(ax, ay, bx, by, top, bottom, width, out):
    """Cuts a line into those parts that lie in a band left of the picture, in it and right of it.

    Returns how many parts are in `out`: where they begin and end, as how far along the line, and as y.
    """
    dx, dy = bx - ax, by - ay
    if abs(dy) <= _LEVEL:
        return 0
    # Heights have to be those where the lines before and after begin and end, to the last digit: what is left
    # of their sum covers the whole rest of the row. So they are clamped, not computed from the parameters,
    # whose digits do not suffice far away.
    y0, y1 = min(max(ay, top), bottom), min(max(by, top), bottom)
    a, b = (top - ay) / dy, (bottom - ay) / dy
    t0 = max(np.float32(0), min(a, b))
    t1 = max(min(np.float32(1), max(a, b)), t0)
    # Where it meets the sides, in order along the line.
    first, second = t0, t1
    if abs(dx) > _LEVEL:
        a, b = -ax / dx, (width - ax) / dx
        first, second = min(max(min(a, b), t0), t1), min(max(max(a, b), t0), t1)
    n = 0
    s, ys = t0, y0
    for part in range(3):
        e = first if part == 0 else second if part == 1 else t1
        ye = y1
        if part < 2 and e < t1:
            ye = y0 if e == t0 else min(max(ay + e * dy, min(y0, y1)), max(y0, y1))
        if ye != ys:
            out[n, 0], out[n, 1], out[n, 2], out[n, 3] = s, e, ys, ye
            n += 1
        s, ys = e, ye
    return n


@inner
@no_type_check
def accumulate(ax, ay, bx, by, top, bottom, width, cuts, area, low, high):
    """Adds what lies right of a line to the signed areas of the pixels, as differences along their rows."""
    half = np.float32(0.5)
    for part in range(_cut(ax, ay, bx, by, np.float32(top), np.float32(bottom), np.float32(width), cuts)):
        x0, y0 = ax + cuts[part, 0] * (bx - ax), cuts[part, 2]
        x1, y1 = ax + cuts[part, 1] * (bx - ax), cuts[part, 3]
        if (x0 + x1) * half >= width:
            continue
        outside = (x0 + x1) * half <= 0
        sign = np.float32(1) if y1 > y0 else np.float32(-1)
        if y1 < y0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        if y1 - y0 <= _LEVEL:
            continue
        slope = (x1 - x0) / (y1 - y0)
        row0 = max(floor(y0), top)
        row1 = min(ceil(y1), bottom)
        for row in range(row0, row1):
            ya, yb = max(y0, np.float32(row)), min(y1, np.float32(row + 1))
            if yb <= ya:
                continue
            r = row - top
            if outside:
                area[r, 0] += sign * (yb - ya)
                low[r], high[r] = 0, max(high[r], 0)
                continue
            xa = min(max(x0 + (ya - y0) * slope, np.float32(0)), np.float32(width))
            xb = min(max(x0 + (yb - y0) * slope, np.float32(0)), np.float32(width))
            left, right = min(xa, xb), max(xa, xb)
            c0, c1 = min(int(left), width - 1), min(int(right), width - 1)
            low[r], high[r] = min(low[r], c0), max(high[r], c1)
            if c0 == c1:
                d, inside = sign * (yb - ya), (xa + xb) * half - c0
                area[r, c0] += d * (np.float32(1) - inside)
                area[r, c0 + 1] += d * inside
                continue
            scale = sign * (yb - ya) / (right - left)
            for c in range(c0, c1 + 1):
                a, b = max(left, np.float32(c)), min(right, np.float32(c + 1))
                d, inside = scale * (b - a), (a + b) * half - c
                area[r, c] += d * (np.float32(1) - inside)
                area[r, c + 1] += d * inside


@inner
@no_type_check
def sweep(ax, ay, bx, by, top, bottom, width, slopes, out):
    """The backward of `accumulate`: `out` is the gradient of the line's beginning and end.

    When a line moves, the pixels that it runs through lose or gain what it sweeps.
    """
    out[:] = 0
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    dx, dy = bx - ax, by - ay
    # The part of the line in the band, by how far along the line it lies.
    t0, t1 = zero, one
    if abs(dx) > _LEVEL:
        s, e = -ax / dx, (width - ax) / dx
        t0, t1 = max(t0, min(s, e)), min(t1, max(s, e))
    elif ax < 0 or ax >= width:
        return
    if abs(dy) > _LEVEL:
        s, e = (top - ay) / dy, (bottom - ay) / dy
        t0, t1 = max(t0, min(s, e)), min(t1, max(s, e))
    elif ay < top or ay >= bottom:
        return
    if t0 >= t1:
        return
    y0, y1 = ay + t0 * dy, ay + t1 * dy
    row0 = min(max(floor(min(y0, y1)), top), bottom - 1)
    row1 = min(max(floor(max(y0, y1)), top), bottom - 1)
    for row in range(row0, row1 + 1):
        ta, tb = t0, t1
        if row0 != row1:
            s, e = (np.float32(row) - ay) / dy, (np.float32(row + 1) - ay) / dy
            ta, tb = max(ta, min(s, e)), min(tb, max(s, e))
        x0, x1 = ax + ta * dx, ax + tb * dx
        c0 = min(max(floor(min(x0, x1)), 0), width - 1)
        c1 = min(max(floor(max(x0, x1)), 0), width - 1)
        for c in range(c0, c1 + 1):
            g = slopes[(row - top) * width + c]
            if g == 0:
                continue
            tc, td = ta, tb
            if c0 != c1:
                s, e = (np.float32(c) - ax) / dx, (np.float32(c + 1) - ax) / dx
                tc, td = max(tc, min(s, e)), min(td, max(s, e))
            if td <= tc:
                continue
            g *= td - tc
            u = (tc + td) * half
            out[0] -= (one - u) * g * dy
            out[1] += (one - u) * g * dx
            out[2] -= u * g * dy
            out[3] += u * g * dx


@inner
@no_type_check
def fill(kind, area, low, high, width, origin, count, buffers, spans, filled):
    """Turns the areas of one path into fragments, with the shares' derivatives by the area, and spans; clears
    the areas.
    """
    pixel, share, piece, shape = buffers
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for r in range(len(low)):
        if high[r] < low[r]:
            continue
        while count + width > len(pixel):
            pixel, share, piece, shape = grow(pixel, share, piece, shape)
        total = zero
        c, last = low[r], min(high[r] + 1, width)
        line = origin + r * width
        while c < width:
            change = area[r, c]
            total += change
            covered, slope = abs(total), one if total > zero else -one
            if kind == NONZERO:
                if covered > one:
                    covered, slope = one, zero
            else:
                covered -= two * floor(covered / two)
                if covered > one:
                    covered, slope = two - covered, -slope
            if change == zero and (covered < np.float32(1e-5) or covered > np.float32(1 - 1e-5)):
                # Nothing runs through the pixel, nor through those up to the next change.
                begin = c
                while c <= last and c < width and area[r, c] == zero:
                    c += 1
                if c > last:
                    c = width
                if covered > np.float32(0.5):
                    if filled == len(spans):
                        spans = np.concatenate((spans, np.empty_like(spans)))
                    spans[filled, 0], spans[filled, 1] = line + begin, line + c
                    filled += 1
                continue
            area[r, c] = zero
            if covered > np.float32(1e-5):
                pixel[count], share[count], piece[count] = line + c, covered, -1
                shape[0, count] = slope
                count += 1
            c += 1
        area[r, width] = zero
        low[r], high[r] = width, -1
    return count, (pixel, share, piece, shape), filled, spans
