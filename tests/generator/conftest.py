"""A small generator with random weights, biases and noise, so that whatever is left out is noticed."""

import pytest
import torch

from guidance.clock import Clock
from guidance.generator.stylegan2 import Generator, randomize_


@pytest.fixture
def generator() -> Generator:
    network = Generator((5, 4, 3), style_dim=10, mapping_layers=3)
    randomize_(network, Clock())
    draw = torch.Generator().manual_seed(0)
    for tensor in [*network.parameters(), *network.noises.buffers(), network.latent_avg]:
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=draw)
    return network.requires_grad_(False)
