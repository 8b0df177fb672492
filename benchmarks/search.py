"""How long does a search take, and how much memory, as an index grows?

    python benchmarks/search.py [--rows 1e4 1e5 1e6] [--dimensions 512] [--approximate]

Synthetic embeddings in clusters, in a temporary folder. Making is writing all rows. The first search is in a
new process, as from the command line, without the time of starting Python and loading a model; the others are
the median of ten more. Memory is what that process has of its own (PyTorch is most of it), and its peak with
the mapped file, which the system may drop. `--approximate` makes the graph, whatever the size, and tells its
recall.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from guidance.clip import index as indexes
from guidance.clip.index import Index, Row

SEARCH = """
import sys, time
from pathlib import Path
import numpy as np
from guidance.clip.index import Index
query = np.random.default_rng(5).standard_normal(int(sys.argv[2]), dtype=np.float32)
query /= np.linalg.norm(query)
seconds = []
for _ in range(11):
    began = time.perf_counter()
    index = Index(sys.argv[1])
    found = index.nearest(query, 20)
    seconds.append(time.perf_counter() - began)
    assert len(found) == 20
lines = Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":", 1) for line in lines)
own, peak = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmHWM"))
print(f"{1000 * seconds[0]:10.0f}{1000 * sorted(seconds[1:])[5]:10.0f}{own:10.0f}{peak:10.0f}")
"""


def fill(folder: Path, n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, d), dtype=np.float32)
    with closing(Index.create(folder, "synthetic", "0" * 32, d)) as index:
        for start in range(0, n, 10_000):
            size = min(10_000, n - start)
            grain = rng.standard_normal((size, d), dtype=np.float32)
            vectors = centres[rng.integers(0, 1000, size)] + grain
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            numbers = range(start, start + size)
            rows = [Row(f"/a/{i}.jpg", "/a", "", 640, 480, 10**5, None, i, i.to_bytes(16)) for i in numbers]
            index.add(rows, vectors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--approximate", action="store_true")
    options = parser.parse_args()
    columns = ("rows", "making s", "disk MB", "first ms", "next ms", "own MB", "peak MB")
    print("".join(f"{column:>10}" for column in columns))
    for rows in map(int, options.rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            began = time.perf_counter()
            fill(folder, rows, options.dimensions)
            making = time.perf_counter() - began
            show(folder, rows, making, options.dimensions)
            if options.approximate:
                indexes.EXACT_ROWS = 0
                began = time.perf_counter()
                with closing(Index(folder)) as index:
                    index.tidy()
                    print(f"approximate, recall {index.recall:.1%}:")
                show(folder, rows, time.perf_counter() - began, options.dimensions)


def show(folder: Path, rows: int, making: float, d: int) -> None:
    disk = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    command = [sys.executable, "-c", SEARCH, str(folder), str(d)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()
    print(f"{rows:10}{making:10.1f}{disk:10.0f}{told}", flush=True)


if __name__ == "__main__":
    main()
