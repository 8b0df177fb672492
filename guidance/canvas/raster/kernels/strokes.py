"""Strokes: pixels near a polyline, the nearest point of it, and the share of the pixel that it covers."""

from math import ceil, floor, sqrt
from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.compiled import grow, inner, kernel
from guidance.canvas.raster.model import CAP, REACH, STILL

#: A stroke whose inside is narrower than this, in pixels each way, has only fragments: its spans would be a
#: pixel or two long.
_BROAD = np.float32(1)

_CAP, _REACH = np.float32(CAP), np.float32(REACH)


# What is known of a piece before it is met in a band: the columns of `frames`.
_EX, _EY, _LENGTH, _SHIFT, _BEFORE, _AFTER, _WIDE, _NARROW, _BY_WIDE, _BY_NARROW = range(10)


@kernel
@no_type_check
def frame(vertices, ends, first, last, closed, frames, tips):
    """For the pieces of contours `first` to `last`: direction, length, and how far around them they may be
    the nearest.

    `tips` says of a piece whether an open contour begins (1) or ends (2) in it. A piece of no length has the
    direction of a neighbour.
    """
    tiny = np.float32(STILL)
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
        still = begin
        while still < end and frames[still, _LENGTH] == 0:
            still += 1
        if still < end:
            for v in range(begin, still):
                frames[v, _EX], frames[v, _EY] = frames[still, _EX], frames[still, _EY]
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
            frames[v, _BY_WIDE], frames[v, _BY_NARROW] = one / frames[v, _WIDE], one / frames[v, _NARROW]
        if not loop:
            for v in range(begin, end):
                tips[v] |= 1
                if frames[v, _LENGTH] > 0:
                    break
            for v in range(end - 1, begin - 1, -1):
                tips[v] |= 2
                if frames[v, _LENGTH] > 0:
                    break


@inner
@no_type_check
def _area(z, wide, narrow, by_wide, by_narrow):
    """A pixel seen along a direction is a trapezoid: its area within z, less half of it; and the derivative.

    `by_wide` and `by_narrow` are the reciprocals of the longer and the shorter side.
    """
    half, flat = (wide + narrow) * np.float32(0.5), (wide - narrow) * np.float32(0.5)
    z = min(max(z, -half), half)
    corner = max(abs(z) - flat, np.float32(0)) * by_narrow
    bent = corner * corner * narrow * np.float32(0.5)
    return (z - bent if z > 0 else z + bent) * by_wide, (np.float32(1) - corner) * by_wide


