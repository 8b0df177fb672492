"""Which row comes when: a pure function of the number of a sample, so that any position can be gone to."""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil

import numpy as np
import torch

from guidance.clip.datasets.rows import Rows
from guidance.clock import MAX_STEPS, Clock

#: Samples among which the sources of a mixture are shuffled.
CYCLE = 8192


class Mixture:
    """An endless sequence of samples from several rows, each a source and the number of a row in it.

    In an epoch, a source of n rows and weight w has round(w n) samples, so that with weights of 1 every row
    comes exactly once; what open_clip calls upsampling factors. A source goes on where the last epoch left it
    and gives each of its rows once before any comes again, in random order: that of all its rows, or, where
    rows are read in blocks, block after block with the rows of each shuffled. The sources take turns, evenly
    over the epoch and at random within thousands of samples.
    """

    def __init__(self, sources: Sequence[tuple[float, Rows]], seed: int) -> None:
        self._rows = [rows for _, rows in sources]
        self._seed = seed
        self._counts = [max(1, round(weight * len(rows))) for weight, rows in sources]
        #: Samples in an epoch.
        self.epoch = sum(self._counts)
        self._cycles = ceil(self.epoch / CYCLE)
        # The latest cycle and orders: samples are asked for nearly one after the other.
        self._cycle: tuple[range, int, np.ndarray] = (range(0), 0, np.empty(0))
        self._orders: dict[int, tuple[int, int, np.ndarray]] = {}

    def __getitem__(self, sample: int) -> tuple[int, int]:
        samples, _, _ = self._cycle
        if sample not in samples:
            self._cycle = self._cycle_of(sample)
        samples, cycle, turns = self._cycle
        source, nth = turns[sample - samples.start].tolist()
        count = self._counts[source]
        before = sample // self.epoch * count + count * cycle // self._cycles
        return source, self._row(source, before + nth)

    def neighbours(self, source: int, row: int) -> range:
        """The rows of a source that are as easily read as this one."""
        rows = self._rows[source]
        if not rows.block:
            return range(len(rows))
        start = row - row % rows.block
        return range(start, min(start + rows.block, len(rows)))

    def _start(self, cycle: int) -> int:
        return sum(count * cycle // self._cycles for count in self._counts)

    def _cycle_of(self, sample: int) -> tuple[range, int, np.ndarray]:
        """The samples of the cycle that one is in, its number, and for each its source and how many of the
        cycle that source has given before."""
        epoch, rest = divmod(sample, self.epoch)
        cycle = bisect_right(range(self._cycles), rest, key=self._start) - 1
        start, stop = self._start(cycle), self._start(cycle + 1)
        shares = [c * (cycle + 1) // self._cycles - c * cycle // self._cycles for c in self._counts]
        pairs = [np.stack([np.full(n, i), np.arange(n)], 1) for i, n in enumerate(shares)]
        turns = np.concatenate(pairs)
        if len(shares) > 1:
            # Shuffled, but what a source gives stays in its order: its blocks are read one after the other.
            sources = turns[self._permutation("sources", len(turns), epoch * self._cycles + cycle), 0]
            turns[np.argsort(sources, kind="stable")] = turns.copy()
        return range(epoch * self.epoch + start, epoch * self.epoch + stop), cycle, turns

    def _row(self, source: int, position: int) -> int:
        rows = self._rows[source]
        epoch, place = divmod(position, len(rows))
        size = rows.block or len(rows)
        block, within = divmod(place, size)
        known = self._orders.get(source)
        if known is None or known[:2] != (epoch, block):
            count = min(size, len(rows) - block * size)
            order = self._permutation(f"rows of {source}, block {block}", count, epoch)
            self._orders[source] = known = (epoch, block, block * size + order)
        return int(known[2][within])

    def _permutation(self, name: str, count: int, index: int) -> np.ndarray:
        generator = Clock(MAX_STEPS, self._seed, index).generator(name)
        return torch.randperm(count, generator=generator).numpy()
