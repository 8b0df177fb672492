"""How many pictures a second do we embed, against the plain loop of open_clip: decode, batch, encode?

    python benchmarks/embed.py [--models tiny ViT-B-32] [--pictures 192] [--side 128 512 2048] [--threads 2]

JPEG pictures of waves and grain are written to a temporary folder, one set for each side (quality 90, 4:2:0);
ViT-B-32 has random weights, no download. The plain loop is Pillow, open_clip's transform, batches of 64 and
open_clip's call, without gradients. The contenders take turns in one process, and each one's fastest round
counts; CPU ms is what a picture takes of all cores together, which another process changes less. The cosine
is the lowest of an embedding with that of the plain loop in float32.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import guidance as g  # before PyTorch, whose threads it has spin less

# isort: split
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from guidance.clip import Clip
from guidance.clip.embed import embed_images
from guidance.clip.encoder import Precision

BATCH = 64


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Pictures with the spectrum of photographs, roughly: broad waves, and grain."""
    rng = np.random.default_rng(side)
    paths = []
    for i in range(count):
        coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        waves = np.array(
            Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC), np.int16
        )
        grain = rng.integers(-12, 12, waves.shape[:2], dtype=np.int16)[..., None]
        paths.append(folder / f"{side}-{i}.jpg")
        Image.fromarray((waves + grain).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def plain_loop(model: open_clip.CLIP, precision: Precision) -> Callable[[list[Path]], Tensor]:
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
    )

    @torch.no_grad()
    def embed(paths: list[Path]) -> Tensor:
        done = []
        for start in range(0, len(paths), BATCH):
            batch = torch.stack([transform(Image.open(path)) for path in paths[start : start + BATCH]])
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                done.append(F.normalize(model.encode_image(batch).float(), dim=-1))
        return torch.cat(done)

    return embed


def contenders(name: str) -> dict[str, Callable[[list[Path]], Tensor]]:
    found: dict[str, Callable[[list[Path]], Tensor]] = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        if name == "tiny":
            folder = Path(g.__file__).parent / "models" / "tiny"
            plain = open_clip.create_model(f"local-dir:{folder}").eval()
            clip = g.load("tiny", precision=precision)
        else:
            plain = open_clip.create_model(name).eval()
            torch.manual_seed(0)
            same = open_clip.create_model(name).eval()
            width = open_clip.get_model_config(name)["embed_dim"]
            clip = Clip(
                same, open_clip.get_tokenizer(name), name=name, embed_dim=width,
                device=torch.device("cpu"), precision=precision,
            )  # fmt: skip
        found[f"open_clip, {precision}"] = plain_loop(plain, precision)
        found[f"ours, {precision}"] = lambda paths, clip=clip: embed_images(clip, paths, batch=BATCH)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["tiny", "ViT-B-32"])
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--side", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        sets = {side: write_pictures(Path(folder), options.pictures, side) for side in options.side}
        for name in options.models:
            for side, paths in sets.items():
                compare(name, side, paths, options.rounds)


def compare(name: str, side: int, paths: list[Path], rounds: int) -> None:
    runs = contenders(name)
    seconds = dict.fromkeys(runs, float("inf"))
    work = dict.fromkeys(runs, float("inf"))
    made = {label: run(paths[:BATCH]) for label, run in runs.items()}  # a rehearsal
    for _ in range(rounds):
        for label, run in runs.items():
            began, used = time.perf_counter(), time.process_time()
            run(paths)
            seconds[label] = min(seconds[label], time.perf_counter() - began)
            work[label] = min(work[label], time.process_time() - used)
    print(f"\n{name}, JPEG of {side * 4 // 3}×{side}", flush=True)
    print(f"{'':22}{'pictures/s':>12}{'speed-up':>10}{'CPU ms':>10}{'cosine':>10}")
    for label, run_seconds in seconds.items():
        baseline = label.replace("ours", "open_clip")
        cosine = (made[label] * made["open_clip, float32"]).sum(1).min()
        rate, ratio = len(paths) / run_seconds, seconds[baseline] / run_seconds
        each = 1000 * work[label] / len(paths)
        print(f"{label:22}{rate:12.1f}{ratio:9.2f}×{each:10.2f}{cosine:10.5f}", flush=True)


if __name__ == "__main__":
    main()
