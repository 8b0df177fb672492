"""A contact sheet over prompts, recipes and seeds, which keeps the single files."""

import os
from pathlib import Path

import guidance as g
from guidance.clip.sheet import write_table
from guidance.drawings import make_all, plan
from guidance.folder import check_writable


def main(
    *prompts: str,
    file: Path | None = None,
    recipe: tuple[str, ...] = ("clipdraw",),
    seeds: int = 4,
    seed: int = 0,
    sheet: Path = Path("outputs/grid.png"),
    output: Path = Path("outputs"),
) -> str:
    """Draw every prompt with every recipe and seed; gives a sheet, and a run for each drawing.

    The same command goes on where it was stopped, and takes drawings that are there already as they are.

    Args:
        prompts: What to draw, each a row of the sheet.
        file: A file with more prompts, one a line.
        recipe: How to draw: a recipe and its options, "clipdraw --steps 100"; several times for more columns.
        seeds: How many drawings of each prompt a recipe makes.
        seed: The first one's seed; the next ones' are one more each.
        sheet: The file of the sheet.
        output: The folder of all runs.
    """
    rows = [*prompts, *(read_lines(file) if file else [])]
    if not rows or seeds < 1 or not recipe:
        got = f"{len(rows)} prompts, {len(recipe)} recipes, {seeds} seeds"
        raise g.InputError(f"a sheet needs at least one prompt, one recipe and one seed, got {got}")
    check_writable(sheet.parent)
    if os.path.isdir(sheet):
        raise g.InputError(f"cannot write the sheet to {sheet}, a folder; name a file")
    columns = [(command, number) for command in recipe for number in range(seed, seed + seeds)]
    drawings = [plan(command, prompt, number, output) for prompt in rows for command, number in columns]
    finals = [folder / "final.png" for folder in make_all(drawings)]
    cells = [finals[i : i + len(columns)] for i in range(0, len(finals), len(columns))]
    return write_table(sheet, cells, rows, [f"{number}: {command}" for command, number in columns])


def read_lines(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise g.InputError(f"cannot read the prompts in {file} ({error}); check the name") from error
    return [line.strip() for line in lines if line.strip()]
