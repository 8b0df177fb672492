"""Starting processes that work together, as a user does."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(*words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` in so many processes that know of each other, on a port that is free."""
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    ours = {n: value for n, value in os.environ.items() if n not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    return subprocess.run(
        [sys.executable, *(together if processes > 1 else []), *words],
        env=ours | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
