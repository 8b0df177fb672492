"""Tables as text: aligned, and of nothing but what the cells say, whoever named the files."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their headings, without the columns in which nothing is.

    Lines fit into a terminal, where the last column is folded; in a pipe or a file they are as long as they
    are. Square brackets are no markup, and characters that control a terminal are written out.
    """
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    grid = Table(box=None, show_edge=False, pad_edge=False)
    for i in used:
        grid.add_column(columns[i], overflow="fold" if i == used[-1] else "ellipsis")
    for row in rows:
        grid.add_row(*(Text(one_line(row[i])) for i in used))
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as told:
        console.print(grid)
    return "\n".join(line.rstrip() for line in told.get().splitlines())


def skipped(reasons: Mapping[str, str], total: int) -> str:
    """What is said of files that were skipped, by path, with the reasons: how many, and the first twenty."""
    lines = [f"skipped {len(reasons)} of {total} files:"]
    lines += [f"  {one_line(path)} ({reason})" for path, reason in list(reasons.items())[:20]]
    if len(reasons) > 20:
        lines.append(f"  and {len(reasons) - 20} more")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Text as it is, but with line breaks and other control characters written out, as in \\n and \\x1b."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in text
    )
