"""Where in a picture a prompt acts."""

from pathlib import Path
from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from guidance.errors import InputError
from guidance.media import read_rgba
from guidance.prompts import Box


@final
class Region:
    """The part of a picture that is in a box, or where a mask is not black; nothing else has a gradient.

    A mask is a picture, stretched to the other; where it is grey the gradient is weaker. Raises InputError
    for a mask that cannot be read or is black, or transparent, all over.
    """

    def __init__(self, where: Box | Path) -> None:
        self._where = where if isinstance(where, tuple) else _read_mask(where)
        self._masks: dict[tuple[int, int], tuple[Tensor, slice, slice]] = {}

    def __call__(
        self, images: Float[Tensor, "b 3 h w"], fill: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Float[Tensor, "b 3 _ _"]:
        """The box, in whole pixels; or the box around the mask, of the colour `fill` where that is black."""
        h, w = images.shape[-2:]
        if isinstance(self._where, tuple):
            left, top, right, bottom = self._where
            return images[..., _pixels(top, bottom, h), _pixels(left, right, w)]
        if (h, w) not in self._masks:
            self._masks[h, w] = _fit(self._where, h, w)
        mask, rows, columns = self._masks[h, w]
        ground = images.new_tensor(fill)[:, None, None]
        return ground + (images[..., rows, columns] - ground) * mask.to(images)


def _pixels(start: float, end: float, side: int) -> slice:
    first = min(round(start * side), side - 1)
    return slice(first, max(round(end * side), first + 1))


def _read_mask(path: Path) -> Float[Tensor, "1 1 h w"]:
    mask = read_rgba(path)[:, :3].mean(1, keepdim=True)
    if not mask.any():
        raise InputError(f"the mask {path} is black all over; paint white where the prompt is to act")
    return mask


def _fit(mask: Float[Tensor, "1 1 _ _"], h: int, w: int) -> tuple[Float[Tensor, "_ _"], slice, slice]:
    """The mask for pictures of h by w, without its black margins, and where it then lies."""
    # The mean over each pixel spreads nothing beyond it.
    fitted = F.interpolate(mask, (h, w), mode="area")[0, 0]
    rows, columns = (fitted.amax(side).nonzero()[:, 0].tolist() for side in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return fitted[box], *box
