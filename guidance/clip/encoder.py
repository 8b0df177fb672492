"""CLIP as guidance needs it: frozen, quick, differentiable with respect to the image."""

import hashlib
import json
from typing import Any, Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from guidance.clip.tokenize import Tokenizer, warn
from guidance.errors import InputError

Precision = Literal["float32", "bfloat16"]


@final
class Clip:
    """A frozen CLIP model: images and texts to unit vectors of one space.

    `name` as given to `load`; `image_size`, pixels a side that the image tower sees; `embed_dim`, numbers a
    vector; `device`, where images must be; `preprocessing`, the checkpoint's `preprocess_cfg`; `fingerprint`,
    the same for the same architecture, weights and preprocessing only, on every device, in every precision.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        name: str,
        embed_dim: int,
        device: torch.device,
        precision: Precision = "float32",
        vocabulary: frozenset[str] | None = None,
    ):
        """Takes an open_clip model over: it is frozen, moved to the device and changed for speed.

        `vocabulary`: the words it was trained on, where they are known.
        """
        visual: Any = model.visual
        preprocess = visual.preprocess_cfg
        self.name = name
        self.embed_dim = embed_dim
        self.device = device
        self.image_size = _square(preprocess["size"])
        self.preprocessing: dict[str, Any] = preprocess
        self.fingerprint = _fingerprint(model, preprocess)  # before the weights are packed
        self._resize_mode: str = preprocess["resize_mode"]
        self._interpolation: str = preprocess["interpolation"]
        self._fill: float = preprocess["fill_color"] / 255
        self._mean = torch.tensor(preprocess["mean"], device=device).view(-1, 1, 1)
        self._std = torch.tensor(preprocess["std"], device=device).view(-1, 1, 1)
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._texts: dict[str, Tensor] = {}
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self._autocast = not _speed_up(visual, device, precision) and precision == "bfloat16"

    def encode_image(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embeddings of images in [0, 1] of any size: float32, length 1, differentiable.

        Images are resized as the checkpoint's own preprocessing does (antialiased), and normalised. Bicubic
        overshoot is not clipped to [0, 1] as 8-bit files clip it: on a white ground that would stop the
        gradient of pixels by their rounding error.
        """
        with self._casting():
            features = self._model.encode_image(self._pixels(images))
        return F.normalize(features.float(), dim=-1)

    def encode_text(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """Embeddings of texts, float32 in every precision, of length 1; each text is encoded once and kept.

        Warns (PromptWarning), the first time it meets a text, about words that do not fit into the model's
        context and about words that the model was never trained on, where that is known.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for text in new:
            warn(text, self._tokenizer, self._vocabulary, self.name, stacklevel=2)
        self._texts.update(zip(new, self.encode_many(new), strict=True))
        rows = [self._texts[text] for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, self.embed_dim, device=self.device)

    def encode_many(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """As `encode_text`, for thousands of texts that are seen once: none is kept, none is warned about."""
        batches = [torch.empty(0, self.embed_dim, device=self.device)]
        for i in range(0, len(texts), 128):
            tokens = self._tokenizer(texts[i : i + 128]).to(self.device)
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                batches.append(F.normalize(self._model.encode_text(tokens).float(), dim=-1))
        return torch.cat(batches)

    @property
    def logit_scale(self) -> float:
        """What a cosine is multiplied by to be a logit: one over the temperature that the model learned."""
        return float(self._model.logit_scale.exp())

    def _casting(self) -> torch.autocast:
        """The context in which the image tower computes in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _pixels(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 size size"]:
        """What the image tower is given for images in [0, 1] of any size."""
        return (self._resize(images) - self._mean) / self._std

    def _resize(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 size size"]:
        size = self.image_size
        h, w = images.shape[-2:]
        if self._resize_mode == "shortest":  # torchvision's Resize(size) rounds the longer side down
            shape = (size, int(size * w / h)) if h <= w else (int(size * h / w), size)
        elif self._resize_mode == "longest":
            shape = (round(size * h / max(h, w)), round(size * w / max(h, w)))
        else:
            shape = (size, size)
        if shape != (h, w):
            images = F.interpolate(images, shape, mode=self._interpolation, antialias=True)
        return self._centre(images)

    def _centre(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 size size"]:
        """The middle of images, filled up where they are smaller; halves are rounded as in torchvision."""
        size = self.image_size
        missing = [max(size - side, 0) for side in images.shape[-2:]]
        if any(missing):
            top, left = (side // 2 for side in missing)
            images = F.pad(images, (left, missing[1] - left, top, missing[0] - top), value=self._fill)
        top, left = (round((side - size) / 2) for side in images.shape[-2:])
        return images[..., top : top + size, left : left + size]


def _fingerprint(model: nn.Module, preprocess: dict[str, Any]) -> str:
    """32 hexadecimal digits of a SHA-256: 0.3 s for ViT-B/32, a tenth of its loading."""
    # The kinds of modules tell QuickGELU from GELU, which the weights of a model do not.
    kinds = [type(module).__name__ for module in model.modules()]
    digest = hashlib.sha256(json.dumps([preprocess, kinds], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _square(size: int | tuple[int, int] | list[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(f"the model sees images of {size} pixels; only square ones are supported")
    return sides.pop()


def _speed_up(tower: nn.Module, device: torch.device, precision: Precision) -> bool:
    """Make an image tower quick without changing what it says; whether it now casts to `precision` itself."""
    from open_clip.transformer import VisionTransformer

    from guidance.clip.fast import can_pack, pack

    dtype = cast(torch.dtype, getattr(torch, precision))
    if isinstance(tower, VisionTransformer) and device.type == "cpu" and can_pack(dtype):
        pack(tower, dtype)
        return True
    if not isinstance(tower, VisionTransformer):
        # Twice as quick for small convolutional towers; packing their 1×1 convolutions gains 4 % more.
        tower.to(memory_format=torch.channels_last)
    return False
