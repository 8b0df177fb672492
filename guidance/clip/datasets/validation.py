"""Pictures and captions that training does not see, to measure with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from guidance.clip.datasets.rows import Caption, Row, Source
from guidance.clip.pictures import Fit, Unusable, ahead, prepare
from guidance.clock import Clock
from guidance.errors import InputError


@dataclass(frozen=True)
class HeldOut:
    """Pictures as a model sees them, sRGB in 0..255, each with all its captions.

    `broken`: pictures that are not among them, and why.
    """

    images: UInt8[Tensor, "n 3 s s"]
    captions: list[tuple[Caption, ...]]
    broken: dict[str, str]


def held_out(
    sources: Sequence[tuple[float, Source]],
    size: int,
    fit: Fit,
    *,
    most: int = 5000,
    everything: bool = False,
) -> HeldOut:
    """The held-out rows of sources, `most` at most, chosen at random, always the same; in their order.

    `size` and `fit` say how a model sees pictures (`guidance.clip.pictures.fitting`). `everything`: also the
    rows for training, of sources that are for measuring as a whole. Raises InputError if there are no rows.
    """
    rows = [source.held_out for _, source in sources]
    if everything:
        rows += [source.train for _, source in sources]
    places = [(part, number) for part in rows for number in range(len(part))]
    if len(places) > most:
        order = torch.randperm(len(places), generator=Clock().generator("held out"))[:most]
        places = [places[i] for i in order.sort().values.tolist()]

    def see(row: Row) -> np.ndarray:
        return prepare(row.content(), size, fit).pixels

    images, captions, broken = [], [], {}
    for row, pixels in ahead((part[number] for part, number in places), see, 64):
        if isinstance(pixels, Unusable):
            broken[row.picture] = str(pixels)
        elif row.captions:
            images.append(pixels)
            captions.append(row.captions)
    if not images:
        names = ", ".join(source.name for _, source in sources)
        raise InputError(f"{names} has no picture held out (split: val); name a source to measure with")
    return HeldOut(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), captions, broken)
