"""Sources on this machine: tables (CSV, TSV), folders of pictures and texts, shards (tar).

Shards are read by `guidance.clip.sources`, not by the library webdataset: a training that is resumed exactly
needs row i at any time, where webdataset has a stream with a shuffling buffer; it reads members of any size,
and addresses through curl.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from guidance.clip.datasets.rows import HELD_OUT, NO_CAPTION, Caption, Listed, Row, Source, stored
from guidance.clip.sources import (
    CAPTIONS,
    MAX_CAPTION_BYTES,
    NO_PICTURE,
    Found,
    Missed,
    decode_caption,
    look,
    look_shard,
    printable,
)
from guidance.errors import InputError

#: Beside the captions.csv of a folder: captions of the same pictures in other languages.
TRANSLATIONS = "captions_multilingual.csv"
ENGLISH = "en"


def read_table(table: Path) -> Source:
    """The rows of a table, .csv or .tsv, with open_clip's columns `filepath`, relative to it, and `title`.

    Optional columns: `language`, a code; `split`, where val and test are held out. Rows with one filepath are
    the captions of one picture, which is held out if any of them is; the same caption again is nothing new. A
    picture without a title is missed. Raises InputError for a file that is no such table.
    """
    return _source(table, [(table, "")])


def read_folder(folder: Path) -> Source:
    """The pictures of a folder and the folders in it, with their captions.

    They are those of the table captions.csv if the folder has it, in English unless it says otherwise if
    captions_multilingual.csv (`filepath`, `language`, `title`) lies beside it. Else a picture's caption is in
    the file of the same name that ends in .txt or .json (`caption`, `text` or `title`).
    """
    table, translations = folder / CAPTIONS, folder / TRANSLATIONS
    if not table.is_file():
        return _found(str(folder), (_with_text(found) for found in look(folder)))
    if not translations.is_file():
        return read_table(table)
    return _source(folder, [(table, ENGLISH), (translations, "")])


def read_shards(name: str, shards: Iterable[Path]) -> Source:
    """The rows of WebDataset's shards, .tar: files of one name; .txt or .json holds the caption."""
    looked = (look_shard(os.path.abspath(shard), 0) for shard in shards)
    return _found(name, (found for shard in looked for found in shard))


def _found(name: str, items: Iterable[Found | Missed]) -> Source:
    rows, missed = [], []
    for item in items:
        if isinstance(item, Missed):
            if item.reason != NO_PICTURE:
                missed.append(item)
        elif item.caption:
            content = stored(item.file, item.offset, item.length)
            rows.append(Row(item.path, content, (Caption(item.caption),)))
        else:
            missed.append(Missed(item.path, NO_CAPTION))
    return Source(name, Listed(rows), Listed([]), missed)


def _with_text(found: Found | Missed) -> Found | Missed:
    if isinstance(found, Missed):
        return found
    stem = os.path.splitext(found.path)[0]
    for kind in (".txt", ".json"):
        # A pipe of this name would never end.
        if os.path.isfile(stem + kind) and os.path.getsize(stem + kind) <= MAX_CAPTION_BYTES:
            with open(stem + kind, "rb") as file:
                if text := decode_caption(file.read(MAX_CAPTION_BYTES), kind):
                    return replace(found, caption=text)
    return found


def _source(name: Path, tables: list[tuple[Path, str]]) -> Source:
    captions: dict[str, list[Caption]] = {}
    held: set[str] = set()
    for number, (table, language) in enumerate(tables):
        folder = os.path.dirname(os.path.abspath(table))
        for path, row in _rows(table):
            picture = os.path.normpath(os.path.join(folder, path))
            if number and picture not in captions:
                raise InputError(f"{table} names {path}, which {tables[0][0].name} does not; add it there")
            title = (row.get("title") or "").strip()
            if (row.get("split") or "").strip().lower() in HELD_OUT:
                held.add(picture)
            texts = captions.setdefault(picture, [])
            caption = Caption(title, (row.get("language") or language).strip())
            if title and caption not in texts:
                texts.append(caption)
    missed = [Missed(path, NO_CAPTION) for path, texts in captions.items() if not texts]
    rows = {path: Row(path, stored(path, None, 0), tuple(texts)) for path, texts in captions.items() if texts}
    train = [row for path, row in rows.items() if path not in held]
    return Source(str(name), Listed(train), Listed([rows[path] for path in rows if path in held]), missed)


def _rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            if not {"filepath", "title"} <= set(rows.fieldnames or []):
                raise InputError(f"{table} must have the columns filepath and title")
            for row in rows:
                if not row["filepath"] or "\0" in row["filepath"]:
                    raise InputError(
                        f"line {rows.line_num} of {table} lacks a filepath; complete or delete it"
                    )
                yield row["filepath"], row
    except (OSError, UnicodeError, csv.Error) as error:
        reason = printable(str(error))
        raise InputError(f"cannot read {table} ({reason}); give a table in UTF-8") from error
