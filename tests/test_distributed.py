"""Two processes are one: the same losses and gradients as one process has with the whole batch."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import two_processes
from torchrun import torchrun
from two_processes import CASES, SHARED, Batch

from guidance import InputError
from guidance.distributed import broadcast_, gather, process_group, rank, world

Ranks = list[dict[str, Batch]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, started by torchrun on a port that is free."""
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(two_processes.__file__, str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Ranks:
    return [torch.load(folder / f"rank-{i}.pt", weights_only=True)["found"] for i in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_a_loss_of_two_processes_is_that_of_one(name: str, ranks: Ranks) -> None:
    whole = two_processes.outcome(CASES[name], two_processes.make_batch())
    assert whole["loss"] > 0
    halves = [found[name] for found in ranks]
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, whole.pop("loss"))
    assert any(gradient.abs().max() > 0 for gradient in whole.values())
    for key, gradient in whole.items():
        first, second = (half[key] for half in halves)
        if key in SHARED:
            torch.testing.assert_close((first + second) / 2, gradient)
        else:
            torch.testing.assert_close(torch.cat([first, second]) / 2, gradient)


def test_cached_gradients_under_ddp_are_those_of_one_process(ranks: Ranks) -> None:
    whole = two_processes.cached(two_processes.Towers(), nullcontext, slice(0, 4))
    halves = [found["cached"] for found in ranks]
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, whole.pop("loss"))
    assert len(whole) == 9
    for key, gradient in whole.items():
        for half in halves:
            torch.testing.assert_close(half[f"module.{key}"], gradient)


def test_the_hardest_batch_is_finite_across_processes_in_bfloat16(ranks: Ranks) -> None:
    for found in ranks:
        assert found["extreme"]["loss"] > 50
        assert all(tensor.isfinite().all() for tensor in found["extreme"].values())


def test_ranks_tell_each_other(ranks: Ranks) -> None:
    for found in ranks:
        assert found["basics"]["world"] == 2
        assert found["basics"]["broadcast"].tolist() == [0, 0]
        assert found["basics"]["gathered"].tolist() == [[0] * 3] * 2 + [[1] * 3] * 2


def test_a_rank_that_does_not_come_is_named(folder: Path) -> None:
    message = torch.load(folder / "rank-0.pt", weights_only=True)["message"]
    assert message == "rank 0 of 2 waited for the others in vain, 4 s at most; missing: 1"


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = torch.randn(2, 3)
    with process_group(torch.device("cpu")) as device:
        broadcast_([rows])
        assert (rank(), world(), device.type) == (0, 1, "cpu")
        assert gather(rows) is rows


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    refused = pytest.raises(
        InputError, match="WORLD_SIZE is set but not RANK, LOCAL_RANK, MASTER_PORT; start with torchrun"
    )
    with refused, process_group(torch.device("cpu")):
        pass
