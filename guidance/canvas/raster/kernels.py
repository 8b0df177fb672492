"""The CPU backend's inner loops, compiled by Numba: which pixels paths cover, by how much, and the painting.

A kernel handles the rows of every `stride`-th band of `BAND` rows, beginning with band `first`, so that
threads share nothing; in a band it handles path by path, in painting order. Everything is in pixels; pixel
numbers are counted through the population's images, row by row.
"""

from math import ceil, floor, sqrt
from typing import no_type_check

import numba
import numpy as np
from numpy.typing import NDArray

from guidance.canvas.raster.model import CAP, REACH
from guidance.canvas.raster.polylines import NONZERO, STROKE

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Whole = NDArray[np.int64]

#: Small enough that what a thread keeps of one stays in its cache, large enough that few paths are in several.
BAND = 32

_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}
_PI_24 = np.float32(CAP)
_REACH = np.float32(REACH)


@numba.njit(**_OPTIONS)
@no_type_check
def flatten(
    control: Floats, corners: Whole, per_contour: Whole, ends: Ints, counts: Ints, vertices: Floats
) -> None:
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


@numba.njit(**_OPTIONS)
@no_type_check
def unflatten(
    gradient: Floats, corners: Whole, per_contour: Whole, ends: Ints, counts: Ints, to_control: Floats
) -> None:
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


# What is known of a piece before it is met in a band: the columns of `frames`.
_EX, _EY, _LENGTH, _SHIFT, _BEFORE, _AFTER, _WIDE, _NARROW = range(8)


@numba.njit(**_OPTIONS)
@no_type_check
def frame(
    vertices: Floats, ends: Ints, first: int, last: int, closed: NDArray[np.bool_], frames: Floats, tips: Ints
) -> None:
    """For the pieces of contours `first` to `last`: direction, length, and how far around them they may be
    the nearest.

    `tips` says of a piece whether an open contour begins (1) or ends (2) in it. A piece of no length has the
    direction of a neighbour.
    """
    tiny = np.float32(1e-6)
    one = np.float32(1)
    for contour in range(first, last):
        begin, end = ends[contour], ends[contour + 1] - 1
        for v in range(begin, end):
            x, y = vertices[v + 1, 0] - vertices[v, 0], vertices[v + 1, 1] - vertices[v, 1]
            length = sqrt(x * x + y * y)
            frames[v, _LENGTH] = length if length > tiny else np.float32(0)
            if length > tiny:
                frames[v, _EX], frames[v, _EY] = x / length, y / length
            elif v > begin:
                frames[v, _EX], frames[v, _EY] = frames[v - 1, _EX], frames[v - 1, _EY]
            else:
                frames[v, _EX], frames[v, _EY] = one, np.float32(0)
            # The radius grows along the piece: the nearest disc is not the one around the foot of the pixel.
            slope = (vertices[v + 1, 2] - vertices[v, 2]) / max(length, tiny)
            slope = min(max(slope, np.float32(-0.999)), np.float32(0.999))
            frames[v, _SHIFT] = slope / sqrt(one - slope * slope)
            tips[v] = 0
        for v in range(end - 2, begin - 1, -1):
            if v == begin and frames[v, _LENGTH] == 0:
                frames[v, _EX], frames[v, _EY] = frames[v + 1, _EX], frames[v + 1, _EY]
        loop = closed[contour]
        for v in range(begin, end):
            reach = max(vertices[v, 2], vertices[v + 1, 2]) + _REACH
            shift = abs(frames[v, _SHIFT]) * reach
            for side in range(2):
                other = v - 1 if side == 0 else v + 1
                if other < begin or other >= end:
                    other = (end - 1 if side == 0 else begin) if loop else -1
                span = reach
                if other >= 0 and frames[v, _LENGTH] > 0 and frames[other, _LENGTH] > 0:
                    # Half of the wedge on the outer side of a joint, where its vertex is the nearest.
                    cosine = frames[v, _EX] * frames[other, _EX] + frames[v, _EY] * frames[other, _EY]
                    span = reach * sqrt(max(one - cosine, np.float32(0)) * np.float32(0.5))
                    span = min(span + shift, reach)
                frames[v, _BEFORE + side] = span + np.float32(1e-3)
            x, y = abs(frames[v, _EX]), abs(frames[v, _EY])
            frames[v, _WIDE], frames[v, _NARROW] = max(x, y), max(min(x, y), np.float32(1e-4))
        if not loop:
            for v in range(begin, end):
                tips[v] |= 1
                if frames[v, _LENGTH] > 0:
                    break
            for v in range(end - 1, begin - 1, -1):
                tips[v] |= 2
                if frames[v, _LENGTH] > 0:
                    break


