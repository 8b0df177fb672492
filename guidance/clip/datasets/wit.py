"""WIT: Wikipedia's pictures with their captions in 108 languages, a table of addresses (Srinivasan 2021).

The files are too long to hold and, compressed, can only be read from the front. So their rows come in blocks,
of which a few are in memory; where each begins is found by reading the file through once and is kept.
"""

import gzip
import os
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from guidance.clip.datasets.fetch import Web, split
from guidance.clip.datasets.rows import Caption, Listed, Row, Rows, Source
from guidance.clip.pictures import Unusable
from guidance.clip.sources import read
from guidance.errors import InputError
from guidance.media import replacing

COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description",
    "mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id",
    "page_changed_recently", "context_page_description", "context_section_description",
)  # fmt: skip
#: Rows that are read at once and shuffled among each other; some 10 MB.
BLOCK = 8192
#: Longer lines are no rows of WIT.
MAX_LINE = 2**20
#: What reading a broken file raises.
BROKEN = (OSError, EOFError, zlib.error)

Stream = gzip.GzipFile | BufferedReader


class WitRows(Rows):
    """The rows of one of WIT's files, .tsv or .tsv.gz, that have a caption.

    The caption, in the row's language, is the one under the picture in the article (reference description);
    where there is none, the alternative text; where there is none, what the picture's own page says
    (attribution description), if WIT found that to be in the row's language.

    The picture is the file in the folder `images` that is called as in its address; without that folder it
    is fetched from its address. Where the blocks begin is kept in `web.folder`. Raises InputError for a file
    that has no such rows.
    """

    block = BLOCK

    def __init__(self, file: Path, web: Web, images: Path | None = None) -> None:
        self._file, self._web, self._images = file, web, images
        self.remote = images is None
        self._starts, self._length = _starts(file, web.folder)
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._blocks: dict[int, list[tuple[str, Caption]]] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Row:
        block, within = divmod(number, BLOCK)
        with self._lock:
            if block not in self._blocks:
                if len(self._blocks) > 2:
                    del self._blocks[next(iter(self._blocks))]
                self._blocks[block] = self._read(block)
            address, caption = self._blocks[block][within]
        return Row(address, partial(self._content, address), (caption,))

    def _read(self, block: int) -> list[tuple[str, Caption]]:
        if self._stream is None:
            self._stream = _open(self._file)
        self._stream.seek(self._starts[block])
        rows = _rows(self._stream)
        count = min(BLOCK, self._length - block * BLOCK)
        try:
            return [next(rows)[1:] for _ in range(count)]
        except (StopIteration, *BROKEN) as error:
            raise InputError(f"{self._file} has changed since it was opened; start again") from error

    def _content(self, address: str) -> bytes:
        if self._images is None:
            return self._web.read(address)
        name = unquote(split(address)[3].partition("?")[0].rpartition("/")[2])
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            raise Unusable("the address names no file")
        return read(str(self._images / name), None, 0).data


def read_wit(place: Path, web: Web, images: Path | None = None) -> list[Source]:
    """The sources of WIT's files: one, or all .tsv and .tsv.gz files of a folder. Raises InputError."""
    files = [place]
    if os.path.isdir(place):  # Path.is_dir raises for a name that is too long
        files = sorted([*place.glob("*.tsv"), *place.glob("*.tsv.gz")])
    if not files or not os.path.isfile(files[0]):
        raise InputError(f"there are no files of WIT (.tsv, .tsv.gz) at {place}; check the path")
    if images is not None and not os.path.isdir(images):
        raise InputError(f"there is no folder of pictures at {images}; check the path")
    return [Source(str(file), WitRows(file, web, images), Listed([])) for file in files]


def choose_caption(fields: dict[str, str]) -> Caption | None:
    """The caption of a row of WIT, by the rule above; None if it has none."""
    text = fields["caption_reference_description"] or fields["caption_alt_text_description"]
    if not text and fields["attribution_passes_lang_id"].lower() == "true":
        text = fields["caption_attribution_description"]
    return Caption(text, fields["language"]) if text else None


def _rows(stream: Stream) -> Iterator[tuple[int, str, Caption]]:
    """The rows that can be used: where they begin, the picture's address and the caption."""
    start = stream.tell()
    while line := stream.readline(MAX_LINE):
        # There is no quoting: tabs and line ends are always the table's.
        values = [value.strip() for value in line.decode("utf-8", "replace").split("\t")]
        fields = dict(zip(COLUMNS, values, strict=False))
        if len(values) == len(COLUMNS) and fields["image_url"] != "image_url":
            caption = choose_caption(fields)
            if caption is not None and fields["image_url"]:
                yield start, fields["image_url"], caption
        start += len(line)


def _starts(file: Path, folder: Path) -> tuple[list[int], int]:
    """Where each block begins in the file, unpacked, and the number of rows; kept in a folder."""
    try:
        stat = file.stat()
        key = sha256(
            f"{os.path.abspath(file)} {stat.st_size} {stat.st_mtime_ns} {BLOCK}".encode()
        ).hexdigest()
        known = folder / f"wit-{key[:32]}.npy"
        if not known.is_file():
            with _open(file) as stream:
                starts, length = [], 0
                for start, _, _ in _rows(stream):
                    if length % BLOCK == 0:
                        starts.append(start)
                    length += 1
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(known) as temporary, open(temporary, "wb") as output:
                np.save(output, np.array([*starts, length], np.int64))
        *found, length = np.load(known).tolist()
    except BROKEN as error:
        raise InputError(f"cannot read {file} ({error}); give a whole .tsv or .tsv.gz file of WIT") from error
    if not length:
        raise InputError(f"{file} has no rows with a caption; WIT's have {len(COLUMNS)} columns")
    return found, length


def _open(file: Path) -> Stream:
    return gzip.GzipFile(file) if file.suffix == ".gz" else file.open("rb")
