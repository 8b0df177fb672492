"""Pictures to an index that finds them by text."""

import os
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Literal

import guidance as g
from guidance.clip import embed
from guidance.clip.index import EXACT_ROWS, Index
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
) -> None:
    """Bring an index of pictures up to date: what is new is encoded, what is gone leaves.

    Ctrl-C loses a few seconds of work, and the same command goes on. Under torchrun (torchrun
    --nproc-per-node 2 -m guidance embed …) processes share the work; afterwards the command without it merges
    what they did.

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
        merged = embed.merge(index)
        with closing(Index(index)) as pictures:
            print(f"{merged} merged, {len(pictures)} pictures in {index}")
        return
    where = g.device(device)
    if device == "auto" and where.type == "cuda":
        where = g.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    model = g.load(clip, device=where, precision=precision)
    began = shown = time.monotonic()
    tally = embed.Tally()
    try:
        for tally in embed.embed(model, sources, index, batch=batch, share=share):
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
    report(tally, index, share)


def report(tally: embed.Tally, index: Path, share: tuple[int, int]) -> None:
    """Say what was done, and list what was not: a few here, all in a file."""
    rank, count = share
    listing = index / ("skipped.tsv" if count == 1 else f"skipped-{rank}-of-{count}.tsv")
    merged = f"{tally.merged} merged, " if tally.merged else ""
    print(
        f"{merged}{tally.encoded} encoded, {tally.unchanged} unchanged, {tally.removed} removed, "
        f"{len(tally.skipped)} skipped"
    )
    lines = [f"{missed.reason}\t{missed.path}\n" for missed in tally.skipped]
    try:
        write_text(listing, "reason\tpath\n" + "".join(lines))
    except OSError as error:
        raise g.InputError(f"cannot write {listing} ({error.strerror}); the index is complete") from error
    for reason, number in Counter(missed.reason for missed in tally.skipped).most_common():
        example = next(missed.path for missed in tally.skipped if missed.reason == reason)
        print(f"  {number} {reason}, such as {example}")
    if tally.skipped:
        print(f"  all of them: {listing}")
    if count > 1:
        print(f"part {rank} of {count} is written; to merge the parts: guidance embed --index {index}")
        return
    with closing(Index(index)) as done:
        print(f"{len(done)} pictures in {index}")
        if done.recall is not None:
            print(f"search is approximate and finds {done.recall:.1%} of the nearest 20; the rest is exact")
        elif len(done) > EXACT_ROWS:
            print("search is exact and reads everything; quicker: pip install 'clip-guidance[search]'")
