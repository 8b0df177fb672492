"""A run that was killed, or stopped by Ctrl-C, ends like one that never was: file by file, bit by bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guidance import media

TOY = Path(__file__).parent / "recipes" / "toy.py"
SAME = ["final.svg", "timelapse.mp4", "metrics.jsonl", "sheet.png"]


def start(*arguments: object, largest: int | None = None) -> subprocess.Popen:
    """The command in a process of its own, in which no file can have more than `largest` bytes."""
    command = [sys.executable, "-m", "guidance", *map(str, arguments)]
    if largest is not None:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
        command[1:3] = ["-c", f"{limit}; import sys; from guidance.cli import main; sys.exit(main())"]
    environment = os.environ | {"PYTHONPATH": str(TOY.parents[2]), "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def begin(output: Path, largest: int | None = None) -> subprocess.Popen:
    return start(TOY, "two dots", "--best-of", 2, "--pause", 0.02, "--output", output, largest=largest)


def ends_well(process: subprocess.Popen) -> Path:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return Path(out.strip())


def stop(process: subprocess.Popen, folder: Path, sign: signal.Signals) -> tuple[int, str]:
    """Send the signal when some steps and a checkpoint are done; the exit code and what was said."""
    deadline = time.monotonic() + 60
    metrics, state = folder / "metrics.jsonl", folder / "checkpoint" / "state.safetensors"
    while not (state.exists() and metrics.read_text().count("\n") >= 20):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def checkpoint_tensors(folder: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "checkpoint" / "state.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def same(folder: Path, whole: Path) -> None:
    for name in SAME:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert media.read_image(folder / "final.png").equal(media.read_image(whole / "final.png"))
    assert checkpoint_tensors(folder) == checkpoint_tensors(whole)
    facts, expected = (json.loads((f / "run.json").read_text()) for f in (folder, whole))
    assert (facts["status"], facts["scores"], facts["best"]) == (
        "finished",
        expected["scores"],
        expected["best"],
    )
    assert sorted(path.name for path in folder.rglob("*")) == sorted(path.name for path in whole.rglob("*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ends_well(begin(tmp_path_factory.mktemp("whole")))


def test_after_kill(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "two-dots-0"
    assert stop(begin(tmp_path), folder, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (folder / "final.png").exists()
    # A second kill, and what a kill in mid-write leaves behind.
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2')
    (folder / "checkpoint" / ".state.safetensors.1.tmp").write_bytes(b"half")
    stop(start("resume", folder, "--recipe", TOY), folder, signal.SIGKILL)
    assert ends_well(start("resume", folder, "--recipe", TOY)) == folder
    same(folder, whole)


def test_after_kills_at_any_moment(whole: Path, tmp_path: Path) -> None:
    """Killed again and again until it comes to an end by itself; the seed is told if it fails."""
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    folder, process = tmp_path / "toy" / "two-dots-0", begin(tmp_path)
    for _ in range(2):
        # From when the folder is there: before that there is nothing to lose.
        deadline = time.monotonic() + 60
        while not (folder / "run.json").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 2))
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        process = start("resume", folder, "--recipe", TOY)
    if process.returncode is None:
        ends_well(process)
    same(folder, whole)
    assert process.returncode == 0, f"seed {seed}"


def test_after_the_disk_was_full(whole: Path, tmp_path: Path) -> None:
    folder, process = tmp_path / "toy" / "two-dots-0", begin(tmp_path, largest=1000)  # less than a checkpoint
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    hint, told = err.splitlines()[-2:]
    assert hint == f"stopped early; to go on: guidance resume {folder} --recipe {TOY}"
    assert re.fullmatch(r"guidance: cannot write .* \(File too large\); make room", told)
    assert not list(folder.rglob(".*.tmp"))
    ends_well(start("resume", folder, "--recipe", TOY))
    same(folder, whole)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "two-dots-0"
    first = start(TOY, "two dots", "--pause", 1.0, "--output", tmp_path)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint" / "state.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = start("resume", folder, "--recipe", TOY)
    _, err = second.communicate(timeout=60)
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert err == f"guidance: another process works on the run in {folder}; wait for its end\n"


def test_after_ctrl_c(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "two-dots-0"
    code, err = stop(begin(tmp_path), folder, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in err
    assert f"guidance resume {folder} --recipe {TOY}\n" in err
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert {"final.svg", "final.png", "timelapse.mp4"} <= {path.name for path in folder.iterdir()}
    ends_well(start("resume", folder, "--recipe", TOY))
    same(folder, whole)


def test_metrics_are_every_step_once(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(60))
    assert all(len(line["near"]) == 2 for line in lines)


def test_resuming_a_finished_run_is_refused(whole: Path) -> None:
    process = start("resume", whole, "--recipe", TOY)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        err == f"guidance: the run in {whole} is finished; to go further, start a new run with more steps\n"
    )
