"""Captioned pictures in memory, and random views of them on random pages."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from guidance.errors import InputError
from guidance.media import read_rgba


@dataclass(frozen=True)
class CaptionedPictures:
    """Small pictures, held in memory, each with captions; the first caption is its English name.

    `rgba` is premultiplied by its opacity. `held_out` marks the pictures that training must not see.
    """

    rgba: Float[Tensor, "n 4 s s"]
    captions: list[list[str]]
    held_out: Bool[Tensor, " n"]


def read_captioned(folder: Path, size: int) -> CaptionedPictures:
    """The pictures that `captions.csv` in a folder names, made `size` pixels a side.

    Columns: `filepath`, `title` and, where given, `split` (`val` is held out). Further captions of the same
    pictures come from `captions_multilingual.csv` (`filepath`, `title`), if there is one. Raises InputError
    when a file or column is missing or a picture is broken.
    """
    if not os.path.exists(folder / "captions.csv"):  # Path's own raises for a name that is too long
        raise InputError(f"there is no captions.csv in {folder}; give a folder with captions.csv")
    rows = read_captions(folder / "captions.csv")
    captions = {row["filepath"]: [row["title"]] for row in rows}
    if (translations := folder / "captions_multilingual.csv").exists():
        for row in read_captions(translations):
            if row["filepath"] not in captions:
                raise InputError(
                    f"{translations} names {row['filepath']}, which captions.csv does not; add it there"
                )
            captions[row["filepath"]].append(row["title"])
    pictures = [
        functional.interpolate(read_rgba(folder / row["filepath"]), size=(size, size), mode="area")
        for row in rows
    ]
    held_out = torch.tensor([row.get("split") == "val" for row in rows])
    return CaptionedPictures(torch.cat(pictures), [captions[row["filepath"]] for row in rows], held_out)


def read_captions(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of captions, which has the columns `filepath` and `title`; others are kept.

    Raises InputError for a file that cannot be read, lacks a column, or has an empty cell in one.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"cannot read the captions in {file} ({error.strerror}); check the name") from error
    except (ValueError, csv.Error) as error:  # not UTF-8; a name with a zero byte
        raise InputError(f"cannot read the captions in {file} ({error}); save it as CSV in UTF-8") from error
    if not rows or not {"filepath", "title"} <= rows[0].keys():
        raise InputError(f"{file} must have rows with the columns filepath and title")
    for number, row in enumerate(rows, 2):
        if not row["filepath"] or not row["title"]:
            raise InputError(f"line {number} of {file} lacks a filepath or a title; complete or delete it")
    return rows


@dataclass(frozen=True)
class Placement:
    """How pictures lie on their pages: larger by `zoom`, turned by `angle` (radians), shifted by shares of
    the page, which has one colour.
    """

    zoom: Float[Tensor, " n"]
    angle: Float[Tensor, " n"]
    shift: Float[Tensor, "n 2"]
    page: Float[Tensor, "n 3"]

    @staticmethod
    def draw(
        n: int,
        generator: torch.Generator,
        *,
        zoom: tuple[float, float],
        shift: float,
        white: float,
        angle: float = 0.25,
        device: torch.device,
    ) -> "Placement":
        """Random placements, up to `angle` askew; a share `white` of the pages is white, the others have any
        one colour.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(device)

        page = torch.where(uniform(n, 1) < white, 1.0, uniform(n, 3))
        return Placement(
            zoom[0] + (zoom[1] - zoom[0]) * uniform(n),
            angle * (uniform(n) - uniform(n)),
            shift * (2 * uniform(n, 2) - 1),
            page,
        )

    def __getitem__(self, rows: slice) -> "Placement":
        return Placement(self.zoom[rows], self.angle[rows], self.shift[rows], self.page[rows])


def place(
    rgba: Float[Tensor, "n 4 s s"], placement: Placement, size: int
) -> Float[Tensor, "n 3 {size} {size}"]:
    """Premultiplied pictures on their pages, float32 sRGB in [0, 1]."""
    cos, sin = placement.angle.cos() / placement.zoom, placement.angle.sin() / placement.zoom
    shift = 2 * placement.shift / placement.zoom[:, None]
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], -1).unflatten(-1, (2, 3))
    grid = functional.affine_grid(matrix, [len(rgba), 4, size, size], align_corners=False)
    seen = functional.grid_sample(rgba, grid, align_corners=False)
    return seen[:, :3] + (1 - seen[:, 3:]) * placement.page[:, :, None, None]


def choose(weights: Float[Tensor, " n"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Indices of `count` different rows, drawn in proportion to their weights."""
    return torch.multinomial(weights, count, generator=generator)
