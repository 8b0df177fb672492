"""By how much paths cover the pixels of a cell, and how that changes as their pieces move."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.triton_kernels.fills import cover_fill, part_in
from guidance.canvas.raster.triton_kernels.strokes import cover_stroke, shade
from guidance.canvas.raster.triton_kernels.tiles import (
    INSIDE,
    LANES,
    PIXELS,
    STROKED,
    TILE,
    frame,
    line,
    span,
)


@triton.jit
@no_type_check
def cover(
    pieces, tips, kinds, listed, list_base, strip_paths, states, cell_strips, order, tiles, rows, columns,
    shares, marks, items, item_paths,
):  # fmt: skip
    """The shares of the pixels of one item, and what they must remember for the way back, their marks.

    The mark of a pixel is the nearest piece of a stroke, or -1 if it does not feel any; or the derivative of
    a fill's share by the area. `order` and `tiles` are the cells and tiles of the items, `items` becomes the
    inverse of `order`, and `item_paths` the paths.
    """
    i = tl.program_id(0)
    cell = tl.load(order + i)
    strip = tl.load(cell_strips + cell)
    path = tl.load(strip_paths + strip)
    tl.store(items + cell, i)
    tl.store(item_paths + i, path)
    p = tl.arange(0, PIXELS)
    share, mark = tl.full([PIXELS], 1.0, tl.float32), tl.full([PIXELS], -1, tl.int32)
    if tl.load(states + cell) != INSIDE:
        tile = tl.load(tiles + i)
        column, row = tile % columns, tile // columns % rows
        x, y = (column * TILE + p % TILE).to(tl.float32), (row * TILE + p // TILE).to(tl.float32)
        kind = tl.load(kinds + path)
        begin, end = tl.load(list_base + strip), tl.load(list_base + strip + 1)
        if kind == STROKED:
            share, mark = cover_stroke(pieces, tips, listed, begin, end, column, x + 0.5, y + 0.5)
        else:
            share, mark = cover_fill(pieces, kind, listed, begin, end, column, x, y)
    target = i.to(tl.int64) * PIXELS + p
    tl.store(shares + target, share)
    tl.store(marks + target, mark)


@triton.jit
@no_type_check
def uncover(
    pieces, tips, kinds, strips, entries, strip_paths, strip_rows, lefts, rights, cell_base, items,
    marks, to_shares, to_entries,
):  # fmt: skip
    """The backward of `cover` for one entry: the gradients of its piece's beginning and end, x, y and radius.

    The cells of its columns are visited one after another, so that the sum has one order.
    """
    entry = tl.program_id(0)
    strip = tl.load(strips + entry)
    v, left = tl.load(entries + entry * 3), tl.load(lefts + strip)
    low = tl.maximum(tl.load(entries + entry * 3 + 1), left)
    high = tl.minimum(tl.load(entries + entry * 3 + 2), tl.load(rights + strip))
    stroked = tl.load(kinds + tl.load(strip_paths + strip)) == STROKED
    cells = tl.load(cell_base + strip) - left
    ax, ay, bx, by = line(pieces, v, True)
    ex, ey, radius, more = frame(pieces, v, True)
    length = span(bx - ax, by - ay)
    tip = tl.load(tips + v)
    p = tl.arange(0, PIXELS)
    x0 = (p % TILE).to(tl.float32)
    y0 = (tl.load(strip_rows + strip) * TILE + p // TILE).to(tl.float32)
    # For both ends x, y and radius; of a fill, which feels what the line sweeps, only the first.
    a0 = tl.zeros([PIXELS], tl.float32)
    a1, a2, b0, b1, b2 = a0, a0, a0, a0, a0
    for column in range(low, high + 1):
        source = tl.load(items + cells + column).to(tl.int64) * PIXELS + p
        mark, g = tl.load(marks + source), tl.load(to_shares + source)
        x = x0 + column * TILE
        if stroked:
            _, u, gx, gy, gr = shade(x + 0.5 - ax, y0 + 0.5 - ay, ex, ey, length, radius, more, tip)
            g = tl.where(mark == v, g, 0.0)
            a0, a1, a2 = a0 + g * (1 - u) * gx, a1 + g * (1 - u) * gy, a2 + g * (1 - u) * gr
            b0, b1, b2 = b0 + g * u * gx, b1 + g * u * gy, b2 + g * u * gr
        else:
            s, e = part_in(ax, ay, bx, by, x, y0)
            g *= mark.to(tl.float32) * tl.maximum(e - s, 0.0)
            u = (s + e) * 0.5
            a0, b0 = a0 + (1 - u) * g, b0 + u * g
    row = to_entries + entry * 6
    if stroked:
        tl.store(row, tl.sum(a0, 0))
        tl.store(row + 1, tl.sum(a1, 0))
        tl.store(row + 2, tl.sum(a2, 0))
        tl.store(row + 3, tl.sum(b0, 0))
        tl.store(row + 4, tl.sum(b1, 0))
        tl.store(row + 5, tl.sum(b2, 0))
    else:
        # When a line moves, the pixels that it runs through lose or gain what it sweeps.
        a, b = tl.sum(a0, 0), tl.sum(b0, 0)
        tl.store(row, -a * (by - ay))
        tl.store(row + 1, a * (bx - ax))
        tl.store(row + 2, 0.0)
        tl.store(row + 3, -b * (by - ay))
        tl.store(row + 4, b * (bx - ax))
        tl.store(row + 5, 0.0)


@triton.jit(do_not_specialize=["m"])
@no_type_check
def gather(entry_base, contours, ends, to_entries, m, to_vertices):
    """The gradient of every vertex: the sum over the entries of the pieces that begin and that end in it."""
    v = tl.program_id(0) * LANES + tl.arange(0, LANES)
    valid = v < m
    contour = tl.load(contours + v, valid, 0)
    begin, end = tl.load(ends + contour, valid, 0), tl.load(ends + contour + 1, valid, 0)
    before = tl.where(v > begin, v - 1, end - 1)
    x = tl.zeros([LANES], tl.float32)
    y, r = x, x
    for side in tl.static_range(2):
        piece = v if side == 0 else before
        first = tl.load(entry_base + piece, valid, 0)
        count = tl.load(entry_base + piece + 1, valid, 0) - first
        for k in range(0, tl.max(count, 0)):
            row = to_entries + (first + k) * 6 + side * 3
            x += tl.load(row, k < count, 0.0)
            y += tl.load(row + 1, k < count, 0.0)
            r += tl.load(row + 2, k < count, 0.0)
    tl.store(to_vertices + v * 3, x, valid)
    tl.store(to_vertices + v * 3 + 1, y, valid)
    tl.store(to_vertices + v * 3 + 2, r, valid)