@numba.njit(inline="always")
@no_type_check
def _area(z, wide, narrow):
    """A pixel seen along a direction is a trapezoid: its area within z, less half of it; and the derivative."""
    half, flat = (wide + narrow) * np.float32(0.5), (wide - narrow) * np.float32(0.5)
    z = min(max(z, -half), half)
    corner = max(abs(z) - flat, np.float32(0)) / narrow
    bent = corner * corner * narrow * np.float32(0.5)
    return (z - bent if z > 0 else z + bent) / wide, (np.float32(1) - corner) / wide


@numba.njit(**_OPTIONS)
@no_type_check
def _grow(pixel, share, piece, shape):
    """The fragments' arrays with twice the room."""
    n = len(pixel)
    pixels, shares = np.empty(2 * n, np.int32), np.empty(2 * n, np.float32)
    pieces, shapes = np.empty(2 * n, np.int32), np.empty((2 * n, 4), np.float32)
    pixels[:n], shares[:n], pieces[:n], shapes[:n] = pixel, share, piece, shape
    return pixels, shares, pieces, shapes


@numba.njit(**_OPTIONS)
@no_type_check
def _near(
    vertices, frames, begin, end, varying, top, bottom, origin, width, base, count, dropped, slot, buffers
):
    """Lists the pixels near one contour, each with the nearest of the path's pieces so far.

    `slot` has for every pixel of the band the number of its last fragment, counting the `dropped` ones: one of
    this path is `base` or more.
    """
    pixel, nearest, piece, shape = buffers
    zero, half = np.float32(0), np.float32(0.5)
    for v in range(begin, end):
        ax, ay = vertices[v, 0], vertices[v, 1]
        ex, ey, length = frames[v, _EX], frames[v, _EY], frames[v, _LENGTH]
        radius, more = vertices[v, 2], vertices[v + 1, 2] - vertices[v, 2]
        reach = max(radius, radius + more) + _REACH
        low, high = -frames[v, _BEFORE], length + frames[v, _AFTER]
        shift = frames[v, _SHIFT]
        side = reach * abs(ex)
        y0 = ceil(max(ay + min(low * ey, high * ey) - side - half, np.float32(top)))
        y1 = floor(min(ay + max(low * ey, high * ey) + side - half, np.float32(bottom - 1)))
        flat_x, flat_y = abs(ex) < np.float32(1e-6), abs(ey) < np.float32(1e-6)
        inverse_x = zero if flat_x else np.float32(1) / ex
        inverse_y = zero if flat_y else np.float32(1) / ey
        for row in range(int(y0), int(y1) + 1):
            y = np.float32(row) + half - ay
            left, right = -ax, np.float32(width) - ax
            if not flat_x:
                a, b = (low - y * ey) * inverse_x, (high - y * ey) * inverse_x
                left, right = max(left, min(a, b)), min(right, max(a, b))
            elif y * ey < low or y * ey > high:
                continue
            if not flat_y:
                a, b = (y * ex - reach) * inverse_y, (y * ex + reach) * inverse_y
                left, right = max(left, min(a, b)), min(right, max(a, b))
            elif abs(y * ex) > reach:
                continue
            x0, x1 = int(ceil(left + ax - half)), int(floor(right + ax - half))
            x0, x1 = max(x0, 0), min(x1, width - 1)
            if count + x1 - x0 + 1 > len(pixel):
                pixel, nearest, piece, shape = _grow(pixel, nearest, piece, shape)
            line = (row - top) * width
            for i in range(x0, x1 + 1):
                x = np.float32(i) + half - ax
                along, cross = x * ex + y * ey, y * ex - x * ey
                u = min(max(along + abs(cross) * shift, zero), length)
                d = cross * cross + (along - u) * (along - u)
                if varying:
                    d = sqrt(d) - radius - (more * u / length if length > zero else max(more, zero))
                f = slot[line + i] - dropped
                if f < base:
                    f = count
                    count += 1
                    slot[line + i] = f + dropped
                    pixel[f] = origin + line + i
                elif nearest[f] <= d:
                    continue
                nearest[f], piece[f], shape[f, 0] = d, v, u
    return count, (pixel, nearest, piece, shape)