@inner
@no_type_check
def near(
    vertices,
    frames,
    begin,
    end,
    varying,
    top,
    bottom,
    origin,
    width,
    base,
    count,
    dropped,
    slot,
    mark,
    low,
    high,
    buffers,
):
    """Lists the pixels near the edge of a contour's stroke, each with the path's nearest piece so far.

    `slot` has for every pixel of the band the number of its last fragment, counting the `dropped` ones: one
    of this path is `base` or more; or `mark` if the pixel is inside the path. `low` and `high` are the first
    and last column inside for every row.
    """
    pixel, nearest, piece, shape = buffers
    zero, half = np.float32(0), np.float32(0.5)
    for v in range(begin, end):
        ay, by = vertices[v, 1], vertices[v + 1, 1]
        radius, more = vertices[v, 2], vertices[v + 1, 2] - vertices[v, 2]
        reach = max(radius, radius + more) + _REACH
        # The slab around a piece sticks out by less than twice the reach.
        if min(ay, by) - 2 * reach > bottom or max(ay, by) + 2 * reach < top:
            continue
        ax = vertices[v, 0]
        ex, ey, length = frames[v, _EX], frames[v, _EY], frames[v, _LENGTH]
        shift = frames[v, _SHIFT]
        inner = min(radius, radius + more) - _REACH
        if inner < _BROAD:
            inner = zero
        least, most = inner * inner, reach * reach
        before, after = -frames[v, _BEFORE], length + frames[v, _AFTER]
        # Of the slab that this piece may be the nearest in, what is inside by a glance: all of it that is not
        # far to the side, unless it sticks out far at the joints.
        beyond = max(frames[v, _BEFORE], frames[v, _AFTER])
        glance = beyond < half * inner
        first_inside, last_inside = (before, after) if glance else (zero, length)
        side_inside = sqrt(least - beyond * beyond) if glance else inner

        y0 = ay + min(before * ey, after * ey) - reach * abs(ex) - half
        y1 = ay + max(before * ey, after * ey) + reach * abs(ex) - half
        # The bounds of a row of the slab are linear in y. Divided by almost nothing they are far away.
        by_x = np.float32(1) / (max(abs(ex), np.float32(1e-6)) * (-1 if ex < 0 else 1))
        by_y = np.float32(1) / (max(abs(ey), np.float32(1e-6)) * (-1 if ey < 0 else 1))
        ends_move, sides_move = -ey * by_x, ex * by_y
        ends_left, ends_right = min(before * by_x, after * by_x), max(before * by_x, after * by_x)
        inside_left = min(first_inside * by_x, last_inside * by_x)
        inside_right = max(first_inside * by_x, last_inside * by_x)
        side, side_inside = reach * abs(by_y), side_inside * abs(by_y)
        to_column = ax - half
        final = np.float32(width - 1)
        for row in range(ceil(max(y0, np.float32(top))), floor(min(y1, np.float32(bottom - 1))) + 1):
            y = np.float32(row) + half - ay
            ends, sides = to_column + y * ends_move, to_column + y * sides_move
            left = max(max(ends_left + ends, sides - side), zero)
            right = min(min(ends_right + ends, sides + side), final)
            if left > right:
                continue
            x0, x1 = ceil(left), floor(right) + 1
            i0 = i1 = x1
            left, right = (
                max(inside_left + ends, sides - side_inside),
                min(inside_right + ends, sides + side_inside),
            )
            if least > zero and left <= right:
                i0 = min(max(ceil(max(left, zero)), x0), x1)
                i1 = max(min(floor(max(min(right, final), np.float32(-1))) + 1, x1), i0)
            line = (row - top) * width
            if i1 > i0:
                # (Assigning to a slice took as long as all the rest.)
                for i in range(line + i0, line + i1):
                    slot[i] = mark
                r = row - top
                low[r], high[r] = min(low[r], i0), max(high[r], i1 - 1)
            if count + x1 - x0 > len(pixel):
                pixel, nearest, piece, shape = grow(pixel, nearest, piece, shape)
            for part in range(2):
                first, last = (x0, i0) if part == 0 else (i1, x1)
                for i in range(first, last):
                    f = slot[line + i]
                    if f == mark:
                        continue
                    x = np.float32(i) + half - ax
                    along, cross = x * ex + y * ey, y * ex - x * ey
                    u = min(max(along + abs(cross) * shift, zero), length)
                    d = cross * cross + (along - u) * (along - u)
                    if d < least:
                        slot[line + i] = mark
                        r = row - top
                        low[r], high[r] = min(low[r], i), max(high[r], i)
                        continue
                    if d >= most:
                        continue
                    if varying:
                        # Discs do not grow evenly along a piece of no length.
                        grown = more * u / length if length > zero else max(more, zero)
                        d = sqrt(d) - radius - grown
                        if d >= _REACH:
                            continue
                    f -= dropped
                    if f < base:
                        f = count
                        count += 1
                        slot[line + i] = f + dropped
                        pixel[f] = origin + line + i
                    elif nearest[f] <= d:
                        continue
                    nearest[f], piece[f], shape[f, 0] = d, v, u
    return count, (pixel, nearest, piece, shape)


