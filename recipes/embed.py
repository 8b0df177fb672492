"""Pictures to an index that finds them by text."""

import os
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Literal

import guidance as g
from guidance.clip.index import EXACT_ROWS, Index
from guidance.clip.indexing import Tally, embed, merge
from guidance.clip.table import one_line
from guidance.media import write_text


def main(
    sources: list[Path] | None = None,
    /,
    *,
    index: Path = Path("outputs/index"),
    clip: str = "tiny",
    batch: int = 64,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> str:
    """Bring an index of pictures up to date: what is new is encoded, what is gone leaves.

    Ctrl-C loses a few seconds of work, and the same command goes on. Under torchrun (torchrun
    --nproc-per-node 2 -m -- guidance embed …) processes share the work; afterwards the command without it
    merges what they did.

    Args:
        sources: Folders, pictures, tables (.csv, .tsv with filepath and title), shards (.tar of WebDataset).
        index: The folder of the index.
        clip: The model: tiny, ViT-B/32, ViT-B-32/laion2b_s34b_b79k, hf-hub:…, local-dir:….
        batch: Pictures that the model encodes at once.
        device: auto, cpu, cuda, cuda:1, …
        precision: Of the model's arithmetic: float32, or bfloat16, which is quicker where there is support.
    """
    share = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not sources:
        merged = merge(index)
        with closing(Index(index)) as pictures:
            return f"{merged} merged, {len(pictures)} pictures in {index}"
    where = g.device(device)
    if device == "auto" and where.type == "cuda":
        where = g.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    model = g.load(clip, device=where, precision=precision)
    began = shown = time.monotonic()
    tally = Tally()
    try:
        for tally in embed(model, sources, index, batch=batch, share=share):
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                rate = f"{tally.encoded / (shown - began):.0f}/s"
                print(
                    f"{tally.encoded} encoded, {tally.unchanged} unchanged, {rate}",
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        print("stopped early; the same command goes on", file=sys.stderr)
        raise
    return "\n".join(report(tally, index, share))


def report(tally: Tally, index: Path, share: tuple[int, int]) -> list[str]:
    """Lines that say what was done, and list what was not: a few here, all in a file."""
    rank, count = share
    listing = index / ("skipped.tsv" if count == 1 else f"skipped-{rank}-of-{count}.tsv")
    merged = f"{tally.merged} merged, " if tally.merged else ""
    lines = [
        f"{merged}{tally.encoded} encoded, {tally.unchanged} unchanged, {tally.removed} removed, "
        f"{len(tally.skipped)} skipped"
    ]
    skipped = [f"{missed.reason}\t{one_line(missed.path)}\n" for missed in tally.skipped]
    try:
        write_text(listing, "reason\tpath\n" + "".join(skipped))
    except OSError as error:
        raise g.InputError(f"cannot write {listing} ({error.strerror}); the index is complete") from error
    for reason, number in Counter(missed.reason for missed in tally.skipped).most_common():
        example = next(missed.path for missed in tally.skipped if missed.reason == reason)
        lines.append(f"  {number} {reason}, such as {one_line(example)}")
    if tally.skipped:
        lines.append(f"  all of them: {listing}")
    if count > 1:
        return [*lines, f"part {rank} of {count} is written; to merge: guidance embed --index {index}"]
    with closing(Index(index)) as done:
        lines.append(f"{len(done)} pictures in {index}")
        if done.recall is not None:
            lines.append(f"search is approximate and finds {done.recall:.1%} of the nearest 20")
        elif len(done) > EXACT_ROWS:
            lines.append("search is exact and reads everything; quicker: pip install 'clip-guidance[search]'")
    return lines