@numba.njit(**_OPTIONS)
@no_type_check
def _shade(
    vertices, frames, tips, width, origin, base, count, buffers
):
    """Turns the nearest points of one path into shares of pixels, and their derivatives by that point and the
    radius.

    `origin` is the number of the image's first pixel.
    """
    pixel, share, piece, shape = buffers
    kept = base
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    for f in range(base, count):
        v, u = piece[f], shape[f, 0]
        length = frames[v, _LENGTH]
        where = u / length if length > zero else zero
        if length == zero and vertices[v + 1, 2] > vertices[v, 2]:
            where = one
        radius = vertices[v, 2] + where * (vertices[v + 1, 2] - vertices[v, 2])
        ex, ey = frames[v, _EX], frames[v, _EY]
        at = pixel[f] - origin
        row = at // width
        x = np.float32(at - row * width) + half - vertices[v, 0] - u * ex
        y = np.float32(row) + half - vertices[v, 1] - u * ey
        squared = x * x + y * y
        inner, outer = radius - _REACH, radius + _REACH
        if squared >= outer * outer:
            continue
        number = pixel[f]
        if inner > zero and squared <= inner * inner:
            pixel[kept], share[kept], piece[kept] = number, one, -1
            kept += 1
            continue
        between = u > zero and u < length and frames[v, _SHIFT] == zero
        if between:
            cross = y * ex - x * ey
            distance = abs(cross)
            nx, ny = (-ey, ex) if cross > zero else (ey, -ex)
            wide, narrow = frames[v, _WIDE], frames[v, _NARROW]
        else:
            distance = sqrt(squared)
            nx, ny = -ey, ex
            if distance > np.float32(1e-6):
                nx, ny = x / distance, y / distance
            wide, narrow = max(abs(nx), abs(ny)), max(min(abs(nx), abs(ny)), np.float32(1e-4))
        tip = (tips[v] & 1 and u <= zero) or (tips[v] & 2 and u >= length)
        shrunk = radius
        along, sine, blunt = zero, zero, zero
        if tip:
            along = x * ex + y * ey
            blunt = distance + np.float32(0.1)
            sine = abs(along) / blunt
            shrunk = sqrt(max(radius * radius - _PI_24 * sine, radius * radius * np.float32(0.25)))
        far, far_slope = _area(shrunk + distance, wide, narrow)
        near, near_slope = _area(shrunk - distance, wide, narrow)
        covered = far + near
        if covered <= np.float32(1e-6):
            continue
        by_distance, by_radius = far_slope - near_slope, far_slope + near_slope
        gx, gy = -by_distance * nx, -by_distance * ny
        if tip:
            bend = -by_radius * _PI_24 * half / shrunk
            by_radius *= radius / shrunk
            sign = one if along > zero else -one
            gx -= bend * (sign * ex - sine * nx) / blunt
            gy -= bend * (sign * ey - sine * ny) / blunt
        pixel[kept], share[kept], piece[kept] = number, covered, v
        shape[kept, 0], shape[kept, 1], shape[kept, 2], shape[kept, 3] = where, gx, gy, by_radius
        kept += 1
    return kept


@numba.njit(**_OPTIONS)
@no_type_check
def _cut(ax, ay, bx, by, top, bottom, width, out):
    """Cuts a line into those parts that lie in a band left of the picture, in it and right of it.

    Returns how many parts are in `out`: beginning and end, and how far along the line they are.
    """
    t0, t1 = np.float32(0), np.float32(1)
    dx, dy = bx - ax, by - ay
    if dy == 0:
        return 0
    a, b = (top - ay) / dy, (bottom - ay) / dy
    t0, t1 = max(t0, min(a, b)), min(t1, max(a, b))
    if t0 >= t1:
        return 0
    # Where it meets the sides, in order along the line.
    first, second = t0, t1
    if dx != 0:
        a, b = -ax / dx, (width - ax) / dx
        first, second = min(max(min(a, b), t0), t1), min(max(max(a, b), t0), t1)
    n = 0
    for part in range(3):
        s = t0 if part == 0 else first if part == 1 else second
        e = first if part == 0 else second if part == 1 else t1
        if e > s:
            out[n, 0], out[n, 1] = s, e
            n += 1
    return n


