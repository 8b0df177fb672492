"""Pictures of an index that are nearly the same."""

from contextlib import closing
from json import dumps
from pathlib import Path

from guidance.clip.index import Index
from guidance.clip.search import duplicates
from guidance.clip.table import table


def main(
    *,
    index: Path = Path("outputs/index"),
    threshold: float = 0.97,
    json: bool = False,
) -> str:
    """List the pictures of an index that are nearly the same, in groups.

    Args:
        index: The folder of the index.
        threshold: The least cosine of a picture with the first of its group, above 0 and at most 1.
        json: Print JSON and nothing else.
    """
    with closing(Index(index)) as pictures:
        groups = list(duplicates(pictures, threshold))
    if json:
        return dumps([[match.facts() for match in group] for group in groups], ensure_ascii=False, indent=2)
    if not groups:
        return f"no two pictures in {index} have a cosine of {threshold:g} or more"
    rows = [
        (str(number), f"{match.score:.3f}", match.row.caption, match.row.path)
        for number, group in enumerate(groups, 1)
        for match in group
    ]
    lines = table(["group", "score", "caption", "picture"], rows)
    return f"{lines}\n{len(rows)} pictures in {len(groups)} groups; a higher --threshold finds fewer"
