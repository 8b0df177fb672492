"""What paths cover, strokes and fills alike, band by band; and back."""

from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.areas import accumulate, fill, sweep
from guidance.canvas.raster.kernels.compiled import (
    BAND,
    BLOCK,
    FIRST,
    FIRST_SPAN,
    IN_BAND,
    LAST,
    LAST_SPAN,
    PATH,
    kernel,
)
from guidance.canvas.raster.kernels.strokes import BROAD, COLUMNS, SHADED, collect, near, shade
from guidance.canvas.raster.model import REACH, STROKE


@kernel
@no_type_check
def survey(vertices, ends, owners, kinds, height, boxes):
    """For every path: the first and last row that it may touch, and whether its stroke is broad."""
    for path in range(len(kinds)):
        low, high = np.float32(1e30), np.float32(-1e30)
        thick = np.float32(0)
        for v in range(ends[owners[path]], ends[owners[path + 1]]):
            y, radius = vertices[v, 1], vertices[v, 2]
            thick = max(thick, radius)
            if kinds[path] == STROKE:
                low, high = min(low, y - radius), max(high, y + radius)
            else:
                low, high = min(low, y), max(high, y)
        boxes[path, 0] = int(min(max(low - np.float32(2), np.float32(-1)), np.float32(height)))
        boxes[path, 1] = int(min(max(high + np.float32(2), np.float32(-1)), np.float32(height)))
        boxes[path, 2] = 1 if thick > BROAD else 0


@kernel
@no_type_check
def cover(
    vertices, frames, ends, owners, kinds, boxes, members, height, width, first, stride, buffers, spans
):
    """Lists what paths cover: runs, fragments (pixel, share, piece, shape) and spans (from, to).

    `ends` are the first vertices of the contours, `owners` the first contours of the paths, `boxes` what
    `survey` says. The fragments' `shape` is where on the piece the nearest point lies, and the derivatives of
    the share by that point's x and y and by the radius there; of a filled path's it is the derivative by the
    area. `buffers` and `spans` are room for the result, and grow.
    """
    paths = len(kinds) // members
    bands = (height + BAND - 1) // BAND
    blocks = (width + BLOCK - 1) // BLOCK
    depth = np.full((BAND, blocks, BLOCK), np.float32(REACH), np.float32)
    nearest = np.empty((BAND, blocks, BLOCK), np.int32)
    gathered = np.zeros(COLUMNS * SHADED, np.float32)
    area = np.zeros((BAND, width + 2), np.float32)
    low, high = np.full(BAND, width, np.int32), np.full(BAND, -1, np.int32)
    cuts = np.empty((3, 4), np.float32)
    runs = np.empty((256, 6), np.int32)
    # (The number 0 has a type of its own, for which all that is called below would be compiled once more.)
    run = count = shaded = filled = np.int64(0)
    for band in range(first, members * bands, stride):
        member = band // bands
        top = (band - member * bands) * BAND
        bottom = min(top + BAND, height)
        origin = top * width
        for path in range(member * paths, (member + 1) * paths):
            if boxes[path, 0] >= bottom or boxes[path, 1] < top:
                continue
            base, base_span = count, filled
            if kinds[path] == STROKE:
                for contour in range(owners[path], owners[path + 1]):
                    begin, end = ends[contour], ends[contour + 1] - 1
                    near(frames, begin, end, top, bottom, width, depth, nearest, low, high)
                count, buffers, filled, spans = collect(
                    boxes[path, 2],
                    bottom - top,
                    origin,
                    width,
                    depth,
                    nearest,
                    low,
                    high,
                    count,
                    buffers,
                    filled,
                    spans,
                )
            else:
                shade(frames, width, top, origin, shaded, count, gathered, buffers)
                for contour in range(owners[path], owners[path + 1]):
                    begin, end = ends[contour], ends[contour + 1] - 1
                    for v in range(begin, end + 1):
                        w = begin if v == end else v + 1
                        ax, ay, bx, by = vertices[v, 0], vertices[v, 1], vertices[w, 0], vertices[w, 1]
                        if max(ay, by) > top and min(ay, by) < bottom:
                            accumulate(ax, ay, bx, by, top, bottom, width, cuts, area, low, high)
                count, buffers, filled, spans = fill(
                    kinds[path], area, low, high, width, origin, count, buffers, spans, filled
                )
                shaded = count
            if count > base or filled > base_span:
                if run == len(runs):
                    runs = np.concatenate((runs, np.empty_like(runs)))
                runs[run, PATH], runs[run, IN_BAND] = path, band
                runs[run, FIRST], runs[run, LAST] = base, count
                runs[run, FIRST_SPAN], runs[run, LAST_SPAN] = base_span, filled
                run += 1
        shade(frames, width, top, origin, shaded, count, gathered, buffers)
        shaded = count
    return runs[:run], buffers, spans


@kernel
@no_type_check
def uncover(vertices, ends, owners, kinds, members, height, width, runs, buffers, gradient, to_vertices):
    """The backward of `cover`: adds to the vertices' gradient what the shares' makes of it."""
    pixel, _, piece, shape = buffers
    bands = (height + BAND - 1) // BAND
    slopes = np.zeros(BAND * width, np.float32)
    out = np.empty(4, np.float32)
    one = np.float32(1)
    for run in range(len(runs)):
        path, base, count = runs[run, PATH], runs[run, FIRST], runs[run, LAST]
        if kinds[path] == STROKE:
            for f in range(base, count):
                v = np.uint64(piece[f])
                w = v + np.uint64(1)
                g, u = gradient[f], shape[0, f]
                gx, gy, gr = g * shape[1, f], g * shape[2, f], g * shape[3, f]
                to_vertices[v, 0] += (one - u) * gx
                to_vertices[v, 1] += (one - u) * gy
                to_vertices[v, 2] += (one - u) * gr
                to_vertices[w, 0] += u * gx
                to_vertices[w, 1] += u * gy
                to_vertices[w, 2] += u * gr
            continue
        member = runs[run, IN_BAND] // bands
        top = (runs[run, IN_BAND] - member * bands) * BAND
        bottom = min(top + BAND, height)
        origin = top * width
        for f in range(base, count):
            slopes[pixel[f] - origin] = gradient[f] * shape[0, f]
        for contour in range(owners[path], owners[path + 1]):
            begin, end = ends[contour], ends[contour + 1] - 1
            for v in range(begin, end + 1):
                w = begin if v == end else v + 1
                ax, ay, bx, by = vertices[v, 0], vertices[v, 1], vertices[w, 0], vertices[w, 1]
                if max(ay, by) < top or min(ay, by) > bottom:
                    continue
                sweep(ax, ay, bx, by, top, bottom, width, slopes, out)
                to_vertices[v, 0] += out[0]
                to_vertices[v, 1] += out[1]
                to_vertices[w, 0] += out[2]
                to_vertices[w, 1] += out[3]
        for f in range(base, count):
            slopes[pixel[f] - origin] = 0
