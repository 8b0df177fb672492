"""Where pictures are found: folders, files, tables (CSV, TSV) and shards (tar), of which nothing is trusted.

Nothing is unpacked, and nothing is read here but names, tables and captions: what is found says where the
bytes of the picture lie, so that any thread can read them.
"""

import csv
import json
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG

from guidance.clip.pictures import MAX_BYTES, Unusable, suffixes
from guidance.errors import InputError

#: The captions of a folder, a table in it.
CAPTIONS = "captions.csv"
#: Longer captions are not read: a caption is a line or two.
MAX_CAPTION_BYTES = 65536
#: Why a file of another kind is left out.
NO_PICTURE = "not a picture"
#: A file changed so recently may change again and keep its time: the clocks of file systems are coarse.
YOUNG_NS = 2 * 10**9


@dataclass(frozen=True)
class Found:
    """A picture in a source, and where its bytes are: all of `file`, or `length` of them from `offset`.

    `path` is absolute; in a shard it goes on with the name in the shard. `caption` is None where the source
    has no captions. `modified` is the file's time in nanoseconds.
    """

    path: str
    source: str
    file: str
    length: int
    modified: int
    offset: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Missed:
    """Something in a source that is no picture that can be used, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Content:
    """The bytes of a picture, their hash, and the file's time; 0 if that cannot vouch for the bytes later."""

    data: bytes
    digest: bytes
    modified: int


def look(source: Path) -> Iterator[Found | Missed]:
    """The pictures of a folder and the folders in it, of a .csv, .tsv or .tar file, or a picture itself.

    A folder's captions are those of the table captions.csv in it, if it is there.

    A table has the columns `filepath`, relative to it, and, where there are captions, `title` (open_clip's
    names). A shard is WebDataset's: files of one name and different endings, of which .txt or .json holds the
    caption.

    Raises InputError when there is no such source and for a table without these columns.
    """
    name = os.path.abspath(source)
    _check_name(name)
    try:
        stat = os.stat(name)
    except (OSError, ValueError) as error:
        raise InputError(f"there is nothing at {source}; check the path") from error
    if os.path.isdir(name):
        return _folder(name)
    kind = os.path.splitext(name)[1].lower()
    if kind in (".csv", ".tsv"):
        return _table(name, "," if kind == ".csv" else "\t")
    if kind == ".tar":
        return look_shard(name, stat.st_mtime_ns)
    return iter([_file(name, name, {kind})])


def look_shard(source: str, modified: int) -> Iterator[Found | Missed]:
    """The pictures of a tar file, sample by sample; an unreadable rest of it is one thing missed."""
    endings = suffixes()
    try:
        with tarfile.open(source, "r:") as tar:
            sample: list[tarfile.TarInfo] = []
            key = ""
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all are kept
                if not member.isreg() or member.issparse():
                    continue
                folder, name = os.path.split(member.name)
                if key != (key := f"{folder}/{name.partition('.')[0]}"):
                    yield from _sample(tar, sample, source, modified, endings)
                    sample = []
                if len(sample) < 100:
                    sample.append(member)
            yield from _sample(tar, sample, source, modified, endings)
            # Only a first header that is broken is an error of tarfile's; others are the end to it.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("bad header")
    # tarfile raises its own errors, and on broken headers those of what it calls.
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        yield Missed(source, f"broken shard: {' '.join(str(error).split())}")


def covers(source: Path, path: str, origin: str) -> bool:
    """Whether looking through `source` would find what is recorded as `path` of the source `origin`."""
    name = os.path.abspath(source)
    return origin == name or path.startswith(os.path.join(name, ""))


