"""Strokes: pixels near a polyline, the nearest point of it, and the share of the pixel that it covers."""

from math import ceil, floor, sqrt
from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.compiled import BLOCK, grow, inner, kernel
from guidance.canvas.raster.model import CAP, REACH, STILL

_CAP, _REACH = np.float32(CAP), np.float32(REACH)

#: A stroke of a smaller radius has only fragments: its spans would be a pixel or two long.
BROAD = np.float32(1 + REACH)


# What is known of a piece before it is met in a band: the columns of `frames`. How far along the piece a
# point is, in [0, 1], is `_START` and `_BY_LENGTH` a pixel; the radius, `_RADIUS` and `_TAPER` a pixel.
_X, _Y, _EX, _EY, _LENGTH, _SHIFT, _RADIUS, _TAPER, _START, _BY_LENGTH, _TIPS = range(11)
_FAR, _BEFORE, _AFTER = range(11, 14)
COLUMNS = 14

#: What ends in a piece: nothing (0), the beginning of an open contour, its end, or both (their sum).
_STARTS, _STOPS = np.float32(1), np.float32(2)


@kernel
@no_type_check
def frame(vertices, ends, first, last, closed, frames):
    """For the pieces of contours `first` to `last`: place, direction, length, radius, and how far around them
    they may be the nearest.

    A piece of no length has the direction of a neighbour.
    """
    tiny = np.float32(STILL)
    zero, one = np.float32(0), np.float32(1)
    for contour in range(first, last):
        begin, end = ends[contour], ends[contour + 1] - 1
        for v in range(begin, end):
            x, y = vertices[v + 1, 0] - vertices[v, 0], vertices[v + 1, 1] - vertices[v, 1]
            radius, growth = vertices[v, 2], vertices[v + 1, 2] - vertices[v, 2]
            length = sqrt(x * x + y * y)
            if length > tiny:
                frames[v, _EX], frames[v, _EY] = x / length, y / length
            elif v > begin:
                frames[v, _EX], frames[v, _EY] = frames[v - 1, _EX], frames[v - 1, _EY]
            else:
                frames[v, _EX], frames[v, _EY] = one, zero
            # The radius grows along the piece: the nearest disc is not the one around the foot of the pixel.
            slope = growth / max(length, tiny)
            slope = min(max(slope, np.float32(-0.999)), np.float32(0.999))
            moves = length > tiny
            frames[v, _X], frames[v, _Y] = vertices[v, 0], vertices[v, 1]
            frames[v, _LENGTH] = length if moves else zero
            frames[v, _BY_LENGTH] = one / length if moves else zero
            frames[v, _TAPER] = growth / length if moves else zero
            # Discs do not grow evenly along a piece of no length: it is the larger one.
            frames[v, _START] = zero if moves or growth <= zero else one
            frames[v, _RADIUS] = radius + frames[v, _START] * growth
            frames[v, _SHIFT] = slope / sqrt(one - slope * slope)
            frames[v, _FAR] = max(radius, radius + growth) + _REACH
            frames[v, _TIPS] = zero
        still = begin
        while still < end and frames[still, _LENGTH] == 0:
            still += 1
        if still < end:
            for v in range(begin, still):
                frames[v, _EX], frames[v, _EY] = frames[still, _EX], frames[still, _EY]
        loop = closed[contour]
        for v in range(begin, end):
            reach = frames[v, _FAR]
            shift = abs(frames[v, _SHIFT]) * reach
            for side in range(2):
                other = v - 1 if side == 0 else v + 1
                if other < begin or other >= end:
                    other = (end - 1 if side == 0 else begin) if loop else -1
                span = reach
                if other >= 0 and frames[v, _LENGTH] > 0 and frames[other, _LENGTH] > 0:
                    # Half of the wedge on the outer side of a joint, where its vertex is the nearest.
                    cosine = frames[v, _EX] * frames[other, _EX] + frames[v, _EY] * frames[other, _EY]
                    span = reach * sqrt(max(one - cosine, zero) * np.float32(0.5))
                    span = min(span + shift, reach)
                frames[v, _BEFORE + side] = span + np.float32(1e-3)
        if not loop:
            for v in range(begin, end):
                frames[v, _TIPS] += _STARTS
                if frames[v, _LENGTH] > 0:
                    break
            for v in range(end - 1, begin - 1, -1):
                frames[v, _TIPS] += _STOPS
                if frames[v, _LENGTH] > 0:
                    break


