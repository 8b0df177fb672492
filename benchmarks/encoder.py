"""How much quicker is our image encoder than open_clip's own call, and does it say the same?

    python benchmarks/encoder.py [--model ViT-B-32] [--crops 4 8 16] [--rounds 5] [--threads 2]

One step is an embedding and its gradient with respect to the image, with random weights, no download. The
contenders take turns in one process, and each one's fastest round counts, so that a busy machine slows all
alike.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy

import guidance  # noqa: F401 - before PyTorch, whose threads it has spin less

# isort: split
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.clip import Clip
from guidance.clip.encoder import Precision

Encode = Callable[[Tensor], Tensor]


def plain(model: open_clip.CLIP, dtype: torch.dtype) -> Encode:
    """open_clip as everybody calls it: normalise, encode, under autocast where the precision is bfloat16."""
    mean, std = (torch.tensor(model.visual.preprocess_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))

    def encode(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return F.normalize(model.encode_image((images - mean) / std).float(), dim=-1)

    return encode


def step(encode: Encode, images: Tensor) -> tuple[float, Tensor, Tensor]:
    """Milliseconds, embeddings, gradient with respect to the images."""
    images = images.clone().requires_grad_()
    start = time.perf_counter()
    embeddings = encode(images)
    direction = torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)
    (embeddings * direction).sum().backward()
    assert images.grad is not None
    return 1000 * (time.perf_counter() - start), embeddings.detach(), images.grad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--crops", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    trainable = open_clip.create_model(options.model).eval()
    frozen = deepcopy(trainable).requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(options.model)
    cpu = torch.device("cpu")

    def ours(precision: Precision) -> Encode:
        return Clip(
            deepcopy(frozen), tokenizer, name="", embed_dim=512, device=cpu, precision=precision
        ).encode_image

    contenders = {
        "open_clip, parameters with gradients": (plain(trainable, torch.float32), "float32"),
        "open_clip, frozen, float32": (plain(frozen, torch.float32), "float32"),
        "ours, float32": (ours("float32"), "float32"),
        "open_clip, frozen, bfloat16": (plain(frozen, torch.bfloat16), "bfloat16"),
        "ours, bfloat16": (ours("bfloat16"), "bfloat16"),
    }
    baseline = {"float32": "open_clip, frozen, float32", "bfloat16": "open_clip, frozen, bfloat16"}
    for crops in options.crops:
        size = frozen.visual.preprocess_cfg["size"]
        images = torch.rand(crops, 3, *(size if isinstance(size, tuple) else (size, size)))
        # The first round is a rehearsal.
        rounds = {name: [step(encode, images)] for name, (encode, _) in contenders.items()}
        for _ in range(options.rounds):
            for name, (encode, _) in contenders.items():
                rounds[name].append(step(encode, images))
        fastest = {name: min(ms for ms, _, _ in times[1:]) for name, times in rounds.items()}
        _, truth, truth_gradient = rounds[baseline["float32"]][0]
        print(f"\n{options.model}, {crops} crops, forward and backward to the image")
        print(
            f"{'':38}{'ms':>8}{'ms/crop':>9}{'speed-up':>10}{'embedding':>11}{'cosine':>10}{'gradient':>10}"
        )
        for name, (_, precision) in contenders.items():
            _, embeddings, gradient = rounds[name][0]
            error = (embeddings - truth).abs().max()
            cosine = F.cosine_similarity(embeddings, truth).min()
            towards = F.cosine_similarity(gradient.flatten(1), truth_gradient.flatten(1)).min()
            ratio = fastest[baseline[precision]] / fastest[name]
            print(
                f"{name:38}{fastest[name]:8.1f}{fastest[name] / crops:9.1f}{ratio:9.2f}×"
                f"{error:11.1e}{cosine:10.6f}{towards:10.6f}"
            )
    print("\nspeed-up: over open_clip frozen, at the same precision; the rest: against open_clip in float32")


if __name__ == "__main__":
    main()
