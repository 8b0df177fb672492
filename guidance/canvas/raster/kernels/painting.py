"""Alpha compositing in painting order, for any number of paths a pixel; and back."""

from typing import no_type_check

import numpy as np

from guidance.canvas.raster.kernels.compiled import (
    BAND,
    FIRST,
    FIRST_SPAN,
    IN_BAND,
    LAST,
    LAST_SPAN,
    kernel,
)


@kernel
@no_type_check
def paint(runs, pixel, share, spans, paints, rows, strides, ground, height, width, first, stride, image):
    """Paints the runs of this thread's bands over the ground: `image` is [b, 3 or 4, h, w].

    The colour and opacity of a run are the row `rows` of `paints`, or, if its stride is 1, that row and the
    following ones, one for each pixel, first the fragments and then the spans.
    """
    one = np.float32(1)
    bands = (height + BAND - 1) // BAND
    members, channels = image.shape[0], image.shape[1]
    local = np.empty((BAND * width, 4), np.float32)
    run = 0
    for band in range(first, members * bands, stride):
        member = band // bands
        top = (band - member * bands) * BAND
        area = (min(top + BAND, height) - top) * width
        origin = top * width
        for p in range(area):
            local[p, 0], local[p, 1], local[p, 2], local[p, 3] = ground[0], ground[1], ground[2], ground[3]
        while run < len(runs) and runs[run, IN_BAND] == band:
            row, step = rows[run], strides[run]
            red, green, blue, opacity = paints[row, 0], paints[row, 1], paints[row, 2], paints[row, 3]
            for f in range(runs[run, FIRST], runs[run, LAST]):
                if step:
                    red, green, blue, opacity = paints[row, 0], paints[row, 1], paints[row, 2], paints[row, 3]
                    row += 1
                p = np.uint64(pixel[f] - origin)
                alpha = share[f] * opacity
                keep = one - alpha
                local[p, 0] = keep * local[p, 0] + alpha * red
                local[p, 1] = keep * local[p, 1] + alpha * green
                local[p, 2] = keep * local[p, 2] + alpha * blue
                local[p, 3] = keep * local[p, 3] + alpha
            for s in range(runs[run, FIRST_SPAN], runs[run, LAST_SPAN]):
                for at in range(spans[s, 0] - origin, spans[s, 1] - origin):
                    if step:
                        red, green, blue, opacity = (
                            paints[row, 0],
                            paints[row, 1],
                            paints[row, 2],
                            paints[row, 3],
                        )
                        row += 1
                    p = np.uint64(at)
                    keep = one - opacity
                    local[p, 0] = keep * local[p, 0] + opacity * red
                    local[p, 1] = keep * local[p, 1] + opacity * green
                    local[p, 2] = keep * local[p, 2] + opacity * blue
                    local[p, 3] = keep * local[p, 3] + opacity
            run += 1
        for c in range(channels):
            for y in range(area // width):
                for x in range(width):
                    image[member, c, top + y, x] = local[y * width + x, c]


@kernel
@no_type_check
def unpaint(
    runs,
    pixel,
    share,
    spans,
    paints,
    rows,
    strides,
    ground,
    gradient,
    first,
    stride,
    to_share,
    to_span,
    to_paints,
    to_ground,
):
    """The backward of `paint`: the gradients of the shares, the paints and the ground.

    `gradient` is that of the image. Going up, `under` is its product with what lies under the fragment; going
    down, `seen` is how much of the fragment shows. Nothing is divided by a transparency, so opaque paths are
    exact, too. `to_span` has room for as many numbers as the spans have pixels.
    """
    one = np.float32(1)
    members, channels, height, width = gradient.shape
    bands = (height + BAND - 1) // BAND
    local = np.zeros((BAND * width, 4), np.float32)
    under, seen = np.empty(BAND * width, np.float32), np.empty(BAND * width, np.float32)
    begin = covered = 0
    for band in range(first, members * bands, stride):
        member = band // bands
        top = (band - member * bands) * BAND
        area = (min(top + BAND, height) - top) * width
        origin = top * width
        for c in range(channels):
            for y in range(area // width):
                for x in range(width):
                    local[y * width + x, c] = gradient[member, c, top + y, x]
        for p in range(area):
            under[p] = (
                local[p, 0] * ground[0]
                + local[p, 1] * ground[1]
                + local[p, 2] * ground[2]
                + local[p, 3] * ground[3]
            )
            seen[p] = one
        end = begin
        while end < len(runs) and runs[end, IN_BAND] == band:
            row, step = rows[end], strides[end]
            red, green, blue, opacity = paints[row, 0], paints[row, 1], paints[row, 2], paints[row, 3]
            for f in range(runs[end, FIRST], runs[end, LAST]):
                if step:
                    red, green, blue, opacity = paints[row, 0], paints[row, 1], paints[row, 2], paints[row, 3]
                    row += 1
                p = np.uint64(pixel[f] - origin)
                own = local[p, 0] * red + local[p, 1] * green + local[p, 2] * blue + local[p, 3]
                by = own - under[p]
                to_share[f] = by
                under[p] += share[f] * opacity * by
            for s in range(runs[end, FIRST_SPAN], runs[end, LAST_SPAN]):
                for at in range(spans[s, 0] - origin, spans[s, 1] - origin):
                    if step:
                        red, green, blue, opacity = (
                            paints[row, 0],
                            paints[row, 1],
                            paints[row, 2],
                            paints[row, 3],
                        )
                        row += 1
                    p = np.uint64(at)
                    own = local[p, 0] * red + local[p, 1] * green + local[p, 2] * blue + local[p, 3]
                    by = own - under[p]
                    to_span[covered] = by
                    covered += 1
                    under[p] += opacity * by
            end += 1
        back = covered
        for run in range(end - 1, begin - 1, -1):
            step = strides[run]
            inside = 0
            for s in range(runs[run, FIRST_SPAN], runs[run, LAST_SPAN]):
                inside += spans[s, 1] - spans[s, 0]
            back -= inside
            at = back
            row = rows[run]
            opacity = paints[row, 3]
            red = green = blue = opaque = np.float32(0)
            for f in range(runs[run, FIRST], runs[run, LAST]):
                if step:
                    opacity = paints[row, 3]
                p = np.uint64(pixel[f] - origin)
                by = to_share[f] * seen[p]
                alpha = share[f] * opacity
                shown = alpha * seen[p]
                to_share[f] = by * opacity
                seen[p] *= one - alpha
                if step:
                    to_paints[row, 0] = shown * local[p, 0]
                    to_paints[row, 1] = shown * local[p, 1]
                    to_paints[row, 2] = shown * local[p, 2]
                    to_paints[row, 3] = by * share[f]
                    row += 1
                else:
                    red += shown * local[p, 0]
                    green += shown * local[p, 1]
                    blue += shown * local[p, 2]
                    opaque += by * share[f]
            for s in range(runs[run, FIRST_SPAN], runs[run, LAST_SPAN]):
                for i in range(spans[s, 0] - origin, spans[s, 1] - origin):
                    if step:
                        opacity = paints[row, 3]
                    p = np.uint64(i)
                    by = to_span[at] * seen[p]
                    at += 1
                    shown = opacity * seen[p]
                    seen[p] *= one - opacity
                    if step:
                        to_paints[row, 0] = shown * local[p, 0]
                        to_paints[row, 1] = shown * local[p, 1]
                        to_paints[row, 2] = shown * local[p, 2]
                        to_paints[row, 3] = by
                        row += 1
                    else:
                        red += shown * local[p, 0]
                        green += shown * local[p, 1]
                        blue += shown * local[p, 2]
                        opaque += by
            if not step:
                to_paints[row, 0] += red
                to_paints[row, 1] += green
                to_paints[row, 2] += blue
                to_paints[row, 3] += opaque
        for p in range(area):
            for c in range(3):
                to_ground[c] += seen[p] * local[p, c]
        begin = end
