"""How well a CLIP understands names in many languages."""

import json as json_format
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import guidance as g
from guidance.clip.labels import embed_found
from guidance.clip.languages import ENGLISH, compare, keep, read_names
from guidance.clip.sources import Missed, look
from guidance.clip.table import skipped, table
from guidance.progress import counted


def main(
    data: Path,
    *,
    json: bool = False,
    clip: str = "tiny",
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> str:
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
    seen = embed_found(model, counted([*gone, *there], "Reading pictures"))
    names = keep(names, files, [picture.path for picture in seen.pictures])
    english = model.encode_many([title for _, title in names[ENGLISH]])
    pictures = seen.embeddings.to(model.device)
    found = [
        compare(model, pictures, english, language, rows)
        for language, rows in counted(list(names.items()), "Reading names")
    ]
    unread = {missed.path: missed.reason for missed in seen.missed}
    if json:
        facts = {
            "clip": clip,
            "languages": [asdict(agreement) for agreement in found],
            "skipped": unread,
        }
        return json_format.dumps(facts, ensure_ascii=False, indent=2)
    if unread:
        print(skipped(unread, len(files)), file=sys.stderr)
    columns = ("language", "names", "finds picture", "among ten", "cosine with English", "with other names")
    rows = [
        (
            each.language,
            f"{each.names}",
            f"{each.first:.1%}",
            f"{each.ten:.1%}",
            f"{each.cosine:.3f}",
            f"{each.others:.3f}",
        )
        for each in sorted(found, key=lambda each: -each.first)
    ]
    return table(columns, rows)
