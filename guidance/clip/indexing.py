"""An index of pictures brought up to date: what is new is encoded, what is gone leaves."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import final
from zlib import crc32

import torch
from torch import Tensor

from guidance.clip.embed import check_batch
from guidance.clip.encoder import Clip
from guidance.clip.index import Index, Row
from guidance.clip.pictures import Pixels, Ready, Unusable, ahead, encode, fitting, prepare
from guidance.clip.sources import Content, Found, Missed, covers, look, read

#: A slot and a row of an index; slot 0 is that of a row of another one.
_Entry = tuple[int, Row]

#: An indexing that is killed loses about this much time.
COMMIT_SECONDS = 5.0


@dataclass
class Tally:
    """What an indexing has done so far, in pictures; `skipped` names what could not be used, and why."""

    encoded: int = 0
    unchanged: int = 0
    removed: int = 0
    merged: int = 0
    skipped: list[Missed] = field(default_factory=list)


def embed(
    clip: Clip, sources: Sequence[Path], folder: Path, *, batch: int = 64, share: tuple[int, int] = (0, 1)
) -> Iterator[Tally]:
    """Bring the index in `folder` up to date with sources (see `look`), yielding the tally as it grows.

    A picture is unchanged if its file has the length and the time that are recorded, or else if its bytes
    have the hash that is recorded; only others are encoded. Pictures that the sources had and have no more
    are removed; those of other sources stay. What is done is written every five seconds: whoever interrupts
    this loses no more, and the same call goes on.

    `share`, which process of how many this is: each takes the pictures whose path falls to it and writes them
    to a part beside the index; a call without a share merges the parts.

    Raises InputError as `look` and `Index.create` do, when the disk is full, while another process is at work
    on the index, and for a batch below 1.
    """
    check_batch(batch)
    found = chain.from_iterable([look(source) for source in sources])
    rank, count = share
    with ExitStack() as files:
        own, other = folder, None
        if count > 1:
            own, other = folder / "parts" / f"{rank}-of-{count}", _existing(folder, clip)
        if other is not None:
            files.enter_context(closing(other))
        index = files.enter_context(closing(Index.create(own, clip.name, clip.fingerprint, clip.embed_dim)))
        files.enter_context(index.alone())
        update = _Update(clip, index, other)
        if count == 1:
            update.tally.merged = _merge_parts(index)
        mine = (each for each in found if crc32(each.path.encode()) % count == rank)
        yield from update.run(mine, batch)
        if count == 1:
            update.remove(sources)
            index.tidy()
        yield update.tally


def merge(folder: Path) -> int:
    """Take the parts that torchrun's processes wrote into the index of a folder; returns how many rows.

    A part is deleted when all of it is in the index. Raises InputError when parts are of different models,
    and while another process is at work on the index or on a part.
    """
    parts = _parts(folder)
    if not parts:
        return 0
    with closing(Index(parts[0])) as part:
        index = Index.create(folder, part.model, part.fingerprint, part.dimensions)
    with closing(index), index.alone():
        return _merge_parts(index)


def _merge_parts(index: Index) -> int:
    rows = 0
    for place in _parts(index.folder):
        with closing(Index(place)) as part, part.alone():
            rows += index.merge(part)
        shutil.rmtree(place)
    return rows


def _parts(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("parts/*/index.sqlite"))


def _existing(folder: Path, clip: Clip) -> Index | None:
    if not (folder / "index.sqlite").exists():
        return None
    index = Index(folder)
    index.check(clip.name, clip.fingerprint)
    return index


@final
class _Update:
    """One indexing under way. What `other` has is not encoded again either."""

    def __init__(self, clip: Clip, index: Index, other: Index | None) -> None:
        self.tally = Tally()
        self._clip = clip
        self._index = index
        self._other = other
        self._first = index.last_slot()  # later ones are of this update
        self._seen: set[int] = set()
        self._under_way: set[str] = set()
        self._rows: list[Row] = []
        self._vectors: list[Tensor] = []
        self._amended: list[tuple[int, Row]] = []

    def run(self, found: Iterator[Found | Missed], batch: int) -> Iterator[Tally]:
        """Encode what is new, in batches, and write it."""
        fit, size = fitting(self._clip), self._clip.image_size

        def work(job: tuple[Found, _Entry | None]) -> tuple[Content, Ready | None]:
            each, entry = job
            content = read(each.file, each.offset, each.length)
            same = entry is not None and entry[1].digest == content.digest
            return content, None if same else prepare(content.data, size, fit)

        waiting: list[tuple[Row, Pixels]] = []
        written = time.monotonic()
        for (each, entry), done in ahead(self._changed(found), work, 3 * batch):
            if isinstance(done, Unusable):
                self._miss(each.path, str(done))
                continue
            content, ready = done
            if ready is None:
                assert entry is not None
                self._keep(entry, replace(_as_found(entry[1], each), modified=content.modified))
            else:
                waiting.append((_row(each, content, ready), ready.pixels))
            if len(waiting) == batch:
                self._encode(waiting)
                waiting.clear()
                if time.monotonic() - written > COMMIT_SECONDS:
                    self._write()
                    written = time.monotonic()
                yield self.tally
        if waiting:
            self._encode(waiting)
        self._write()
        yield self.tally

    def remove(self, sources: Sequence[Path]) -> None:
        """Take out what the sources should have and the update has not seen."""
        old = ((slot, row) for slot, row in self._index.rows() if slot <= self._first)
        gone = [
            slot
            for slot, row in old
            if slot not in self._seen and any(covers(source, row.path, row.source) for source in sources)
        ]
        self._index.remove(gone)
        self.tally.removed = len(gone)

    def _changed(self, found: Iterator[Found | Missed]) -> Iterator[tuple[Found, _Entry | None]]:
        """What must be read, with what is recorded of it; the first of several of one path counts."""
        for each in found:
            if isinstance(each, Missed):
                self._miss(each.path, each.reason)
                continue
            entry = self._index.row(each.path)
            slot = entry[0] if entry else 0
            if each.path in self._under_way or slot in self._seen or slot > self._first:
                continue
            if entry is None and self._other is not None and (other := self._other.row(each.path)):
                entry = (0, other[1])
            if entry is not None and _same_file(entry[1], each):
                self._keep(entry, _as_found(entry[1], each))
            else:
                self._under_way.add(each.path)
                yield each, entry

    def _keep(self, entry: _Entry, row: Row) -> None:
        slot, recorded = entry
        self.tally.unchanged += 1
        self._under_way.discard(row.path)
        if slot:
            self._seen.add(slot)
            if row != recorded:
                self._amended.append((slot, row))

    def _miss(self, path: str, reason: str) -> None:
        self.tally.skipped.append(Missed(path, reason))
        self._under_way.discard(path)

    def _encode(self, waiting: list[tuple[Row, Pixels]]) -> None:
        vectors = encode(self._clip, [pixels for _, pixels in waiting])
        for (row, _), vector in zip(waiting, vectors, strict=True):
            if vector.isfinite().all():
                self._rows.append(row)
                self._vectors.append(vector)
            else:
                self._miss(row.path, "the model fails on it")

    def _write(self) -> None:
        if self._rows:
            self._index.add(self._rows, torch.stack(self._vectors).numpy())
        if self._amended:
            self._index.amend(self._amended)
        self.tally.encoded += len(self._rows)
        self._under_way -= {row.path for row in self._rows}
        for written in (self._rows, self._vectors, self._amended):
            written.clear()


def _same_file(row: Row, found: Found) -> bool:
    return (row.length, row.modified, row.offset) == (found.length, found.modified, found.offset)


def _as_found(row: Row, found: Found) -> Row:
    """A row of a picture whose bytes are the same, with what else is found of it now."""
    caption = row.caption if found.caption is None else found.caption
    return replace(row, caption=caption, offset=found.offset)


def _row(found: Found, content: Content, ready: Ready) -> Row:
    return Row(
        found.path,
        found.source,
        found.caption or "",
        ready.width,
        ready.height,
        len(content.data),
        found.offset,
        content.modified,
        content.digest,
    )
