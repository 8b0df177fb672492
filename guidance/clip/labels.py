"""Labels as a user gives them: in a line, in a file, as the folders or the captions of pictures to embed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip.embed import embed_each
from guidance.clip.encoder import Clip
from guidance.clip.pictures import Unusable
from guidance.clip.sources import Found, Missed, look, read
from guidance.clip.zero_shot import check
from guidance.errors import InputError


def read_labels(text: str) -> list[str]:
    """The labels in "cat,dog", or in "@labels.txt", a UTF-8 file with one label a line (commas belong to it).

    Raises InputError for a file that cannot be read, and for labels that are empty, twice there or too few.
    """
    if text.startswith("@"):
        try:
            labels = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the labels in {text[1:]!r} ({error}); check the name") from error
    else:
        labels = text.split(",")
    labels = [label.strip() for label in labels]
    try:
        check(labels)
    except InputError as error:
        raise InputError(f"{error}, in --labels {text!r}; a file of labels is written @labels.txt") from error
    return labels


def look_labelled(folder: Path) -> Iterator[Found | Missed]:
    """The pictures in a folder, with their labels as captions: those of captions.csv (filepath, title), if it
    is there, or else the name of the folder that each is in.

    Raises InputError for a folder that has neither, and for a broken captions.csv.
    """
    if (folder / "captions.csv").is_file():
        yield from look(folder / "captions.csv")
        return
    if not folder.is_dir():
        raise InputError(f"to evaluate, a folder of labelled pictures is needed, got {folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder} has no folders named like labels, and no captions.csv")
    for path in classes:
        for item in look(path):
            yield replace(item, caption=path.name) if isinstance(item, Found) else item


@dataclass(frozen=True)
class Embedded:
    """Pictures with their embeddings, on the CPU, and what could not be read."""

    pictures: list[Found]
    embeddings: Float[Tensor, "n d"]
    missed: list[Missed]


def embed_found(clip: Clip, items: Iterable[Found | Missed], batch: int = 64) -> Embedded:
    """Embeddings of what `look` found, leaving out what cannot be read; InputError when nothing can."""
    missed: list[Missed] = []

    def pictures() -> Iterator[Found]:
        for item in items:
            if isinstance(item, Found):
                yield item
            else:
                missed.append(item)

    found: list[Found] = []
    rows: list[Tensor] = []
    for item, row in embed_each(clip, pictures(), _content, batch):
        if isinstance(row, Unusable):
            missed.append(Missed(item.path, str(row)))
        else:
            found.append(item)
            rows.append(row)
    if not found:
        first = f", among them {missed[0].path} ({missed[0].reason})" if missed else ""
        raise InputError(f"there is no picture to read; {len(missed)} files were skipped{first}")
    return Embedded(found, torch.stack(rows), missed)


def _content(item: Found) -> bytes:
    return read(item.file, item.offset, item.length).data
