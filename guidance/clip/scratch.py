"""What training a CLIP begins and ends with: a new model, its optimizer, how well it finds names."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from jaxtyping import Float
from open_clip.model import CLIP
from torch import Tensor

from guidance.clip.data import CaptionedPictures, Placement, place
from guidance.clip.encoder import Clip
from guidance.clip.retrieval import ranks
from guidance.errors import InputError, suggest


def new_model(
    image_model: str, image_size: int, vocabulary: int, seed: int = 0
) -> tuple[CLIP, dict[str, Any]]:
    """A tower of timm's and a small text transformer, not trained, and open_clip's configuration of the two.

    Raises InputError for a name that timm does not have.
    """
    if image_model not in timm.list_models():
        raise InputError(f"timm has no model {image_model!r}{suggest(image_model, timm.list_models())}")
    image_tower = {"timm_model_name": image_model, "timm_model_pretrained": False, "timm_pool": "avg"}
    text_tower = {"context_length": 32, "vocab_size": vocabulary, "hf_tokenizer_name": "tokenizer.json"}
    config = {
        "model_cfg": {
            "embed_dim": 256,
            "vision_cfg": image_tower | {"timm_proj": "linear", "image_size": image_size},
            "text_cfg": text_tower | {"width": 128, "heads": 4, "layers": 3},
        },
        "preprocess_cfg": {"size": image_size, "mean": [0.5] * 3, "std": [0.25] * 3}
        | {"interpolation": "bicubic", "resize_mode": "squash"},
    }
    with torch.random.fork_rng(devices=[]):  # open_clip initialises from the global generator
        torch.manual_seed(seed)
        model = CLIP(**config["model_cfg"])
    model.visual.to(memory_format=torch.channels_last)
    return model, config


def adamw(model: CLIP) -> torch.optim.AdamW:
    """AdamW of what has a gradient, under which matrices decay; gains and biases do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    # Not fused: that takes the moments for channels-last like the weights, which they are not after a resume.
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


@torch.no_grad()
def retrieval(
    clip: Clip,
    pictures: CaptionedPictures,
    change: Callable[[Float[Tensor, "n 3 s s"]], Float[Tensor, "n 3 s s"]] = lambda views: views,
) -> dict[str, float]:
    """How often a picture, whole on white and then changed, ranks its own English name first, and in the
    first ten, of the names of all.
    """
    n = len(pictures.rgba)
    plain = Placement(torch.full((n,), 0.9), torch.zeros(n), torch.zeros(n, 2), torch.ones(n, 3))
    views = place(pictures.rgba, plain, clip.image_size).split(256)
    images = torch.cat([clip.encode_image(change(view.to(clip.device))) for view in views])
    names = clip.encode_text([captions[0] for captions in pictures.captions])
    place_of = ranks(images, names, torch.arange(n)[:, None].expand(-1, 2)).cpu()
    unseen = place_of[pictures.held_out]
    shares = {"first": place_of < 1, "in the first ten": place_of < 10}
    if len(unseen):
        shares |= {"held-out first": unseen < 1, "held-out in the first ten": unseen < 10}
    return {name: hits.float().mean().item() for name, hits in shares.items()}
