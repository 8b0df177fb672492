"""How well a CLIP's embeddings of translations agree with each other and with the pictures they name."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from guidance.clip.data import read_captions
from guidance.clip.encoder import Clip
from guidance.clip.retrieval import ranks
from guidance.errors import InputError

#: The language that the others are compared with.
ENGLISH = "en"


@dataclass(frozen=True)
class Agreement:
    """A language's names, compared with the pictures and with their English names.

    `first`, `ten`: shares of the names whose picture is the nearest of all, or among the nearest ten; of
    pictures that share a name in the language, any is right. `cosine`: mean between a name and the English
    name of its picture; `others`: mean between a name and the English names of all other pictures.
    """

    language: str
    names: int
    first: float
    ten: float
    cosine: float
    others: float


def read_names(data: Path) -> tuple[list[Path], dict[str, list[tuple[int, str]]]]:
    """Picture files, and for each language names with the numbers of their pictures; English comes first.

    `data` is a CSV file with the columns filepath, language and title, or a folder with captions.csv
    (filepath, title: English) and captions_multilingual.csv (filepath, language, title). Raises InputError
    for missing files and columns, fewer than two languages, and pictures with no English name, or with two.
    """
    folder = data if data.is_dir() else data.parent
    if data.is_dir():
        rows = [row | {"language": ENGLISH} for row in read_captions(data / "captions.csv")]
        rows += read_captions(data / "captions_multilingual.csv")
    else:
        rows = read_captions(data)
    pictures: dict[str, int] = {}
    names: dict[str, list[tuple[int, str]]] = {ENGLISH: []}
    for row in rows:
        if not row.get("language"):
            raise InputError(f"{data} must say the language of every title, got none for {row['title']!r}")
        number = pictures.setdefault(os.path.abspath(folder / row["filepath"]), len(pictures))
        names.setdefault(row["language"], []).append((number, row["title"]))
    named = Counter(number for number, _ in names[ENGLISH])
    for path, number in pictures.items():
        if named[number] != 1:
            raise InputError(f"a picture needs one English name (language en); {path} has {named[number]}")
    if len(names) < 2:
        raise InputError(f"{data} has English only; add rows of other languages to compare")
    return [Path(path) for path in pictures], names


def keep(
    names: Mapping[str, Sequence[tuple[int, str]]], files: Sequence[Path], readable: Sequence[str]
) -> dict[str, list[tuple[int, str]]]:
    """The names of readable pictures, with their numbers among these; the English ones in their order."""
    new = {path: i for i, path in enumerate(readable)}
    kept = {
        language: [(new[str(files[old])], title) for old, title in rows if str(files[old]) in new]
        for language, rows in names.items()
    }
    kept[ENGLISH].sort()
    return {language: rows for language, rows in kept.items() if rows}


def compare(
    clip: Clip,
    pictures: Float[Tensor, "m d"],
    english: Float[Tensor, "m d"],
    language: str,
    names: Sequence[tuple[int, str]],
) -> Agreement:
    """The agreement of a language's names with the embeddings of their pictures and of the English names."""
    titles = list(dict.fromkeys(title for _, title in names))
    where = {title: i for i, title in enumerate(titles)}
    row = torch.tensor([where[title] for _, title in names], device=pictures.device)
    picture = torch.tensor([index for index, _ in names], device=pictures.device)
    texts = clip.encode_many(titles)
    places = ranks(texts, pictures, torch.stack([row, picture], 1))[row]
    own = (texts[row] * english[picture]).sum(dim=1)
    others = (texts[row] @ english.sum(dim=0) - own) / max(1, len(english) - 1)
    return Agreement(
        language,
        names=len(names),
        first=(places < 1).float().mean().item(),
        ten=(places < 10).float().mean().item(),
        cosine=own.mean().item(),
        others=others.mean().item(),
    )
