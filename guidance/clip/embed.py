"""Embeddings of pictures and texts in memory; `guidance.clip.indexing` keeps them in an index."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from guidance.clip.encoder import Clip
from guidance.clip.pictures import Ready, Unusable, ahead, encode, fitting, prepare
from guidance.clip.sources import read
from guidance.errors import InputError

T = TypeVar("T")


@torch.no_grad()
def embed_images(
    clip: Clip,
    images: Float[Tensor, "n 3 h w"] | UInt8[np.ndarray, "n h w 3"] | Sequence[Path | str],
    *,
    batch: int = 64,
) -> Float[Tensor, "n d"]:
    """Embeddings of images in [0, 1], of 8-bit RGB arrays or of picture files, of length 1, on the CPU.

    Files are decoded by all cores while the model runs (`guidance.clip.pictures` tells how they are seen).
    `.numpy()` makes an array of the result; `embed_images(…) @ embed_texts(…).T` are cosines.

    Raises InputError for a file that cannot be used.
    """
    check_batch(batch)
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    done = [torch.empty(0, clip.embed_dim)]
    if isinstance(images, Tensor):
        for some in images.split(batch):
            some = some.to(clip.device)
            done.append(clip.encode_image(some if some.is_floating_point() else some / 255).cpu())
        return torch.cat(done)
    for path, row in embed_each(clip, images, lambda path: read(str(path), None, 0).data, batch):
        if isinstance(row, Unusable):
            raise InputError(f"cannot use the picture {path} ({row}); name another one")
        done.append(row[None])
    return torch.cat(done)


def embed_each(
    clip: Clip, items: Iterable[T], content: Callable[[T], bytes], batch: int = 64
) -> Iterator[tuple[T, Float[Tensor, " d"] | Unusable]]:
    """Each item, in order, with the embedding of the picture file whose `content` it has, or why it has none.

    Files are decoded by all cores while the model runs; threads call `content`, which may raise Unusable.
    """
    fit, size = fitting(clip), clip.image_size
    waiting: list[tuple[T, Ready | Unusable]] = []
    for pair in ahead(items, lambda item: prepare(content(item), size, fit), 3 * batch):
        waiting.append(pair)
        if len(waiting) == batch:
            yield from _encoded(clip, waiting)
            waiting = []
    yield from _encoded(clip, waiting)


def _encoded(
    clip: Clip, waiting: Sequence[tuple[T, Ready | Unusable]]
) -> Iterator[tuple[T, Float[Tensor, " d"] | Unusable]]:
    pixels = [ready.pixels for _, ready in waiting if isinstance(ready, Ready)]
    vectors = iter(encode(clip, pixels) if pixels else ())
    for item, ready in waiting:
        if isinstance(ready, Unusable):
            yield item, ready
        else:
            vector = next(vectors)
            yield item, vector if vector.isfinite().all() else Unusable("the model fails on it")


def embed_texts(clip: Clip, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Embeddings of texts, of length 1, on the CPU."""
    return clip.encode_text(list(texts)).cpu()


def check_batch(batch: int) -> None:
    """Raises InputError unless pictures can be encoded so many at once."""
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
