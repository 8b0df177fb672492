"""Alpha compositing in painting order, for any number of paths a pixel; and back."""

from typing import no_type_check

import triton
import triton.language as tl

from guidance.canvas.raster.triton_kernels.tiles import PIXELS, TILE

#: Cells whose gradients are added at a time.
_CELLS = tl.constexpr(64)


@triton.jit
@no_type_check
def _place(rows, columns, height, width, channels):
    """Where the pixels of this program's tile are in an image [b, channels, h, w], and which there are."""
    tile = tl.program_id(0)
    p = tl.arange(0, PIXELS)
    member, place = tile // (rows * columns), tile % (rows * columns)
    x, y = place % columns * TILE + p % TILE, place // columns * TILE + p // TILE
    return (member.to(tl.int64) * channels * height + y) * width + x, (x < width) & (y < height)


@triton.jit
@no_type_check
def _paint_of(paints, row, paths, p):
    """The colour and opacity of the pixels p: those of one path, or one row for each pixel."""
    at = paints + (row.to(tl.int64) + tl.where(row < paths, 0, p)) * 4
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
@no_type_check
def paint(
    tile_base, item_rows, shares, paints, paths, ground, rows, columns, height, width, channels, image,
):  # fmt: skip
    """Paints the items of one tile over the ground: colours times alpha, and alpha if there are 4 channels.

    `tile_base` are the first items of the tiles, `item_rows` the rows of `paints` of the items: from the row
    `paths` on every pixel of the item has a row of its own.
    """
    p = tl.arange(0, PIXELS)
    tile = tl.program_id(0)
    none = tl.zeros([PIXELS], tl.float32)
    red, green = none + tl.load(ground), none + tl.load(ground + 1)
    blue, alpha = none + tl.load(ground + 2), none + tl.load(ground + 3)
    first, end = tl.load(tile_base + tile), tl.load(tile_base + tile + 1)
    share = shares + first.to(tl.int64) * PIXELS + p
    for i in range(first, end):
        r, g, b, opacity = _paint_of(paints, tl.load(item_rows + i), paths, p)
        over = tl.load(share) * opacity
        share += PIXELS
        keep = 1 - over
        red, green, blue = keep * red + over * r, keep * green + over * g, keep * blue + over * b
        alpha = keep * alpha + over
    at, there = _place(rows, columns, height, width, channels)
    at, plane = image + at, height * width
    tl.store(at, red, there)
    tl.store(at + plane, green, there)
    tl.store(at + 2 * plane, blue, there)
    if channels == 4:
        tl.store(at + 3 * plane, alpha, there)


@triton.jit
@no_type_check
def unpaint(
    tile_base, order, item_rows, shares, paints, paths, ground, rows, columns, height, width, channels,
    gradient, to_shares, to_cells, to_paints, to_ground,
):  # fmt: skip
    """The backward of `paint`: the gradients of the shares, the paints and, for each tile, the ground.

    Going up, `under` is the image's gradient times what lies under the item; going down, `seen` is how much
    of the item shows. Nothing is divided by a transparency, so opaque paths are exact, too. `to_cells` gets
    the gradient of a path's paint from each of its cells, `to_paints` that of pixels with their own.
    """
    p = tl.arange(0, PIXELS)
    tile = tl.program_id(0)
    at, there = _place(rows, columns, height, width, channels)
    at, plane = gradient + at, height * width
    red, green = tl.load(at, there, 0.0), tl.load(at + plane, there, 0.0)
    blue = tl.load(at + 2 * plane, there, 0.0)
    alpha = tl.zeros([PIXELS], tl.float32)
    if channels == 4:
        alpha = tl.load(at + 3 * plane, there, 0.0)
    under = red * tl.load(ground) + green * tl.load(ground + 1) + blue * tl.load(ground + 2)
    first, end = tl.load(tile_base + tile), tl.load(tile_base + tile + 1)
    at = first.to(tl.int64) * PIXELS + p
    for i in range(first, end):
        r, g, b, opacity = _paint_of(paints, tl.load(item_rows + i), paths, p)
        by = red * r + green * g + blue * b + alpha - under
        tl.store(to_shares + at, by)
        under += tl.load(shares + at) * opacity * by
        at += PIXELS
    # What one thread has stored another may load.
    tl.debug_barrier()
    seen = tl.full([PIXELS], 1.0, tl.float32)
    for back in range(0, end - first):
        i = end - 1 - back
        at -= PIXELS
        row = tl.load(item_rows + i)
        _, _, _, opacity = _paint_of(paints, row, paths, p)
        share, by = tl.load(shares + at), tl.load(to_shares + at) * seen
        tl.store(to_shares + at, by * opacity)
        shown = share * opacity * seen
        seen *= 1 - share * opacity
        if row < paths:
            sums = to_cells + tl.load(order + i) * 4
            tl.store(sums, tl.sum(shown * red, 0))
            tl.store(sums + 1, tl.sum(shown * green, 0))
            tl.store(sums + 2, tl.sum(shown * blue, 0))
            tl.store(sums + 3, tl.sum(by * share, 0))
        else:
            own = to_paints + (row.to(tl.int64) + p) * 4
            tl.store(own, shown * red)
            tl.store(own + 1, shown * green)
            tl.store(own + 2, shown * blue)
            tl.store(own + 3, by * share)
    tl.store(to_ground + tile * 3, tl.sum(seen * red, 0))
    tl.store(to_ground + tile * 3 + 1, tl.sum(seen * green, 0))
    tl.store(to_ground + tile * 3 + 2, tl.sum(seen * blue, 0))


@triton.jit
@no_type_check
def sum_paints(strip_base, cell_base, to_cells, to_paints):
    """Adds up what the cells of one path say of its paint."""
    path = tl.program_id(0)
    first = tl.load(cell_base + tl.load(strip_base + path))
    last = tl.load(cell_base + tl.load(strip_base + path + 1))
    channel = tl.arange(0, 4)
    total = tl.zeros([_CELLS, 4], tl.float32)
    for start in range(first, last, _CELLS):
        cell = (start + tl.arange(0, _CELLS))[:, None]
        total += tl.load(to_cells + cell * 4 + channel[None, :], cell < last, 0.0)
    tl.store(to_paints + path * 4 + channel, tl.sum(total, 0))
