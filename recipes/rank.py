"""Pictures and runs, sorted by how well they match a prompt."""

import sys
from collections.abc import Iterator
from itertools import chain
from json import dumps
from pathlib import Path

from PIL import Image

import guidance as g
from guidance.clip.pictures import Unusable, ahead, as_image, decode
from guidance.clip.sheet import write_sheet
from guidance.clip.sources import Found, Missed, look, read
from guidance.clip.table import skipped, table
from guidance.losses.clip import embed
from guidance.progress import counted


def main(
    prompt: str,
    files: list[Path],
    /,
    *,
    top: int = 1000,
    clip: str = "tiny",
    json: bool = False,
    sheet: Path = Path("outputs/rank.png"),
    device: str = "auto",
) -> str:
    """Sort pictures by how well they match a prompt; of folders with runs, the final pictures.

    Args:
        prompt: What they should show; several prompts with weights: "a fox:1.5 | blurry:-0.3 | @cat.png:0.5".
        files: Pictures, folders of pictures, tables, shards; folders of runs such as outputs/clipdraw.
        top: How many of the best to show.
        clip: The model that judges: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        json: Print JSON and nothing else.
        sheet: The file of the contact sheet.
        device: auto, cpu, cuda, cuda:1, …
    """
    if top < 1:
        raise g.InputError(f"top must be at least 1, got {top}")
    prompts = g.parse(prompt)
    items = {item.path: item for file in files for item in pictures_of(file)}
    found = [item for item in items.values() if isinstance(item, Found)]
    reasons = {item.path: item.reason for item in items.values() if isinstance(item, Missed)}
    model = g.load(clip, device=g.device(device))
    # Pictures among the prompts are read once, not for every file.
    vectors = embed(model, prompts).tolist()
    prompts = [g.Prompt(embedding=tuple(v), weight=p.weight) for v, p in zip(vectors, prompts, strict=True)]
    scored: list[tuple[float, Found]] = []

    def work(item: Found) -> Image.Image:
        # Twice what the model sees: the views of clip_score are made of that.
        return decode(read(item.file, item.offset, item.length).data, 2 * model.image_size)[0]

    for item, picture in ahead(counted(found, "Ranking"), work, 32):
        if isinstance(picture, Unusable):
            reasons[item.path] = str(picture)
        else:
            image = as_image(picture).to(model.device)
            scored.append((g.clip_score(model, prompts, image).item(), item))
    if not scored:
        raise g.InputError("there are no pictures to rank; name pictures, or folders with pictures or runs")
    if reasons:
        print(skipped(reasons, len(items)), file=sys.stderr)
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1].path))[:top]
    if json:
        facts = [{"score": round(score, 4), "path": item.path} for score, item in best]
        return dumps(facts, ensure_ascii=False, indent=2)
    numbered = [(f"{rank}", f"{score:.3f}", item) for rank, (score, item) in enumerate(best, 1)]
    lines = table(["", "score", "picture"], [(*told, item.path) for *told, item in numbered])
    names = [f"{rank}  {score}\n{title(Path(item.path))}" for rank, score, item in numbered]
    places = [(item.file, item.offset, item.length) for *_, item in numbered]
    return f"{lines}\n{write_sheet(sheet, places, names)}"


def pictures_of(source: Path) -> Iterator[Found | Missed]:
    """What `look` finds; of a folder with runs, their final pictures only."""
    runs = sorted(source.rglob("run.json")) if source.is_dir() else []
    if not runs:
        return look(source)
    finals = [run.with_name("final.png") for run in runs]
    return chain.from_iterable(look(final) for final in finals if final.exists())


def title(path: Path) -> str:
    """A picture's name, or its run's."""
    return path.parent.name if path.name == "final.png" else path.stem
