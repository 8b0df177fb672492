"""Pictures and runs, sorted by how well they match a prompt."""

import sys
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.table import Table

import guidance as g
from guidance.clip.pictures import Unusable, ahead, as_image, decode
from guidance.clip.sheet import write_sheet
from guidance.clip.sources import Found, look, read
from guidance.losses.clip import embed


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
        files: Pictures, folders of pictures, folders of runs such as outputs/clipdraw.
        top: How many of the best to show.
        clip: The model that judges: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        json: Print JSON and nothing else.
        sheet: The file of the contact sheet.
        device: auto, cpu, cuda, cuda:1, …
    """
    if top < 1:
        raise g.InputError(f"top must be at least 1, got {top}")
    prompts = g.parse(prompt)
    found = list(dict.fromkeys(each for file in files for each in pictures_of(file)))
    model = g.load(clip, device=g.device(device))
    # Pictures among the prompts are read once, not for every file.
    vectors = embed(model, prompts).tolist()
    prompts = [g.Prompt(embedding=tuple(v), weight=p.weight) for v, p in zip(vectors, prompts, strict=True)]
    scored: list[tuple[float, str]] = []
    # Twice what the model sees: the views of clip_score are made of that.
    work = ahead(found, lambda each: decode(read(each, None, 0).data, 2 * model.image_size)[0], 32)
    for path, picture in work:
        if isinstance(picture, Unusable):
            print(f"skipped {path}: {picture}", file=sys.stderr)
        else:
            image = as_image(picture).to(model.device)
            scored.append((g.clip_score(model, prompts, image).item(), path))
    if not scored:
        raise g.InputError("there are no pictures to rank; name pictures, or folders with pictures or runs")
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:top]
    if json:
        return dumps(
            [{"score": round(score, 4), "path": path} for score, path in best], ensure_ascii=False, indent=2
        )
    table = Table("", "score", box=None)
    table.add_column("picture", overflow="fold")
    for rank, (score, path) in enumerate(best, 1):
        table.add_row(str(rank), f"{score:.3f}", path)
    Console().print(table)
    names = [f"{rank}  {score:.3f}\n{title(Path(path))}" for rank, (score, path) in enumerate(best, 1)]
    write_sheet(sheet, [(path, None, 0) for _, path in best], names)
    return f"sheet: {sheet}"


def pictures_of(source: Path) -> list[str]:
    """A picture's path; of a folder with runs their final pictures, of another one all pictures."""
    runs = sorted(source.rglob("run.json")) if source.is_dir() else []
    if runs:
        return [str(final) for run in runs if (final := run.with_name("final.png")).exists()]
    found = [each for each in look(source) if isinstance(each, Found)]
    return [each.path for each in found if each.offset is None]


def title(path: Path) -> str:
    """A picture's name, or its run's."""
    return path.parent.name if path.name == "final.png" else path.stem
