"""Pictures of an index, found by text and pictures."""

from contextlib import closing
from json import dumps
from pathlib import Path

import guidance as g
from guidance.clip.index import Index
from guidance.clip.search import search
from guidance.clip.sheet import write_sheet
from guidance.clip.table import table


def main(
    prompt: str | None = None,
    /,
    *,
    image: list[Path] | None = None,
    minus: list[str] | None = None,
    top: int = 20,
    index: Path = Path("outputs/index"),
    clip: str | None = None,
    json: bool = False,
    sheet: Path = Path("outputs/search.png"),
    device: str = "auto",
) -> str:
    """Find pictures of an index by text, by pictures, or by both.

    Args:
        prompt: What to look for; several prompts with weights: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5".
        image: A picture to look for as well, of weight 1; may be given several times.
        minus: A text that pictures should not match, of weight -1; may be given several times.
        top: How many to show.
        index: The folder of the index.
        clip: The model, if it is elsewhere than when the index was made.
        json: Print JSON and nothing else.
        sheet: The file of the contact sheet.
        device: auto, cpu, cuda, cuda:1, …
    """
    prompts = g.parse(prompt) if prompt is not None else []
    prompts += [g.Prompt(image=path) for path in image or []]
    prompts += [g.Prompt(text=text, weight=-1.0) for text in minus or []]
    if not prompts:
        raise g.InputError('say what to look for: guidance search "a red rose", or --image cat.png')
    with closing(Index(index)) as pictures:
        model = g.load(clip or pictures.model, device=g.device(device))
        found = search(pictures, model, prompts, top=top)
        recall = pictures.recall
    if json:
        return dumps([match.facts() for match in found], ensure_ascii=False, indent=2)
    if not found:
        return f"the index {index} is empty"
    numbered = [(f"{rank}", f"{match.score:.3f}", match.row) for rank, match in enumerate(found, 1)]
    lines = table(
        ["", "score", "caption", "picture"], [(*told, row.caption, row.path) for *told, row in numbered]
    )
    names = [f"{rank}  {score}\n{row.caption or Path(row.path).stem}" for rank, score, row in numbered]
    told = write_sheet(sheet, [(row.file, row.offset, row.length) for *_, row in numbered], names)
    if recall is not None:
        told += f"\nthe search was approximate, with a recall of {recall:.1%}"
    return f"{lines}\n{told}"
