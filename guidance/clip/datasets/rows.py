"""A captioned picture, wherever it lies, and the sources that hold many of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from guidance.clip.sources import Missed, read

#: What `split` says of rows that training must not see.
HELD_OUT = ("val", "valid", "validation", "test")
#: Why a picture without a text is left out.
NO_CAPTION = "no caption"


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that describes a picture, and its language's code; "" where that is unknown."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A picture with its captions, one or more.

    `picture` names it: a path, an address, or a dataset and a number. `content` fetches the bytes of its
    file, from any thread, and raises Unusable where there are none.
    """

    picture: str
    content: Callable[[], bytes]
    captions: tuple[Caption, ...]


class Rows(ABC):
    """Numbered rows, each of which can be had at any time."""

    #: Where neighbours are much cheaper than jumps: the number of rows that are read at once. Else 0.
    block = 0
    #: Whether the pictures come over the network.
    remote = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> Row: ...


class Chosen(Rows):
    """Some of other rows, by their numbers."""

    def __init__(self, rows: Rows, numbers: Sequence[int]) -> None:
        self._rows = rows
        self._numbers = np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Row:
        return self._rows[int(self._numbers[number])]


class Listed(Rows):
    """Rows in memory, about half a kilobyte each beside their captions: names and places, no pictures."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]


@dataclass(frozen=True)
class Source:
    """The rows for training and those held out of it. `missed`: pictures left out, broken shards, and why."""

    name: str
    train: Rows
    held_out: Rows
    missed: Sequence[Missed] = ()

    def left_out(self) -> str:
        """What was missed, in one line: for each reason how many, and the first three by name."""
        paths: dict[str, list[str]] = {}
        for missed in self.missed:
            paths.setdefault(missed.reason, []).append(missed.path)
        told = [
            f"{len(found)} × {reason} ({', '.join(found[:3])}{', …' * (len(found) > 3)})"
            for reason, found in paths.items()
        ]
        return " ".join(f"{self.name}: {len(self.missed)} left out: {'; '.join(told)}".split())


def stored(file: str, offset: int | None, length: int) -> Callable[[], bytes]:
    """What fetches `length` bytes from `offset` of a file, or all of the file if that is None."""
    return partial(_read, file, offset, length)


def _read(file: str, offset: int | None, length: int) -> bytes:
    return read(file, offset, length).data
