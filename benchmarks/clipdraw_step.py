"""Where does the time of a CLIPDraw step go, and how does it compare with the notebook's way?

    python benchmarks/clipdraw_step.py [--model ViT-B-32] [--paths 256] [--crops 4] [--rounds 5] [--threads 2]

Ours, in float32 and bfloat16, part by part, beside the notebook's crops (torchvision, two samplings) and
encoder (open_clip's plain call) on the same drawing. The notebook's rasteriser, diffvg, is compared in
benchmarks/raster.py; here both steps have ours. Random weights, no download. All take turns in one process;
the fastest round of each counts.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy

import guidance as g  # before PyTorch, whose threads it has spin less

# isort: split
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import transforms

from guidance.clip.encoder import Precision

Part = Callable[[Tensor], Tensor]


def forward_backward(part: Part, given: Tensor) -> float:
    """Milliseconds for what a part computes and its gradient with respect to what it is given."""
    given = given.detach().clone().requires_grad_()
    start = time.perf_counter()
    part(given).sum().backward()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--paths", type=int, default=256)
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    clock = g.Clock(steps=1000)
    canvas = g.Strokes(options.paths, 224, clock)
    optimizer = g.adam(canvas)
    crops = g.Crops.clipdraw(clock, options.crops)
    frozen = open_clip.create_model(options.model).eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(options.model)

    def ours(precision: Precision) -> Part:
        return g.Clip(
            deepcopy(frozen),
            tokenizer,
            name="",
            embed_dim=512,
            device=torch.device("cpu"),
            precision=precision,
        ).encode_image

    mean, std = (torch.tensor(frozen.visual.preprocess_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    views = transforms.Compose(
        [
            transforms.RandomPerspective(fill=1, p=1, distortion_scale=0.5),
            transforms.RandomResizedCrop(224, scale=(0.7, 0.9)),
        ]
    )
    image = canvas().detach()
    seen = crops(image, 224)[0].detach()

    def rasterize() -> float:
        start = time.perf_counter()
        canvas().sum().backward()
        return 1000 * (time.perf_counter() - start)

    def update() -> float:
        start = time.perf_counter()
        optimizer.step()
        canvas.project_()
        return 1000 * (time.perf_counter() - start)

    encode32, encode16 = ours("float32"), ours("bfloat16")
    parts: dict[str, Callable[[], float]] = {
        "rasterise": rasterize,
        "crops, ours": lambda: forward_backward(lambda x: crops(x, 224), image),
        "crops, notebook's": lambda: forward_backward(
            lambda x: torch.cat([views(x) for _ in range(options.crops)]), image
        ),
        "encoder, ours, float32": lambda: forward_backward(encode32, seen),
        "encoder, ours, bfloat16": lambda: forward_backward(encode16, seen),
        "encoder, notebook's": lambda: forward_backward(
            lambda x: F.normalize(frozen.encode_image((x - mean) / std), dim=-1), seen
        ),
        "update": update,
    }
    for part in parts.values():
        part()  # a rehearsal
    rounds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds):
        for name, part in parts.items():
            rounds[name].append(part())
    fastest = {name: min(times) for name, times in rounds.items()}

    print(f"{options.model}, {options.paths} strokes at 224², {options.crops} crops, forward and backward")
    for name, ms in fastest.items():
        print(f"{name:28}{ms:9.1f} ms")
    shared = fastest["rasterise"] + fastest["update"]
    theirs = shared + fastest["crops, notebook's"] + fastest["encoder, notebook's"]
    print(f"{'step, notebook, our raster':28}{theirs:9.1f} ms")
    for precision in ("float32", "bfloat16"):
        whole = shared + fastest["crops, ours"] + fastest[f"encoder, ours, {precision}"]
        print(f"{f'step, ours, {precision}':28}{whole:9.1f} ms{theirs / whole:8.2f}×")


if __name__ == "__main__":
    main()
