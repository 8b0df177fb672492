"""Batches of captioned pictures to train on, each a pure function of the sources, a seed and its number.

So a training is resumed by its step's number alone, and any number of processes share the same batches.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from pathlib import Path
from random import Random

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from guidance.clip.datasets.mixture import Mixture
from guidance.clip.datasets.rows import Caption, Row, Source
from guidance.clip.datasets.views import DRAWS, Augmentation
from guidance.clip.pictures import Unusable, ahead
from guidance.clock import MAX_STEPS, Clock
from guidance.distributed import rank, world
from guidance.errors import InputError
from guidance.media import write_text

#: Samples that a thread makes at a time: fewer cost more in handing over than in work.
PIECE = 16
#: Before so many pictures the share of broken ones says little.
ENOUGH = 200
#: Other rows that are tried in the place of a broken one.
OTHERS = 50
#: Threads that wait for pictures from the network.
WAITING = 32


@dataclass(frozen=True)
class Batch:
    """One process's rows of a batch.

    `images`: v views of n pictures, on the CPU, sRGB in 0..255. `captions`: w views of the n texts, and
    `languages` those of the first, "" where unknown. `ids`: hashes of the picture and of the first text,
    equal where they repeat.
    """

    images: UInt8[Tensor, "v n 3 s s"]
    captions: list[list[str]]
    languages: list[str]
    ids: Int[Tensor, "n 2"]


@dataclass(frozen=True)
class _Piece:
    """Some of the samples of batch `index`, made by one thread.

    `start` is the first's place in this process's `images`. `samples`: a number in the whole sequence, a
    source and the number of a row in it.
    """

    index: int
    start: int
    samples: list[tuple[int, int, int]]
    draws: np.ndarray
    images: np.ndarray
    last: bool


@dataclass(frozen=True)
class _Made:
    """The texts of a piece and what was broken on the way: pictures and reasons."""

    texts: list[list[Caption]]
    ids: list[tuple[int, int]]
    broken: list[tuple[str, str]]


class Batches:
    """Batches of `batch` samples, over all processes, of the training rows of weighted sources.

    `views` and `texts`: how many of each sample; the further views are strong ones, the texts different
    captions where the picture has as many. `cache`: bytes of memory, in each process, for decoded pictures;
    those that fit are decoded once, and look the same as those that do not. Beside it there are two to three
    batches in memory, a byte a colour.

    A broken picture's place is taken by another row, drawn for that place. It is named, once, in the JSON
    lines of `log`; give each process its own. When more than `most_broken` of the pictures are broken,
    `iterate` raises InputError.

    Raises InputError for numbers that make no sense and where there is nothing to train on.
    """

    def __init__(
        self,
        sources: Sequence[tuple[float, Source]],
        augmentation: Augmentation,
        *,
        batch: int,
        seed: int,
        views: int = 1,
        texts: int = 1,
        cache: int = 2**30,
        log: Path | None = None,
        most_broken: float = 0.1,
    ) -> None:
        sources = [(weight, source) for weight, source in sources if len(source.train)]
        if not sources:
            raise InputError("there is no picture to train on: all are held out; change the column split")
        if batch < 1 or batch % world():
            raise InputError(
                f"the batch must be a multiple of the number of processes, {world()}, got {batch}"
            )
        if views < 1 or texts < 1:
            raise InputError(f"there must be at least 1 view and 1 text, got {views} and {texts}")
        if not 0 <= most_broken < 1:
            raise InputError(f"the share of broken pictures must be in [0, 1), got {most_broken}")
        self.augmentation, self.batch, self.seed = augmentation, batch, seed
        self.views, self.texts = views, texts
        self._rows = [source.train for _, source in sources]
        self._mixture = Mixture([(weight, source.train) for weight, source in sources], seed)
        #: Steps until every row has come once, if all weights are 1.
        self.epoch_steps = ceil(self._mixture.epoch / batch)
        #: Samples until then.
        self.epoch_samples = self._mixture.epoch
        self._threads = WAITING if any(rows.remote for rows in self._rows) else None
        self._cache: dict[tuple[int, int], Image.Image] = {}
        self._room = cache
        self._lock = threading.Lock()
        self._log = log
        self._most_broken = most_broken
        self._tried = 0
        #: The broken pictures that were met, and why.
        self.broken: dict[str, str] = {}
        self._failed = 0
        self._named = _named(log)

    def iterate(self, first: int, last: int) -> Iterator[Batch]:
        """This process's rows of the batches `first` up to but not with `last`, made ahead by threads."""
        per_batch = ceil(self.batch // world() / PIECE)
        # A batch ahead, and enough work for all threads.
        lead = max(per_batch, 4 * (self._threads or os.cpu_count() or 1))
        pieces = (piece for index in range(first, last) for piece in self._pieces(index))
        texts: list[list[Caption]] = []
        ids: list[tuple[int, int]] = []
        for piece, made in ahead(pieces, self._make, lead, self._threads):
            assert isinstance(made, _Made)
            self._judge(len(made.texts), made.broken)
            texts += made.texts
            ids += made.ids
            if piece.last:
                captions = [[views[k].text for views in texts] for k in range(self.texts)]
                images = torch.from_numpy(piece.images).permute(0, 1, 4, 2, 3)
                yield Batch(images, captions, [views[0].language for views in texts], torch.tensor(ids))
                texts, ids = [], []

    def _pieces(self, index: int) -> Iterator[_Piece]:
        n = self.batch // world()
        generator = Clock(MAX_STEPS, self.seed, index).generator("views")
        shape = (self.batch, self.views * DRAWS + self.texts)
        draws = torch.rand(shape, generator=generator)[rank() * n : (rank() + 1) * n].numpy()
        size = self.augmentation.size
        # Pixels as Pillow has them, so that nothing is turned round here.
        images = np.empty((self.views, n, size, size, 3), np.uint8)
        first = index * self.batch + rank() * n
        for start in range(0, n, PIECE):
            stop = min(start + PIECE, n)
            samples = [(first + i, *self._mixture[first + i]) for i in range(start, stop)]
            yield _Piece(index, start, samples, draws[start:stop], images, stop == n)

    def _make(self, piece: _Piece) -> _Made:
        made = _Made([], [], [])
        for place, (sample, source, number) in enumerate(piece.samples):
            row, picture = self._usable(piece.index, sample, source, number, made.broken)
            draws = piece.draws[place]
            for view in range(self.views):
                numbers = draws[view * DRAWS : (view + 1) * DRAWS]
                piece.images[view, piece.start + place] = self.augmentation.view(
                    picture, numbers, strong=view > 0
                )
            texts = choose_texts(row.captions, draws[self.views * DRAWS :].tolist())
            made.texts.append(texts)
            made.ids.append((_hash(row.picture), _hash(texts[0].text)))
        return made

    def _usable(
        self, index: int, sample: int, source: int, number: int, broken: list[tuple[str, str]]
    ) -> tuple[Row, Image.Image]:
        """A row and its picture, or those of another if it is broken; which are added to `broken`."""
        reason = self._try(source, number)
        if isinstance(reason, tuple):
            return reason
        broken.append((self._rows[source][number].picture, str(reason)))
        generator = Clock(MAX_STEPS, self.seed, index).generator(f"instead of {sample - index * self.batch}")
        others = self._mixture.neighbours(source, number)
        tries = Random(generator.initial_seed()).sample(others, min(OTHERS, len(others)))
        for other in tries:
            reason = self._try(source, other)
            if isinstance(reason, tuple):
                return reason
            broken.append((self._rows[source][other].picture, str(reason)))
        names = "; ".join(f"{picture} ({reason})" for picture, reason in broken[-3:])
        raise InputError(f"{len(tries)} pictures in a row are broken: {names}; repair or delete them")

    def _try(self, source: int, number: int) -> tuple[Row, Image.Image] | Unusable:
        row = self._rows[source][number]
        picture = self._cache.get((source, number))
        if picture is not None:
            return row, picture
        if not row.captions:
            return Unusable("no caption")
        try:
            picture = self.augmentation.decode(row.content())
        except Unusable as reason:
            return reason
        size = 4 * picture.width * picture.height  # Pillow's, also without opacity
        with self._lock:
            if size <= self._room and (source, number) not in self._cache:
                self._room -= size
                self._cache[source, number] = picture
        return row, picture

    def _judge(self, samples: int, broken: list[tuple[str, str]]) -> None:
        self._tried += samples + len(broken)
        self._failed += len(broken)
        for picture, reason in broken:
            self.broken.setdefault(picture, reason)
            if self._log is not None and picture not in self._named:
                self._named.add(picture)
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"picture": picture, "reason": reason}) + "\n")
        share = self._failed / self._tried
        if self._tried >= ENOUGH and share > self._most_broken:
            names = "; ".join(f"{picture} ({reason})" for picture, reason in list(self.broken.items())[:3])
            raise InputError(
                f"{share:.0%} of the pictures are broken, at most {self._most_broken:.0%} may be: {names}; "
                "repair or delete them, or allow more"
            )


def choose_texts(captions: Sequence[Caption], draws: Sequence[float]) -> list[Caption]:
    """A caption for each of some uniform numbers, all different if there are as many."""
    left: list[Caption] = []
    chosen = []
    for draw in draws:
        left = left or list(captions)
        chosen.append(left.pop(int(draw * len(left))))
    return chosen


def _hash(text: str) -> int:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _named(log: Path | None) -> set[str]:
    """The pictures that a log names already, of which a killed training may have cut the last line."""
    if log is None or not log.is_file():
        return set()
    text = log.read_text(encoding="utf-8", errors="replace")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        write_text(log, text)
    return {json.loads(line)["picture"] for line in text.splitlines()}