def read(file: str, offset: int | None, length: int) -> Content:
    """The bytes of a picture; raises Unusable if they cannot be read, are too many or change meanwhile."""
    try:
        if not S_ISREG(os.stat(file).st_mode):  # a pipe would never end
            raise Unusable("not a file")
        with open(file, "rb") as stream:
            before = os.fstat(stream.fileno())
            length = before.st_size if offset is None else length
            if length > MAX_BYTES:
                raise Unusable(f"over {MAX_BYTES // 2**20} MiB")
            stream.seek(offset or 0)
            data = stream.read(length)
            after = os.fstat(stream.fileno())
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise Unusable(getattr(error, "strerror", None) or "cannot be read") from error
    if len(data) != length or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Unusable("changed while it was read")
    old = time.time_ns() - before.st_mtime_ns > YOUNG_NS
    return Content(data, blake2b(data, digest_size=16).digest(), before.st_mtime_ns if old else 0)


def decode_caption(data: bytes, kind: str) -> str:
    """The caption in a .txt or .json file's content; "" if there is none."""
    text = data.decode(errors="replace")
    if kind == ".json":
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        known = [facts.get(name) for name in ("caption", "text", "title")] if isinstance(facts, dict) else []
        text = next((value for value in known if isinstance(value, str)), "")
    return text.encode(errors="replace").decode().strip()


def _folder(source: str) -> Iterator[Found | Missed]:
    closed: list[OSError] = []
    endings = suffixes()
    table = os.path.join(source, CAPTIONS)
    captions: dict[str, str | None] = {}
    if os.path.isfile(table):
        try:
            captions = {item.path: item.caption for item in _table(table, ",") if isinstance(item, Found)}
        except InputError as error:
            yield Missed(table, f"no captions: {error}")
    for folder, folders, files in os.walk(source, onerror=closed.append):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if path != table:
                yield _file(path, source, endings, captions.get(path))
    yield from (Missed(printable(str(error.filename)), error.strerror or "closed") for error in closed)


def _file(path: str, source: str, endings: set[str], caption: str | None = None) -> Found | Missed:
    if printable(path) != path:
        return Missed(printable(path), "name is not Unicode")
    if os.path.splitext(path)[1].lower() not in endings:
        return Missed(path, NO_PICTURE)
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        return Missed(path, getattr(error, "strerror", None) or "no such file")
    if not S_ISREG(stat.st_mode):  # a pipe would never end
        return Missed(path, "not a file")
    return Found(path, source, path, stat.st_size, stat.st_mtime_ns, caption=caption)


def _table(source: str, delimiter: str) -> Iterator[Found | Missed]:
    endings = suffixes()
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            if "filepath" not in (rows.fieldnames or []):
                raise InputError(f"{source} must have the column filepath, and title for captions")
            for row in rows:
                if row["filepath"]:
                    path = os.path.abspath(os.path.join(os.path.dirname(source), row["filepath"]))
                    yield _file(path, source, endings, (row.get("title") or "").strip())
                else:
                    yield Missed(f"{source}, line {rows.line_num}", "no filepath")
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"cannot read {source} ({error}); give a table in UTF-8") from error


def _sample(
    tar: tarfile.TarFile, members: list[tarfile.TarInfo], source: str, modified: int, endings: set[str]
) -> Iterator[Found | Missed]:
    kinds = {os.path.splitext(member.name)[1].lower(): member for member in members}
    caption = ""
    for kind in (".json", ".txt"):
        if (
            kind in kinds
            and kinds[kind].size <= MAX_CAPTION_BYTES
            and (stream := tar.extractfile(kinds[kind]))
        ):
            caption = decode_caption(stream.read(), kind) or caption
    for member in members:
        kind = os.path.splitext(member.name)[1].lower()
        path = f"{source}/{member.name}"
        if printable(path) != path:
            yield Missed(printable(path), "name is not Unicode")
        elif kind in endings:
            place = member.offset_data
            yield Found(path, source, source, member.size, modified, place, caption)
        elif kind not in (".txt", ".json"):
            yield Missed(path, NO_PICTURE)


def _check_name(name: str) -> None:
    if printable(name) != name:
        raise InputError(f"the name {printable(name)} is not Unicode; rename it")


def printable(name: str) -> str:
    """A name as it is, or with its bytes that are not Unicode written out."""
    return name.encode("utf-8", "backslashreplace").decode()