@inner
@no_type_check
def near(frames, begin, end, top, bottom, width, depth, nearest, low, high):
    """Finds the nearest piece of a contour for the pixels of a band that are near its stroke.

    `depth` is how far the pixels are outside the edge of the path's stroke so far, `REACH` if they are
    further, and `nearest` is the piece; both are [rows, blocks, BLOCK]. To compare whole blocks, most of it
    in vain, is several times as quick as to look for the pixels that need it. `low` and `high` are the first
    and last block of every row that are near.
    """
    zero, half = np.float32(0), np.float32(0.5)
    final = np.float32(width - 1)
    for v in range(begin, end):
        ax, ay, ex, ey = frames[v, _X], frames[v, _Y], frames[v, _EX], frames[v, _EY]
        length, shift, radius, taper = (
            frames[v, _LENGTH],
            frames[v, _SHIFT],
            frames[v, _RADIUS],
            frames[v, _TAPER],
        )
        reach, before, after = frames[v, _FAR], -frames[v, _BEFORE], length + frames[v, _AFTER]
        number = np.int32(v)
        y0 = ay + min(before * ey, after * ey) - reach * abs(ex) - half
        y1 = ay + max(before * ey, after * ey) + reach * abs(ex) - half
        if y0 > bottom - 1 or y1 < top:
            continue
        # The bounds of a row of the slab are linear in y. Divided by almost nothing they are far away.
        by_x = np.float32(1) / (max(abs(ex), np.float32(1e-6)) * (-1 if ex < 0 else 1))
        by_y = np.float32(1) / (max(abs(ey), np.float32(1e-6)) * (-1 if ey < 0 else 1))
        ends_move, sides_move = -ey * by_x, ex * by_y
        ends_left, ends_right = min(before * by_x, after * by_x), max(before * by_x, after * by_x)
        side = reach * abs(by_y)
        for row in range(ceil(max(y0, np.float32(top))), floor(min(y1, np.float32(bottom - 1))) + 1):
            y = np.float32(row) + half - ay
            ends, sides = ax - half + y * ends_move, ax - half + y * sides_move
            left = max(max(ends_left + ends, sides - side), zero)
            right = min(min(ends_right + ends, sides + side), final)
            if left > right:
                continue
            first, last = int(left) // BLOCK, int(right) // BLOCK
            r = row - top
            low[r], high[r] = min(low[r], first), max(high[r], last)
            for block in range(first, last + 1):
                x0 = np.float32(block * BLOCK) + half - ax
                # Without a branch, so that it is compiled for the whole block at once.
                for i in range(BLOCK):
                    x = x0 + np.float32(i)
                    along, cross = x * ex + y * ey, y * ex - x * ey
                    u = along + abs(cross) * shift
                    u = zero if u < zero else u
                    u = length if u > length else u
                    d = sqrt(cross * cross + (along - u) * (along - u)) - radius - taper * u
                    closer = d < depth[r, block, i]
                    nearest[r, block, i] = number if closer else nearest[r, block, i]
                    depth[r, block, i] = d if closer else depth[r, block, i]


@inner
@no_type_check
def collect(broad, rows, origin, width, depth, nearest, low, high, count, buffers, filled, spans):
    """Lists the pixels that `near` has found, as fragments and spans; clears them.

    Of a stroke that is not `broad` all are fragments.
    """
    blocks = 0
    for r in range(rows):
        blocks += max(high[r] - low[r] + 1, 0)
    while count + blocks * BLOCK + SHADED > len(buffers[0]):
        buffers = grow(*buffers)
    while filled + blocks * BLOCK > len(spans):
        spans = np.concatenate((spans, np.empty_like(spans)))
    pixel, _, piece, _ = buffers
    edge = spans.reshape(spans.size)
    inside = -_REACH if broad else np.float32(-1e30)
    # Counted without signs: an index that may be negative takes as long as all the rest.
    zero, one = np.uint64(0), np.uint64(1)
    fragments, edges = np.uint64(count), np.uint64(2 * filled)
    for r in range(rows):
        if high[r] < low[r]:
            continue
        for i in range(width - (high[r] + 1) * BLOCK, 0):
            depth[r, high[r], BLOCK + i] = _REACH
        line = origin + r * width
        was = zero
        for block in range(low[r], high[r] + 1):
            at = np.int32(line + block * BLOCK)
            for i in range(BLOCK):
                # All are written, and most of them over: a branch that nobody can predict takes longer.
                number = at + np.int32(i)
                pixel[fragments], piece[fragments], edge[edges] = number, nearest[r, block, i], number
                within = one if depth[r, block, i] <= inside else zero
                fragments += (one if depth[r, block, i] < _REACH else zero) - within
                edges += within ^ was
                was = within
            for i in range(BLOCK):
                depth[r, block, i] = _REACH
        if was == one:
            edge[edges] = line + min((high[r] + 1) * BLOCK, width)
            edges += one
        low[r], high[r] = width, -1
    return np.int64(fragments), buffers, np.int64(edges) // 2, spans


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