@numba.njit(**_OPTIONS)
@no_type_check
def _accumulate(ax, ay, bx, by, top, bottom, width, cuts, area, low, high):
    """Adds what lies right of a line to the signed areas of the pixels, as differences along their rows."""
    half = np.float32(0.5)
    for part in range(_cut(ax, ay, bx, by, np.float32(top), np.float32(bottom), np.float32(width), cuts)):
        s, e = cuts[part, 0], cuts[part, 1]
        x0, y0 = ax + s * (bx - ax), ay + s * (by - ay)
        x1, y1 = ax + e * (bx - ax), ay + e * (by - ay)
        if (x0 + x1) * half >= width:
            continue
        outside = (x0 + x1) * half <= 0
        sign = np.float32(1) if y1 > y0 else np.float32(-1)
        if y1 < y0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        if y1 <= y0:
            continue
        slope = (x1 - x0) / (y1 - y0)
        row0 = max(int(floor(y0)), top)
        row1 = min(int(ceil(y1)), bottom)
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


@numba.njit(**_OPTIONS)
@no_type_check
def _spread(ax, ay, bx, by, top, bottom, width, slopes, out):
    """The backward of `_accumulate`: `out` is the gradient of the line's beginning and end.

    When a line moves, the pixels that it runs through lose or gain what it sweeps.
    """
    out[:] = 0
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    dx, dy = bx - ax, by - ay
    # The part of the line in the band, by how far along the line it lies.
    t0, t1 = zero, one
    if dx != 0:
        s, e = -ax / dx, (width - ax) / dx
        t0, t1 = max(t0, min(s, e)), min(t1, max(s, e))
    elif ax < 0 or ax >= width:
        return
    if dy != 0:
        s, e = (top - ay) / dy, (bottom - ay) / dy
        t0, t1 = max(t0, min(s, e)), min(t1, max(s, e))
    elif ay < top or ay >= bottom:
        return
    if t0 >= t1:
        return
    y0, y1 = ay + t0 * dy, ay + t1 * dy
    row0 = min(max(int(floor(min(y0, y1))), top), bottom - 1)
    row1 = min(max(int(floor(max(y0, y1))), top), bottom - 1)
    for row in range(row0, row1 + 1):
        ta, tb = t0, t1
        if row0 != row1:
            s, e = (np.float32(row) - ay) / dy, (np.float32(row + 1) - ay) / dy
            ta, tb = max(ta, min(s, e)), min(tb, max(s, e))
        x0, x1 = ax + ta * dx, ax + tb * dx
        c0 = min(max(int(floor(min(x0, x1))), 0), width - 1)
        c1 = min(max(int(floor(max(x0, x1))), 0), width - 1)
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


@numba.njit(**_OPTIONS)
@no_type_check
def _fill(kind, area, low, high, width, origin, count, buffers):
    """Turns the areas of one path into shares of pixels, with their derivatives by the area; clears them."""
    pixel, share, piece, shape = buffers
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for r in range(len(low)):
        total = zero
        if high[r] < low[r]:
            continue
        while count + width > len(pixel):
            pixel, share, piece, shape = _grow(pixel, share, piece, shape)
        for c in range(low[r], width):
            total += area[r, c]
            area[r, c] = zero
            covered, slope = abs(total), one if total > zero else -one
            if kind == NONZERO:
                if covered > one:
                    covered, slope = one, zero
            else:
                covered -= two * floor(covered / two)
                if covered > one:
                    covered, slope = two - covered, -slope
            if covered > np.float32(1e-5):
                pixel[count], share[count], piece[count] = origin + r * width + c, covered, -1
                shape[count, 0] = slope
                count += 1
            elif c >= high[r] + 1:
                break
        area[r, width] = zero
        if high[r] + 1 < width:
            area[r, high[r] + 1] = zero
        low[r], high[r] = width, -1
    return count, (pixel, share, piece, shape)


