"""The running mean of a model's weights, which generalises better than the last ones."""

import torch
from torch import nn

from guidance.clock import Clock


@torch.no_grad()
def average_(mean: nn.Module, model: nn.Module, decay: float, clock: Clock) -> None:
    """Move an exponential moving average on by the weights of step `clock.index`; buffers are copied.

    The average begins short: its decay is (1 + step) / (10 + step) until that exceeds `decay`.
    """
    share = 1 - min(decay, (1 + clock.index) / (10 + clock.index))
    for average, weight in zip(mean.parameters(), model.parameters(), strict=True):
        average.lerp_(weight, share)
    for copy, buffer in zip(mean.buffers(), model.buffers(), strict=True):
        copy.copy_(buffer)
