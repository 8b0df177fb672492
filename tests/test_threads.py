"""How long PyTorch's threads spin, which is decided before PyTorch is loaded."""

import os
import subprocess
import sys

import pytest

UNSAID = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}


def run(code: str, said: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=UNSAID | said, check=True, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({}, "10000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_threads_spin_briefly_unless_the_user_says_how_long(said: dict[str, str], kept: str) -> None:
    code = (
        "import guidance, os, sys; assert 'torch' not in sys.modules;"
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    assert run(code, said).stdout.strip() == kept


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has GNU OpenMP on Linux only")
def test_openmp_reads_it() -> None:
    said = run("import guidance, torch", {"OMP_DISPLAY_ENV": "VERBOSE"}).stderr
    assert "GOMP_SPINCOUNT = '10000'" in said
