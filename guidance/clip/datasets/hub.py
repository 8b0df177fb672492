"""Parquet files and Hugging Face's datasets, read by their library, which maps them into memory.

It keeps them as Arrow files on disk, so that any row can be had at any time: a stream could not be resumed
exactly. Versions from 4 on run no code of a dataset's. Pictures are taken as bytes and decoded here.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidance.clip.datasets.rows import HELD_OUT, NO_CAPTION, Caption, Chosen, Row, Rows, Source
from guidance.clip.pictures import Unusable
from guidance.clip.sources import Missed, read
from guidance.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

#: The columns that hold captions, the first that is there: a text or a list of texts.
CAPTIONS = ("caption", "captions", "title", "text", "texts", "sentence", "sentences")
#: Rows whose captions are read at once.
PART = 1000


class DatasetRows(Rows):
    """The rows of one split. Raises InputError where the columns of pictures and captions are not clear."""

    def __init__(self, name: str, dataset: "Dataset") -> None:
        from datasets import Image, Value

        pictures = [column for column, kind in dataset.features.items() if isinstance(kind, Image)]
        # A struct of bytes and a path is how pictures are written without saying so; plain bytes, too.
        pictures += [
            column for column in ("image", "jpg", "png", "webp", "img") if column in dataset.features
        ]
        texts = [column for column in CAPTIONS if column in dataset.features]
        if not pictures or not texts:
            columns = ", ".join(dataset.features)
            raise InputError(
                f"{name} must have columns of pictures (image) and of captions (caption), got {columns}"
            )
        self._name, self._texts = name, texts[0]
        self._picture = pictures[0]
        if isinstance(dataset.features[self._picture], Image):
            dataset = dataset.cast_column(self._picture, Image(decode=False))
        plain = dataset.features.get("language") == Value("string")
        self._captions = dataset.select_columns([self._texts, *(["language"] if plain else [])])
        self._pictures = dataset.select_columns([self._picture])
        splits = ["split"] if dataset.features.get("split") == Value("string") else []
        self._sorting = dataset.select_columns([self._texts, *splits])

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, number: int) -> Row:
        row = self._captions[number]
        language = row.get("language") or ""
        captions = tuple(Caption(text, language) for text in _texts(row[self._texts]))
        return Row(self._called(number), partial(self._content, number), captions)

    def sorted_out(self) -> tuple[Rows, Rows, list[Missed]]:
        """The rows that a column `split` does not hold out, those that it does, those without captions."""
        train: list[int] = []
        held: list[int] = []
        missed = []
        number = 0
        for rows in self._sorting.iter(PART):
            values = rows[self._texts]
            for value, split in zip(values, rows.get("split") or [""] * len(values), strict=True):
                if not _texts(value):
                    missed.append(Missed(self._called(number), NO_CAPTION))
                else:
                    (held if str(split).strip().lower() in HELD_OUT else train).append(number)
                number += 1
        return Chosen(self, train), Chosen(self, held), missed

    def _called(self, number: int) -> str:
        return f"{self._name}[{number}]"

    def _content(self, number: int) -> bytes:
        value: Any = self._pictures[number][self._picture]
        if isinstance(value, dict):
            if value.get("bytes") is None and isinstance(value.get("path"), str):
                return read(value["path"], None, 0).data
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise Unusable("no picture in the row")
        return value


def read_parquet(name: str, files: list[Path], cache: Path) -> Source:
    """The rows of parquet files; those whose column `split` says val or test are held out.

    Raises InputError, also where the extra `train` is not installed.
    """
    datasets = _library()
    try:
        files_in_order = [str(file) for file in files]
        found = datasets.load_dataset(
            "parquet", data_files=files_in_order, split="train", cache_dir=str(cache)
        )
    except Exception as error:  # the library's own errors, Arrow's and many of Python's
        raise InputError(f"cannot read {name} ({_line(error)}); give whole parquet files") from error
    return Source(name, *DatasetRows(name, found).sorted_out())


def read_dataset(name: str, cache: Path) -> Source:
    """A dataset in a folder, or else on the Hub: `org/name` or `org/name/configuration`.

    Its split `train`, or its only one, is for training; the first of validation, val and test is held out,
    and so are rows whose column `split` says that, which are measured with where there is no such split.
    Raises InputError, also where the extra `train` is not installed.
    """
    datasets = _library()
    try:
        if os.path.isdir(name):
            saved = any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
            found = (
                datasets.load_from_disk(name) if saved else datasets.load_dataset(name, cache_dir=str(cache))
            )
        else:
            owner, _, rest = name.partition("/")
            rest, _, configuration = rest.partition("/")
            place = f"{owner}/{rest}" if rest else owner
            found = datasets.load_dataset(place, configuration or None, cache_dir=str(cache))
    except Exception as error:  # the library's own errors, Arrow's, the network's and many of Python's
        raise InputError(f"cannot read the dataset {name} ({_line(error)}); check the name") from error
    splits = found if isinstance(found, dict) else {"train": found}
    if "train" not in splits and len(splits) > 1:
        raise InputError(f"{name} has no split train, got {', '.join(splits)}")
    train = "train" if "train" in splits else next(iter(splits))
    held = [split for split in HELD_OUT if split in splits and split != train]
    rows, held_out, missed = DatasetRows(name, splits[train]).sorted_out()
    if held:
        held_out = DatasetRows(f"{name}, {held[0]}", splits[held[0]])
    return Source(name, rows, held_out, missed)


def _texts(value: object) -> list[str]:
    """The captions in a cell: a text, or a list of texts."""
    texts = value if isinstance(value, list) else [value]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "parquet files and datasets need an extra: pip install 'clip-guidance[train]'"
        ) from error
    return datasets


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
