"""The index: rows about pictures in SQLite, their embeddings in a file beside it that is searched in place.

    index.sqlite        path, caption, size, …, and the row's slot; the model's name and fingerprint
    vectors-1.f32       the embedding of slot 1, 2, …: float32, unit length, row after row
    graph-1-2.usearch   for approximate search of large indexes: of vectors-1.f32, slots 1 to 2
    lock.sqlite         empty; locked while a process is indexing
    parts/0-of-2/ …     what the processes of torchrun have added, until it is merged

Why SQLite and a file, and no vector database? The exact best 20 of a million embeddings of 512 numbers
took, measured on two busy cores, LanceDB 0.40 1.2 to 2.5 s, DuckDB 2.0 0.4 to 1.0 s, and NumPy, on a
mapped file, 0.1 to 0.2 s: as long as 2 GB take to be read from memory (or, the first time, from the disk).
LanceDB and Arrow are wheels of 130 MB, 350 MB installed, and take a second and 136 MB of memory to import;
sqlite-vec needs a Python whose sqlite3 loads extensions, and not all do. SQLite comes with Python, its
transactions survive kills, full disks and power cuts, and processes may read while one writes. What is left
to do here is an order of writing: embeddings are on the disk before the transaction that makes them count,
and no slot is used twice.

Approximate search is usearch's: `pip install 'clip-guidance[search]'`, 57 MB installed. Without it, and up
to a million rows, search is exact.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from guidance.clip import graph
from guidance.errors import InputError

#: More rows are searched approximately, where usearch is installed.
EXACT_ROWS = 1_000_000
#: Seconds to wait while another process writes.
PATIENCE = 60

Vectors = Float32[np.ndarray, "n d"]


@dataclass(frozen=True)
class Row:
    """What is known of an indexed picture.

    `width` and `height` in pixels; `length` in bytes; `modified`, the file's time in nanoseconds, or 0 when
    only `digest`, the hash of its bytes, can tell whether it has changed. A picture in a shard lies at
    `offset` in the file `source`.
    """

    path: str
    source: str
    caption: str
    width: int
    height: int
    length: int
    offset: int | None
    modified: int
    digest: bytes

    @property
    def file(self) -> str:
        """The file that holds the picture."""
        return self.path if self.offset is None else self.source


_COLUMNS = ", ".join(field.name for field in fields(Row))
_VALUES = ", ".join("?" for _ in fields(Row))
_SCHEMA = """
CREATE TABLE facts (
    model TEXT, fingerprint TEXT, dimensions INTEGER, generation INTEGER, graphed INTEGER, recall REAL
);
CREATE TABLE pictures (
    slot INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT NULL, source TEXT NOT NULL,
    caption TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, length INTEGER NOT NULL,
    offset INTEGER, modified INTEGER NOT NULL, digest BLOB NOT NULL
);
"""


class Index:
    """Pictures and their embeddings by one model, in a folder; open until `close`.

    `model`, its name as `guidance.load` takes it; `fingerprint`, of its weights and preprocessing;
    `dimensions`, numbers an embedding.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open what is there; raises InputError when there is no index or it is broken."""
        self.folder = Path(folder)
        file = self.folder / "index.sqlite"
        if not os.path.isfile(file):
            raise InputError(
                f"there is no index in {folder}; make one: guidance embed PICTURES --index {folder}"
            )
        self._db = sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)
        with self._reading():
            facts = self._db.execute("SELECT model, fingerprint, dimensions FROM facts").fetchone()
            if facts is None:
                raise sqlite3.DatabaseError("it names no model")
            self.model: str = facts[0]
            self.fingerprint: str = facts[1]
            self.dimensions: int = facts[2]

    @staticmethod
    def create(folder: Path, model: str, fingerprint: str, dimensions: int) -> "Index":
        """Open the index of a folder, which is made if there is none.

        Raises InputError when the folder cannot be written and when the index there is another model's.
        """
        file = folder / "index.sqlite"
        if not os.path.isfile(file):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Two processes may do this at once; the index of the first stays.
                new = folder / f".index.{os.getpid()}.tmp"
                with closing(sqlite3.connect(new, isolation_level=None)) as db:
                    db.executescript(_SCHEMA)
                    db.execute(
                        "INSERT INTO facts VALUES (?, ?, ?, 1, 0, NULL)", (model, fingerprint, dimensions)
                    )
                (folder / "vectors-1.f32").touch()
                if not file.exists():
                    os.replace(new, file)
                new.unlink(missing_ok=True)
            except (OSError, sqlite3.Error) as error:
                raise InputError(
                    f"cannot write to {folder} ({_line(error)}); choose another index"
                ) from error
        index = Index(folder)
        index.check(model, fingerprint)
        return index

    def check(self, model: str, fingerprint: str) -> None:
        """Raises InputError unless the index was made by the model of that fingerprint."""
        if fingerprint != self.fingerprint:
            raise InputError(
                f"the index {self.folder} was made by {self.model} ({self.fingerprint[:8]}), got {model} "
                f"({fingerprint[:8]}), whose embeddings mean something else; use that model or another index"
            )

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts no other process may index too, whose slots would change; all may search.

        It ends with the process, however that ends. Raises InputError when another one is at work.
        """
        try:
            with closing(
                sqlite3.connect(self.folder / "lock.sqlite", timeout=0, isolation_level=None)
            ) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise InputError(
                    f"another process is indexing into {self.folder}; wait for its end"
                ) from error
            raise InputError(f"cannot write to the index {self.folder} ({error})") from error

    def __len__(self) -> int:
        with self._reading():
            return self._db.execute("SELECT count(*) FROM pictures").fetchone()[0]

    def last_slot(self) -> int:
        """The last slot ever used; slots are numbered from 1 in the order in which they are written."""
        with self._reading():
            return self._state()[1]

    def row(self, path: str) -> tuple[int, Row] | None:
        """The slot and the row of a picture, if it is there."""
        with self._reading():
            found = self._db.execute(
                f"SELECT slot, {_COLUMNS} FROM pictures WHERE path = ?", (path,)
            ).fetchone()
        return None if found is None else (found[0], Row(*found[1:]))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """All slots and rows, in the order in which they were written."""
        with self._reading():
            for found in self._db.execute(f"SELECT slot, {_COLUMNS} FROM pictures ORDER BY slot"):
                yield found[0], Row(*found[1:])

    def rows_at(self, slots: Sequence[int]) -> dict[int, Row]:
        """The rows in some slots, by slot; a slot whose row is gone is left out."""
        rows: dict[int, Row] = {}
        with self._reading():
            for start in range(0, len(slots), 500):
                some = slots[start : start + 500]
                marks = ", ".join("?" for _ in some)
                found = self._db.execute(
                    f"SELECT slot, {_COLUMNS} FROM pictures WHERE slot IN ({marks})", some
                )
                rows |= {slot: Row(*columns) for slot, *columns in found}
        return rows

    def add(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Write rows and their embeddings, all or none of them; they replace rows of the same paths.

        Raises InputError when the disk is full; the index is then what it was before.
        """
        with self._writing():
            generation, last = self._state()
            with self._file(generation).open("r+b") as file:
                file.seek(last * self.dimensions * 4)
                file.write(np.ascontiguousarray(vectors, np.float32).data)
                file.flush()
                os.fsync(file.fileno())
            self._db.executemany(
                f"REPLACE INTO pictures (slot, {_COLUMNS}) VALUES (?, {_VALUES})",
                ((last + 1 + i, *astuple(row)) for i, row in enumerate(rows)),
            )

    def amend(self, entries: Sequence[tuple[int, Row]]) -> None:
        """Write what is now known of the pictures in some slots, whose embeddings stay."""
        with self._writing():
            self._db.executemany(
                f"UPDATE pictures SET ({_COLUMNS}) = ({_VALUES}) WHERE slot = ?",
                ((*astuple(row), slot) for slot, row in entries),
            )

    def remove(self, slots: Sequence[int]) -> None:
        """Take pictures out, all or none of them."""
        with self._writing():
            self._db.executemany("DELETE FROM pictures WHERE slot = ?", ((slot,) for slot in slots))

    def vectors(self) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "m d"]]:
        """The slots of all rows, ascending, and the embeddings of all slots ever used, from slot 1."""
        with self._reading():
            slots = np.fromiter(
                (s for (s,) in self._db.execute("SELECT slot FROM pictures ORDER BY slot")), np.int64
            )
            return slots, self._map()

    def nearest(self, query: Float32[np.ndarray, " d"], top: int) -> list[tuple[Row, float]]:
        """The rows with the largest products of their embeddings with a query, the largest first."""
        with self._reading():
            vectors = self._map()
            slots = self._candidates(query, 20 * top, len(vectors))
            scores = vectors @ query if slots is None else vectors[slots - 1] @ query
            # Slots of rows that are gone still hold embeddings: look further until enough are found.
            found: list[tuple[Row, float]] = []
            count = 0
            while len(found) < top and count < len(scores):
                count = min(2 * max(count, top), len(scores))
                best = np.argpartition(-scores, count - 1)[:count]
                best = best[np.lexsort((best, -scores[best]))]
                at = best + 1 if slots is None else slots[best]
                rows = self.rows_at(at.tolist())
                scored = zip(at.tolist(), scores[best].tolist(), strict=True)
                found = [(rows[slot], score) for slot, score in scored if slot in rows]
        return found[:top]

    def merge(self, other: "Index") -> int:
        """Take over the rows of another index of the same model; returns how many."""
        self.check(other.model, other.fingerprint)
        slots, vectors = other.vectors()
        for start in range(0, len(slots), 10_000):
            rows = other.rows_at(slots[start : start + 10_000].tolist())
            self.add(list(rows.values()), vectors[np.array(list(rows)) - 1])
        return len(slots)

    def tidy(self) -> None:
        """Write the embeddings anew without those of rows that are gone, if these are the larger part.

        Then, for more rows than are searched exactly, make the graph and measure its recall.
        """
        with self._writing():
            generation, last = self._state()
            slots = [slot for (slot,) in self._db.execute("SELECT slot FROM pictures ORDER BY slot")]
            if 2 * len(slots) < last:
                self._compact(slots, generation)
        with self._writing():
            self._remove_old()
        self._make_graph()

    @property
    def recall(self) -> float | None:
        """The share of the true best 20 that approximate search finds, or None where search is exact."""
        with self._reading():
            (recall,) = self._db.execute("SELECT recall FROM facts").fetchone()
        return recall if graph.installed() else None

    def _compact(self, slots: list[int], generation: int) -> None:
        vectors = self._map()
        with self._file(generation + 1).open("wb") as file:
            for start in range(0, len(slots), 4096):
                file.write(vectors[np.array(slots[start : start + 4096]) - 1].data)
            file.flush()
            os.fsync(file.fileno())
        # In ascending order a new number is never one that is still in use.
        self._db.executemany("UPDATE pictures SET slot = ? WHERE slot = ?", enumerate(slots, 1))
        self._db.execute("UPDATE sqlite_sequence SET seq = ?", (len(slots),))
        self._db.execute("UPDATE facts SET generation = ?, graphed = 0, recall = NULL", (generation + 1,))

    def _make_graph(self) -> None:
        with self._reading():
            generation, last = self._state()
            (graphed,) = self._db.execute("SELECT graphed FROM facts").fetchone()
            slots, vectors = self.vectors()
        # A few rows that the graph lacks are searched exactly.
        new = last - graphed >= last // 10 or not self._graph(generation, graphed).exists()
        if len(slots) <= EXACT_ROWS or not new or not graph.installed():
            return
        recall = graph.build(self._graph(generation, last), slots, vectors)
        with self._writing():
            if self._state()[0] == generation:
                self._db.execute("UPDATE facts SET graphed = ?, recall = ?", (last, recall))
        with self._writing():
            self._remove_old()

    def _remove_old(self) -> None:
        """Delete the files of earlier states."""
        generation, _ = self._state()
        (graphed,) = self._db.execute("SELECT graphed FROM facts").fetchone()
        current = (self._file(generation), self._graph(generation, graphed))
        for file in (*self.folder.glob("vectors-*.f32"), *self.folder.glob("graph-*.usearch")):
            if file not in current:
                file.unlink()

    def _candidates(self, query: Float32[np.ndarray, " d"], count: int, last: int) -> np.ndarray | None:
        """The slots worth a look, or None for all."""
        (graphed,) = self._db.execute("SELECT graphed FROM facts").fetchone()
        if not graphed or not graph.installed():
            return None
        near = graph.nearest(self._graph(self._state()[0], graphed), query, count)
        return np.concatenate([near, np.arange(graphed, last) + 1])

    def _state(self) -> tuple[int, int]:
        """The number of the file of embeddings, and the last slot ever used in it."""
        (generation,) = self._db.execute("SELECT generation FROM facts").fetchone()
        last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'pictures'").fetchone()
        return generation, last[0] if last else 0

    def _file(self, generation: int) -> Path:
        return self.folder / f"vectors-{generation}.f32"

    def _graph(self, generation: int, graphed: int) -> Path:
        return self.folder / f"graph-{generation}-{graphed}.usearch"

    def _map(self) -> Vectors:
        generation, last = self._state()
        if last == 0:
            return np.empty((0, self.dimensions), np.float32)
        return np.asarray(np.memmap(self._file(generation), np.float32, "r", shape=(last, self.dimensions)))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the index, whatever other processes write meanwhile; errors become InputError."""
        try:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")
        except InputError:
            raise
        except (sqlite3.DatabaseError, ValueError, OSError) as error:
            # Locked for a minute, or not to be opened or read: not what SQLite says of what it has read.
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise InputError(f"cannot read the index {self.folder} ({error}); try again") from error
            hint = "delete it and embed the pictures again"
            raise InputError(f"the index {self.folder} is broken ({_line(error)}); {hint}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All of what is done here, or nothing; errors of the disk become InputError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except (OSError, sqlite3.Error) as error:
            hint = "it is as it was before; make room and run the same command again"
            raise InputError(f"cannot write to the index {self.folder} ({_line(error)}); {hint}") from error


def _line(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) else None
    return " ".join((told or str(error)).split())