@numba.njit(**_OPTIONS)
@no_type_check
def cover(
    vertices, frames, tips, ends, owners, kinds, boxes, members, height, width, first, stride, capacity
):
    """Lists the pixels that paths cover, run by run: `runs` has path, first and last fragment, and band.

    `owners` are the first contours of the paths, `boxes` the rows that the paths touch and whether their
    radius varies.
    """
    paths = len(kinds) // members
    bands = (height + BAND - 1) // BAND
    slot = np.full(BAND * width, -1, np.int32)
    area = np.zeros((BAND, width + 2), np.float32)
    low, high = np.full(BAND, width, np.int32), np.full(BAND, -1, np.int32)
    cuts = np.empty((3, 2), np.float32)
    buffers = (
        np.empty(capacity, np.int32),
        np.empty(capacity, np.float32),
        np.empty(capacity, np.int32),
        np.empty((capacity, 4), np.float32),
    )
    runs = np.empty((64, 4), np.int32)
    run = count = dropped = 0
    for band in range(first, members * bands, stride):
        member = band // bands
        top = (band - member * bands) * BAND
        bottom = min(top + BAND, height)
        image = member * height * width
        origin = image + top * width
        for path in range(member * paths, (member + 1) * paths):
            if boxes[path, 0] >= bottom or boxes[path, 1] < top:
                continue
            base = count
            if kinds[path] == STROKE:
                for contour in range(owners[path], owners[path + 1]):
                    count, buffers = _near(
                        vertices,
                        frames,
                        ends[contour],
                        ends[contour + 1] - 1,
                        boxes[path, 2],
                        top,
                        bottom,
                        origin,
                        width,
                        base,
                        count,
                        dropped,
                        slot,
                        buffers,
                    )
                kept = _shade(vertices, frames, tips, width, image, base, count, buffers)
                dropped += count - kept
                count = kept
            else:
                for contour in range(owners[path], owners[path + 1]):
                    begin, end = ends[contour], ends[contour + 1] - 1
                    for v in range(begin, end + 1):
                        w = begin if v == end else v + 1
                        _accumulate(
                            vertices[v, 0],
                            vertices[v, 1],
                            vertices[w, 0],
                            vertices[w, 1],
                            top,
                            bottom,
                            width,
                            cuts,
                            area,
                            low,
                            high,
                        )
                count, buffers = _fill(kinds[path], area, low, high, width, origin, count, buffers)
            if count > base:
                if run == len(runs):
                    runs = np.concatenate((runs, np.empty_like(runs)))
                runs[run, 0], runs[run, 1], runs[run, 2], runs[run, 3] = path, base, count, band
                run += 1
    return runs[:run], buffers


@numba.njit(**_OPTIONS)
@no_type_check
def uncover(
    vertices, ends, owners, kinds, members, height, width, runs, pixel, piece, shape, gradient, to_vertices
):
    """The backward of `cover`: adds to the vertices' gradient what the shares' makes of it."""
    bands = (height + BAND - 1) // BAND
    slopes = np.zeros(BAND * width, np.float32)
    out = np.empty(4, np.float32)
    one = np.float32(1)
    for run in range(len(runs)):
        path, base, count, band = runs[run, 0], runs[run, 1], runs[run, 2], runs[run, 3]
        if kinds[path] == STROKE:
            for f in range(base, count):
                v = piece[f]
                if v < 0:
                    continue
                g, u = gradient[f], shape[f, 0]
                gx, gy, gr = g * shape[f, 1], g * shape[f, 2], g * shape[f, 3]
                to_vertices[v, 0] += (one - u) * gx
                to_vertices[v, 1] += (one - u) * gy
                to_vertices[v, 2] += (one - u) * gr
                to_vertices[v + 1, 0] += u * gx
                to_vertices[v + 1, 1] += u * gy
                to_vertices[v + 1, 2] += u * gr
            continue
        member = band // bands
        top = (band - member * bands) * BAND
        bottom = min(top + BAND, height)
        origin = (member * height + top) * width
        for f in range(base, count):
            slopes[pixel[f] - origin] = gradient[f] * shape[f, 0]
        for contour in range(owners[path], owners[path + 1]):
            begin, end = ends[contour], ends[contour + 1] - 1
            for v in range(begin, end + 1):
                w = begin if v == end else v + 1
                ax, ay, bx, by = vertices[v, 0], vertices[v, 1], vertices[w, 0], vertices[w, 1]
                if max(ay, by) < top or min(ay, by) > bottom:
                    continue
                _spread(ax, ay, bx, by, top, bottom, width, slopes, out)
                to_vertices[v, 0] += out[0]
                to_vertices[v, 1] += out[1]
                to_vertices[w, 0] += out[2]
                to_vertices[w, 1] += out[3]
        for f in range(base, count):
            slopes[pixel[f] - origin] = 0


