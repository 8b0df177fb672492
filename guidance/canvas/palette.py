"""Pixel art: a coarse grid of cells, each of one of a few colours."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageColor
from torch import Tensor, nn

from guidance.canvas.base import Canvas, ParamGroup
from guidance.canvas.grids import check_colour, check_members, check_number, frame
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.media import read_image

Colour = tuple[float, float, float]
#: A palette of more colours than this is a mistake: it is what PNG calls one.
MAX_COLOURS = 256


class Palette(Canvas):
    """A population of b pictures of square cells, each of one of a few colours, which are learned or given.

    `cells` is (rows, columns), or one number for a square; a cell is `block` pixels a side. `colours` is how
    many to learn, random at first but for one white, or a list of sRGB in [0, 1] that stays as it is.

    A cell has a logit for each colour, and shows the mean of the colours by their softmax. Its `temperature`
    falls as the clock goes on, geometrically from the first to the second; at the end of the run a cell
    shows its likeliest colour alone: then a picture has no more colours than the palette, exactly. (A hard
    choice from the start, with straight-through gradients, drew nothing but specks; Gumbel noise drew no
    better forms.) At first the logits are normal with deviation `noise`, with `ground` more
    for the lightest colour.

    The groups are "cells", with the learning rate `lr` in logits, and "colours" with `colour_lr`, if they are
    learned. The picture begins as that of the clock's step 0 wherever the clock is. Raises `InputError` for
    numbers out of their ranges; there are from 2 to 256 colours.
    """

    logits: nn.Parameter
    colours: Float[Tensor, "b n 3"]

    def __init__(
        self,
        cells: int | tuple[int, int],
        clock: Clock,
        *,
        b: int = 1,
        colours: int | Sequence[Colour] = 8,
        block: int = 8,
        temperature: tuple[float, float] = (1.0, 0.3),
        ground: float = 2.0,
        noise: float = 0.1,
        lr: float = 0.2,
        colour_lr: float = 0.02,
    ) -> None:
        super().__init__()
        rows, columns = frame(cells, least=1)
        check_members(b)
        n = colours if isinstance(colours, int) else len(colours)
        _check_count(n)
        if block < 1:
            raise InputError(f"block must be at least 1 pixel, got {block}")
        frame((rows * block, columns * block))
        check_number("noise", noise)
        check_number("ground", ground)
        for name, value in (("temperature", min(temperature)), ("lr", lr), ("colour_lr", colour_lr)):
            check_number(name, value, least=1e-6)

        self.clock = clock
        self.block = block
        self.temperature = temperature
        self.lr = lr
        self.colour_lr = colour_lr
        start = replace(clock, index=0)
        if isinstance(colours, int):
            palette = start.uniform("palette/colours", b, (n, 3))
            palette[:, 0] = 1
            self.colours = nn.Parameter(palette)
        else:
            for colour in colours:
                check_colour("a colour", colour)
            palette = torch.tensor(colours).expand(b, -1, -1)
            self.register_buffer("colours", palette.clone())
        lightest = F.one_hot(palette.sum(2).argmax(1), n)
        logits = noise * start.normal("palette/cells", b, (n, rows, columns))
        self.logits = nn.Parameter(logits + ground * lightest[:, :, None, None])

    def forward(self) -> Float[Tensor, "b 3 h w"]:
        """The pictures, float32 sRGB in [0, 1]."""
        warm, cold = self.temperature
        progress = self.clock.progress
        if progress < 1:
            shares = (self.logits / (warm * (cold / warm) ** progress)).softmax(1)
        else:
            shares = F.one_hot(self.logits.argmax(1), self.logits.shape[1]).movedim(3, 1).float()
        cells = torch.einsum("bnhw,bnc->bchw", shares, self.colours).clamp(0, 1)
        return F.interpolate(cells, scale_factor=self.block, mode="nearest")

    def param_groups(self) -> list[ParamGroup]:
        """The cells, and the colours if they are learned."""
        groups: list[ParamGroup] = [{"name": "cells", "params": [self.logits], "lr": self.lr}]
        if isinstance(self.colours, nn.Parameter):
            groups.append({"name": "colours", "params": [self.colours], "lr": self.colour_lr})
        return groups

    @torch.no_grad()
    def project_(self) -> None:
        """Clamps logits to [-10, 10], beyond which a cell could hardly change, and colours to [0, 1]."""
        self.logits.clamp_(-10, 10)
        self.colours.clamp_(0, 1)


def read_palette(text: str, n: int) -> list[Colour]:
    """The colours of `"#1d2b53, white"`, as in CSS, or of a picture, `"@sprite.png"`, at most n.

    A picture with more colours gives n that stand for them (median cut, Heckbert 1982, then k-means). Raises
    InputError for a colour or a picture that cannot be read, for transparent colours, and for n out of range.
    """
    _check_count(n)
    if text.startswith("@"):
        pixels = (read_image(text[1:])[0] * 255).round().byte().movedim(0, 2).contiguous()
        few = Image.fromarray(pixels.numpy()).quantize(n, kmeans=1).convert("RGB")
        found = np.unique(np.asarray(few).reshape(-1, 3), axis=0).tolist()
    else:
        found = [_rgb(colour.strip()) for colour in re.split(r",(?![^(]*\))", text)]
    return [(r / 255, g / 255, b / 255) for r, g, b in found]


def _rgb(text: str) -> tuple[int, ...]:
    try:
        colour = ImageColor.getrgb(text)
    except ValueError as error:
        raise InputError(f"no colour {text!r}; write colours as #1d2b53 or white, or @FILE") from error
    if len(colour) > 3:
        raise InputError(f"a palette has no transparent colours, got {text!r}; leave out its alpha")
    return colour


def _check_count(n: int) -> None:
    if not 2 <= n <= MAX_COLOURS:
        raise InputError(f"a palette has from 2 to {MAX_COLOURS} colours, got {n}")
