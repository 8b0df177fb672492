"""A CLIP to test losses with: small, frozen, quick, and the same everywhere."""

import hashlib

import pytest
import torch
import torch.nn.functional as F


class FakeClip:
    """A random convolutional image tower, and texts that are random directions of their own."""

    image_size = 16
    embed_dim = 12
    device = torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.kernels = torch.randn(8, 3, 5, 5, generator=generator) / 5
        self.head = torch.randn(self.embed_dim, 8 * 6 * 6, generator=generator) / 8
        self.encoded: list[str] = []
        self.sizes: set[tuple[int, ...]] = set()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.add(tuple(images.shape[2:]))
        features = torch.tanh(F.conv2d(images - 0.5, self.kernels, stride=2))
        return F.normalize(features.flatten(1) @ self.head.T, dim=-1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        self.encoded += texts
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        rows = [torch.randn(self.embed_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(rows), dim=-1)

    encode_many = encode_text


@pytest.fixture
def clip() -> FakeClip:
    return FakeClip()