@numba.njit(**_OPTIONS)
@no_type_check
def paint(runs, pixel, share, paints, rows, strides, image):
    """Paints the runs over `image`, [pixels, 4], colours times alpha and alpha.

    The colour and opacity of a run are the row `rows` of `paints`, or that row and the following ones, one a
    fragment, if its stride is 1.
    """
    one = np.float32(1)
    for run in range(len(runs)):
        row, stride = rows[run], strides[run]
        for f in range(runs[run, 1], runs[run, 2]):
            p = pixel[f]
            alpha = share[f] * paints[row, 3]
            keep = one - alpha
            image[p, 0] = keep * image[p, 0] + alpha * paints[row, 0]
            image[p, 1] = keep * image[p, 1] + alpha * paints[row, 1]
            image[p, 2] = keep * image[p, 2] + alpha * paints[row, 2]
            image[p, 3] = keep * image[p, 3] + alpha
            row += stride


@numba.njit(**_OPTIONS)
@no_type_check
def unpaint(
    runs, pixel, share, paints, rows, strides, gradient, under, seen, to_share, to_paints
):
    """The backward of `paint`: gradients of the shares and of the paints.

    `gradient` is that of the image, [pixels, 4]; `under` begins as its product with the ground, and `seen` as
    ones. Upwards, `under` becomes the product with what lies under each fragment; downwards, `seen` what of
    each shows. Nothing is divided by a transparency, so opaque paths are exact, too.
    """
    one = np.float32(1)
    for run in range(len(runs)):
        row, stride = rows[run], strides[run]
        for f in range(runs[run, 1], runs[run, 2]):
            p = pixel[f]
            own = (
                gradient[p, 0] * paints[row, 0]
                + gradient[p, 1] * paints[row, 1]
                + gradient[p, 2] * paints[row, 2]
                + gradient[p, 3]
            )
            by = own - under[p]
            to_share[f] = by
            under[p] += share[f] * paints[row, 3] * by
            row += stride
    for run in range(len(runs) - 1, -1, -1):
        stride = strides[run]
        row = rows[run]
        red = green = blue = opaque = np.float32(0)
        for f in range(runs[run, 1], runs[run, 2]):
            p = pixel[f]
            by = to_share[f] * seen[p]
            opacity = paints[row, 3]
            alpha = share[f] * opacity
            shown = alpha * seen[p]
            to_share[f] = by * opacity
            seen[p] *= one - alpha
            if stride:
                to_paints[row, 0] = shown * gradient[p, 0]
                to_paints[row, 1] = shown * gradient[p, 1]
                to_paints[row, 2] = shown * gradient[p, 2]
                to_paints[row, 3] = by * share[f]
                row += stride
            else:
                red += shown * gradient[p, 0]
                green += shown * gradient[p, 1]
                blue += shown * gradient[p, 2]
                opaque += by * share[f]
        if not stride:
            to_paints[row, 0] += red
            to_paints[row, 1] += green
            to_paints[row, 2] += blue
            to_paints[row, 3] += opaque


@numba.njit(**_OPTIONS)
@no_type_check
def survey(vertices: Floats, ends: Ints, owners: Ints, kinds: NDArray[np.uint8], height: int, boxes: Ints) -> None:
    """For every path: the first and last row that it may touch, and whether its radius varies."""
    for path in range(len(kinds)):
        low, high = np.float32(1e30), np.float32(-1e30)
        thin, thick = np.float32(1e30), np.float32(-1e30)
        for v in range(ends[owners[path]], ends[owners[path + 1]]):
            y, radius = vertices[v, 1], vertices[v, 2]
            thin, thick = min(thin, radius), max(thick, radius)
            if kinds[path] == STROKE:
                low, high = min(low, y - radius), max(high, y + radius)
            else:
                low, high = min(low, y), max(high, y)
        boxes[path, 0] = int(min(max(low - np.float32(2), np.float32(-1)), np.float32(height)))
        boxes[path, 1] = int(min(max(high + np.float32(2), np.float32(-1)), np.float32(height)))
        boxes[path, 2] = 1 if thick - thin > np.float32(1e-4) else 0