@inner
@no_type_check
def shade(vertices, frames, tips, width, top, origin, base, count, slot, mark, buffers):
    """Turns the nearest points of one path into shares of pixels, and their derivatives by that point and by
    the radius; drops what is inside after all. Returns the number of fragments.
    """
    pixel, share, piece, shape = buffers
    kept = base
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    by_width = one / np.float32(width)
    for f in range(base, count):
        number = pixel[f]
        at = number - origin
        if slot[at] == mark:
            continue
        v, u = piece[f], shape[f, 0]
        length = frames[v, _LENGTH]
        where = u / length if length > zero else zero
        if length == zero and vertices[v + 1, 2] > vertices[v, 2]:
            where = one
        radius = vertices[v, 2] + where * (vertices[v + 1, 2] - vertices[v, 2])
        ex, ey = frames[v, _EX], frames[v, _EY]
        # A division of whole numbers takes as long as the rest of the geometry.
        row = int((np.float32(at) + half) * by_width)
        x = np.float32(at - row * width) + half - vertices[v, 0] - u * ex
        y = np.float32(top + row) + half - vertices[v, 1] - u * ey
        if u > zero and u < length and frames[v, _SHIFT] == zero:
            cross = y * ex - x * ey
            distance = abs(cross)
            nx, ny = (-ey, ex) if cross > zero else (ey, -ex)
            wide, narrow = frames[v, _WIDE], frames[v, _NARROW]
            by_wide, by_narrow = frames[v, _BY_WIDE], frames[v, _BY_NARROW]
        else:
            distance = sqrt(x * x + y * y)
            nx, ny = -ey, ex
            if distance > np.float32(1e-6):
                nx, ny = x / distance, y / distance
            wide, narrow = max(abs(nx), abs(ny)), max(min(abs(nx), abs(ny)), np.float32(1e-4))
            by_wide, by_narrow = one / wide, one / narrow
        tip = (tips[v] & 1 and u <= zero) or (tips[v] & 2 and u >= length)
        shrunk, blurred = radius, False
        along, sine, blunt = zero, zero, one
        if tip:
            along = x * ex + y * ey
            blunt = distance + np.float32(0.1)
            sine = abs(along) / blunt
            shrunk = half * radius
            blurred = radius * radius - _CAP * sine > shrunk * shrunk
            if blurred:
                shrunk = sqrt(radius * radius - _CAP * sine)
        far, far_slope = _area(shrunk + distance, wide, narrow, by_wide, by_narrow)
        close, close_slope = _area(shrunk - distance, wide, narrow, by_wide, by_narrow)
        covered = far + close
        if covered <= np.float32(1e-6):
            continue
        by_distance, by_radius = far_slope - close_slope, far_slope + close_slope
        gx, gy = -by_distance * nx, -by_distance * ny
        if tip and not blurred:
            by_radius *= half
        elif tip:
            bend = -by_radius * _CAP * half / shrunk
            by_radius *= radius / shrunk
            sign = one if along > zero else -one
            gx -= bend * (sign * ex - sine * nx) / blunt
            gy -= bend * (sign * ey - sine * ny) / blunt
        pixel[kept], share[kept], piece[kept] = number, covered, v
        shape[kept, 0], shape[kept, 1], shape[kept, 2], shape[kept, 3] = where, gx, gy, by_radius
        kept += 1
    return kept


@inner
@no_type_check
def spans_inside(width, origin, slot, mark, low, high, spans, count):
    """Lists the spans of pixels inside one path, which are those marked in `slot`."""
    for r in range(len(low)):
        line = r * width
        i, last = low[r], high[r]
        while i <= last:
            if slot[line + i] != mark:
                i += 1
                continue
            begin = i
            while i <= last and slot[line + i] == mark:
                i += 1
            if count == len(spans):
                spans = np.concatenate((spans, np.empty_like(spans)))
            spans[count, 0], spans[count, 1] = origin + line + begin, origin + line + i
            count += 1
        low[r], high[r] = width, -1
    return count, spans
