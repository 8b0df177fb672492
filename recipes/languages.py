"""How well a CLIP understands names in many languages."""

import json as json_format
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

import guidance as g
from guidance.clip.labels import embed_found
from guidance.clip.languages import ENGLISH, compare, keep, read_names
from guidance.clip.sources import Missed, look


def main(
    data: Path,
    *,
    json: bool = False,
    clip: str = "tiny",
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Report, for each language, how well names find their pictures and agree with the English names.

    Args:
        data: A CSV file (filepath, language, title), or a folder with captions.csv (filepath, title: English)
            and captions_multilingual.csv (filepath, language, title).
        json: Print everything as JSON, not as a table.
        clip: The model: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support.
    """
    files, names = read_names(data)
    model = g.load(clip, device=g.device(device), precision=precision)
    # os.path.exists and not Path.exists, which raises for a name that is too long.
    gone = [Missed(str(file), "no such file") for file in files if not os.path.exists(file)]
    there = [item for file in files if os.path.exists(file) for item in look(file)]
    seen = embed_found(model, [*gone, *there])
    names = keep(names, files, [picture.path for picture in seen.pictures])
    english = model.encode_many([title for _, title in names[ENGLISH]])
    pictures = seen.embeddings.to(model.device)
    quiet = json or not sys.stderr.isatty()
    found = [
        compare(model, pictures, english, language, rows)
        for language, rows in track(
            names.items(), "Reading", console=Console(stderr=True), transient=True, disable=quiet
        )
    ]

    skipped = {missed.path: missed.reason for missed in seen.missed}
    if json:
        facts = {"clip": clip, "languages": [asdict(agreement) for agreement in found], "skipped": skipped}
        print(json_format.dumps(facts, ensure_ascii=False, indent=2))
        return
    columns = ("language", "names", "finds picture", "among ten", "cosine with English", "with other names")
    table = Table(*columns, box=None)
    for agreement in sorted(found, key=lambda agreement: -agreement.first):
        shares = (f"{agreement.first:.1%}", f"{agreement.ten:.1%}")
        cosines = (f"{agreement.cosine:.3f}", f"{agreement.others:.3f}")
        table.add_row(Text(agreement.language), str(agreement.names), *shares, *cosines)
    Console().print(table)
    if skipped:
        listed = "".join(f"\n  {path} ({reason})" for path, reason in skipped.items())
        print(f"skipped {len(skipped)} of {len(files)} files:{listed}", file=sys.stderr)
