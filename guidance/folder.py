"""The folder of a run: new, found again, locked, and what run.json in it says."""

import hashlib
import itertools
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from reprlib import repr as short

from guidance.errors import InputError


def recorded(folder: Path) -> dict:
    """What run.json in a run's folder says; raises InputError when there is none or it is broken."""
    path = folder / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no run in {folder}: cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"no run in {folder}: {path} is broken ({error}); start a new run") from error
    kinds = {"recipe": str, "settings": dict, "versions": dict, "status": str}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kinds[name]) for name in kinds):
        raise InputError(f"no run in {folder}: {path} was not written by a run; start a new one")
    return facts


def plain(value: object) -> object:
    """The value as JSON gives it back, and paths, which it has not, as strings."""
    return json.loads(json.dumps(value, default=str))


def inputs(arguments: Mapping[str, object]) -> dict[str, str]:
    """The files and folders that arguments name, also in prompts (@cat.png), with the files' SHA-256, cut."""
    named = [
        str(value) for name, value in arguments.items() if isinstance(value, Path) or name == "templates"
    ]
    for value in arguments.values():
        if isinstance(value, str):
            named += [name.strip() for name in re.findall(r"@((?:(?!=>)[^][|:])+)", value)]
    found = {}
    for name in named:
        if os.path.isfile(name) and os.access(name, os.R_OK):
            with open(name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        elif os.path.exists(name):
            found[name] = ""
    return found


def check_same(folder: Path, facts: dict, settings: dict[str, object]) -> None:
    """Raises InputError unless a run is one to go on with, with these settings."""
    if facts["status"] == "finished":
        raise InputError(f"the run in {folder} is finished; to go further, start a new run with more steps")
    for name, value in facts["settings"].items():
        if name != "output" and settings.get(name) != value:
            got = short(settings.get(name))
            raise InputError(f"the run in {folder} has {name} {short(value)}, got {got}; leave it out")


def check_writable(folder: Path) -> None:
    """Look before anything is computed; the nearest folder that exists decides."""
    # os.path and not Path, whose methods raise for names that are too long and folders closed to us.
    there = next(parent for parent in [folder, *folder.absolute().parents] if os.path.exists(parent))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {folder}: {there} is not a writable folder; choose another output")


def check_file(path: Path) -> None:
    """Look before anything is computed whether a file can be written there, its folders made if need be."""
    if not path.name or os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    # File systems allow 255 bytes, of which a temporary name takes some.
    if any(len(os.fsencode(part)) > 230 for part in path.parts) or len(os.fsencode(path)) > 4000:
        raise InputError(f"cannot write {path.name[:40]}…: the name is too long; choose a shorter one")
    check_writable(path.parent)


def new_folder(wanted: Path) -> Path:
    """Make the folder, or the first of `wanted-2`, `wanted-3`, ... that nobody else has made."""
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for count in itertools.count(1):
            folder = wanted if count == 1 else wanted.with_name(f"{wanted.name}-{count}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise InputError(f"cannot make {wanted} ({error.strerror}); choose another output") from error
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the lock is SQLite's, which the system frees after a kill.

    Raises InputError when another process has it, and when the lock is none.
    """
    path = folder / "checkpoint" / "lock"
    try:
        lock = sqlite3.connect(path, timeout=0, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise InputError(f"cannot lock the run in {folder} ({error}); delete {path}") from error
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise InputError(f"another process works on the run in {folder}; wait for its end") from error
            # Some network file systems have no locks.
        except sqlite3.DatabaseError as error:
            raise InputError(f"cannot lock the run in {folder} ({error}); delete {path}") from error
        yield
