"""Sources by their names on a command line."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from guidance.clip.datasets.fetch import Web
from guidance.clip.datasets.hub import read_dataset, read_parquet
from guidance.clip.datasets.rows import Source
from guidance.clip.datasets.tables import read_folder, read_shards, read_table
from guidance.clip.datasets.wit import read_wit
from guidance.clip.pictures import Unusable
from guidance.errors import InputError

#: A shard from the web may be this large.
MAX_SHARD = 16 * 2**30
#: More files in one name are a mistake.
MAX_FILES = 1_000_000

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_WEIGHT = re.compile(r"(.+):(\d*\.?\d+(?:e[-+]?\d+)?)$", re.DOTALL)


def open_sources(
    names: Sequence[str], *, cache: Path, images: Path | None = None
) -> list[tuple[float, Source]]:
    """The sources that are named, and their weights: how often each row comes in an epoch.

    A name is one of these, and `:0.5` after it is a weight other than 1:

    - `captions.csv`, `captions.tsv`: a table (`filepath`, `title`; `language`, `split`)
    - `folder`: pictures with captions.csv, or with texts of the same names
    - `shards/{00000..00099}.tar`: WebDataset's shards; also https://…, then fetched to `cache` first
    - `part-{0..9}.parquet`: columns `image` and `caption`
    - `wit:file.tsv.gz`, `wit:folder`: WIT; its pictures are in the folder `images`, or fetched to `cache`
    - `hf:folder`, `hf:org/name`, `hf:org/name/configuration`: a Hugging Face dataset

    Raises InputError for what is not there or has no captioned pictures.
    """
    if not names:
        raise InputError("there must be at least one source of pictures; give a folder or a table")
    found = []
    for name in names:
        place, weight = _weighted(name)
        if not 1e-6 <= weight <= 1e6:
            raise InputError(f"the weight of {place} must be between 1e-6 and 1e6, got {weight:g}")
        found += [(weight, source) for source in _open(place, cache, images)]
    for _, source in found:
        if not len(source.train) and not len(source.held_out):
            missed = f" ({source.left_out()})" if source.missed else ""
            raise InputError(
                f"{source.name} has no picture with a caption; give each a title or a text{missed}"
            )
    return found


def _weighted(name: str) -> tuple[str, float]:
    match = _WEIGHT.match(name)
    # A file may be called like this.
    if match is None or os.path.exists(name):
        return name, 1.0
    return match[1], float(match[2])


def _open(name: str, cache: Path, images: Path | None) -> list[Source]:
    kind, _, place = name.partition(":")
    if kind == "wit":
        return read_wit(Path(place), Web(cache), images)
    if kind == "hf":
        return [read_dataset(place, cache)]
    if kind in ("http", "https"):
        return [
            read_shards(name, [_fetched(address, Web(cache, MAX_SHARD, 86400.0)) for address in expand(name)])
        ]
    if os.path.isdir(name):  # Path.is_dir raises for a name that is too long
        return [read_folder(Path(name))]
    files = [Path(file) for file in expand(name)]
    for file in files:
        if not os.path.isfile(file):
            raise InputError(f"there is nothing at {file}; check the path")
    endings = {file.suffix.lower() for file in files}
    if endings == {".tar"}:
        return [read_shards(name, files)]
    if endings == {".parquet"}:
        return [read_parquet(name, files, cache)]
    if endings <= {".csv", ".tsv"}:
        return [read_table(file) for file in files]
    raise InputError(
        f"{name} must be a folder, or end in .csv, .tsv, .tar or .parquet; for others say wit: or hf:"
    )


def expand(name: str) -> list[str]:
    """The names that braces stand for, as in a shell: `{00..12}`, `{a,b}`. Raises InputError for too many."""
    pieces, total, end = [], 1, 0
    for match in _RANGE.finditer(name):
        pieces.append([name[end : match.start()]])
        pieces.append(list(_alternatives(match, MAX_FILES)))
        total *= len(pieces[-1])
        if total > MAX_FILES:
            raise InputError(f"{name} stands for over {MAX_FILES} files; give fewer at once")
        end = match.end()
    return ["".join(parts) for parts in product(*pieces, [name[end:]])]


def _alternatives(match: re.Match[str], most: int) -> Iterator[str]:
    first, last, several = match.groups()
    if several is not None:
        yield from several.split(",")
        return
    # 00 asks for zeros before; 0 alone does not.
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step)[: most + 1]:
        yield str(number).zfill(width)


def _fetched(address: str, web: Web) -> Path:
    try:
        return web.file(address)
    except Unusable as error:
        raise InputError(f"cannot fetch {address} ({error}); check the address") from error
