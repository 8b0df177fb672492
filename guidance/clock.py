"""Where a run is, and the randomness of every moment of it.

Every random draw is a pure function of (seed, name, step): nothing is advanced, so a run that is resumed,
drawn in a population or split into chunks draws the same numbers as one that is not, and there is no
generator state to save.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from guidance.errors import InputError

#: Runs are refused beyond this many steps.
MAX_STEPS = 100_000_000

#: A scalar, or a function from progress in [0, 1] to one.
Schedule = float | Callable[[float], float]


def at(schedule: Schedule, progress: float) -> float:
    """The value of a schedule at a progress in [0, 1]."""
    return schedule(progress) if callable(schedule) else schedule


def piecewise(values: dict[float, float]) -> Callable[[float], float]:
    """A staircase: `{0: 1.0, 0.5: 0.4}` is 1.0 before half of the run and 0.4 from there on."""
    stairs = sorted(values.items())
    if not stairs or stairs[0][0] != 0:
        raise InputError(f"a piecewise schedule must start at progress 0, got {values}; give it a value at 0")

    def schedule(progress: float) -> float:
        return [value for start, value in stairs if start <= progress][-1]

    return schedule


def linear(start: float, end: float) -> Callable[[float], float]:
    """A straight line from `start` at progress 0 to `end` at progress 1."""
    return lambda progress: start + (end - start) * progress


def cosine(start: float, end: float) -> Callable[[float], float]:
    """Half a cosine from `start` at progress 0 to `end` at progress 1, flat at both."""
    return lambda progress: end + (start - end) * (1 + cos(pi * progress)) / 2


def warm_up(schedule: Schedule, share: float = 0.02) -> Callable[[float], float]:
    """A schedule that over the first `share` of the run first rises to its values, in a straight line."""
    return lambda progress: at(schedule, progress) * (min(1.0, progress / share) if share else 1.0)


@dataclass
class Clock:
    """A run's length, seed and position; `optimize` moves `index`, everybody else reads.

    Member i of a population draws what a single run with `seed + i` draws. Raises InputError unless
    1 ≤ steps ≤ 100,000,000.
    """

    steps: int = 1
    seed: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if self.steps > MAX_STEPS:
            raise InputError(f"steps must be at most {MAX_STEPS}, got {self.steps}")

    @property
    def progress(self) -> float:
        """The share of the steps that are done, in [0, 1]."""
        return self.index / self.steps

    def generator(self, name: str, member: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """The stream called `name` of one member of the population at the present step, at its beginning."""
        digest = hashlib.sha256(f"{self.seed + member}/{name}/{self.index}".encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def uniform(self, name: str, b: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers in [0, 1), float32 `[b, *shape]`, one stream for each of b members."""
        streams = (self.generator(name, i, device) for i in range(b))
        return torch.stack([torch.rand(*shape, generator=s, device=device) for s in streams])

    def normal(self, name: str, b: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, float32 `[b, *shape]`, one stream for each of b members."""
        streams = (self.generator(name, i, device) for i in range(b))
        return torch.stack([torch.randn(*shape, generator=s, device=device) for s in streams])