#: Fragments that are shaded at a time: what is known of their pieces is gathered first, since only loops over
#: memory in its order are compiled for many numbers at once.
SHADED = 8 * BLOCK


@inner
@no_type_check
def shade(frames, width, top, origin, base, count, gathered, buffers):
    """Turns the nearest pieces of fragments into shares of pixels, and their derivatives by the nearest point
    and by the radius there.
    """
    pixel, share, piece, shape = buffers
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    by_width = one / np.float32(width)
    n = SHADED
    for begin in range(base, count, n):
        for i in range(min(n, count - begin)):
            # (Without signs: an index that may be negative is checked every time.)
            f = np.uint64(begin) + np.uint64(i)
            v = np.uint64(piece[f])
            at = pixel[f] - origin
            # A division of whole numbers takes as long as the rest of the geometry.
            row = np.int32((np.float32(at) + half) * by_width)
            gathered[i] = np.float32(at - row * width) + half - frames[v, _X]
            gathered[n + i] = np.float32(top + row) + half - frames[v, _Y]
            for k in range(_EX, _TIPS + 1):
                gathered[k * n + i] = frames[v, k]
        for i in range(n):
            x, y, ex, ey = gathered[i], gathered[n + i], gathered[_EX * n + i], gathered[_EY * n + i]
            length, tips = gathered[_LENGTH * n + i], gathered[_TIPS * n + i]
            along, cross = x * ex + y * ey, y * ex - x * ey
            u = along + abs(cross) * gathered[_SHIFT * n + i]
            u = zero if u < zero else u
            u = length if u > length else u
            radius = gathered[_RADIUS * n + i] + gathered[_TAPER * n + i] * u
            # The normal, along the piece and across it.
            along -= u
            distance = sqrt(along * along + cross * cross)
            still = distance <= np.float32(1e-6)
            by_distance = one / (one if still else distance)
            na, nc = (zero if still else along * by_distance), (one if still else cross * by_distance)
            nx, ny = na * ex - nc * ey, na * ey + nc * ex
            wide, narrow = max(abs(nx), abs(ny)), max(min(abs(nx), abs(ny)), np.float32(1e-4))
            by_wide, by_narrow = one / wide, one / narrow
            # A pixel blurs a round end along its edge, too.
            tip = (tips != _STOPS) & (tips != zero) & (u <= zero) | (tips >= _STOPS) & (u >= length)
            blunt = one / (distance + np.float32(0.1))
            sine = abs(along) * blunt
            least = half * radius
            squared = radius * radius - _CAP * sine
            blurred = squared > least * least
            shrunk = sqrt(squared if blurred else least * least)
            shrunk = shrunk if tip else radius
            far, far_slope = _area(shrunk + distance, wide, narrow, by_wide, by_narrow)
            close, close_slope = _area(shrunk - distance, wide, narrow, by_wide, by_narrow)
            # A pixel that is not covered feels nothing.
            drawn = far + close > np.float32(1e-6)
            outward = far_slope - close_slope if drawn else zero
            wider = far_slope + close_slope if drawn else zero
            by_shrunk = one / max(shrunk, np.float32(1e-6))
            bend = wider * _CAP * half * by_shrunk * blunt
            bend = bend if tip & blurred else zero
            sign = one if along > zero else -one
            grows = radius * by_shrunk if blurred else half
            share[np.uint64(begin) + np.uint64(i)] = far + close if drawn else zero
            gathered[i] = gathered[_START * n + i] + u * gathered[_BY_LENGTH * n + i]
            gathered[n + i] = bend * (sign * ex - sine * nx) - outward * nx
            gathered[2 * n + i] = bend * (sign * ey - sine * ny) - outward * ny
            gathered[3 * n + i] = wider * (grows if tip else one)
        for k in range(4):
            for i in range(n):
                shape[k, np.uint64(begin) + np.uint64(i)] = gathered[k * n + i]
