"""The index against NumPy over all pairs, and against what interrupts it."""

import os
import resource
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guidance import InputError
from guidance.clip import graph, index
from guidance.clip.index import Index, Row
from guidance.clip.search import duplicates

D = 24


def units(n: int, seed: int = 0, d: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row(name: object) -> Row:
    return Row(f"/pictures/{name}.png", "/pictures", f"picture {name}", 4, 3, 100, None, 5, bytes(16))


def made(folder: Path, n: int = 50, d: int = D) -> Index:
    index = Index.create(folder, "a model", "f" * 32, d)
    if n:
        index.add([row(i) for i in range(n)], units(n, d=d))
    return index


def names(index: Index) -> list[str]:
    return [Path(row.path).stem for _, row in index.rows()]


def test_the_nearest_are_those_of_all(tmp_path):
    index, vectors, query = made(tmp_path), units(50), units(1, seed=9)[0]
    scores = vectors @ query
    best = np.argsort(-scores)[:7]
    found = index.nearest(query, 7)
    assert [row for row, _ in found] == [row(i) for i in best]
    np.testing.assert_allclose([score for _, score in found], scores[best], atol=1e-6)
    assert len(index.nearest(query, 1000)) == 50
    assert made(tmp_path / "empty", 0).nearest(query, 3) == []


def test_rows_come_back_as_they_were_and_again_after_opening(tmp_path):
    strange = replace(row("猫 'x' \n"), caption="", offset=2**40, source="/a.tar")
    index = made(tmp_path, 3)
    index.add([strange], units(1))
    index.close()
    index = Index(tmp_path)
    assert index.row(strange.path) == (4, strange)
    assert index.row("/pictures/9.png") is None
    assert (index.model, index.fingerprint, index.dimensions, len(index)) == ("a model", "f" * 32, D, 4)
    assert strange.file == "/a.tar"


def test_a_path_is_there_once_and_its_old_embedding_is_not_found(tmp_path):
    index, query = made(tmp_path), units(1, seed=9)[0]
    (first, _), *_ = index.nearest(query, 1)
    index.add([replace(first, caption="new")], -query[None])
    assert len(index) == 50
    assert first.path not in [row.path for row, _ in index.nearest(query, 49)]
    assert index.nearest(-query, 1)[0][0].caption == "new"


def test_many_removed_rows_do_not_hide_others(tmp_path):
    index, query = made(tmp_path), units(1, seed=9)[0]
    order = np.argsort(-(units(50) @ query))
    index.remove([int(i) + 1 for i in order[:45]])
    assert [row for row, _ in index.nearest(query, 3)] == [row(i) for i in order[45:48]]


def test_tidying_keeps_what_is_there_and_the_disk_small(tmp_path):
    index = made(tmp_path, 5000)
    index.remove(range(1, 4901))
    query = units(1, seed=9)[0]
    before = index.nearest(query, 100)
    reader = Index(tmp_path)
    index.tidy()
    assert index.nearest(query, 100) == before
    assert reader.nearest(query, 100) == before
    assert [file.stat().st_size for file in tmp_path.glob("*.f32")] == [100 * D * 4]
    index.add([row("new")], query[None])
    assert index.nearest(query, 1)[0][0] == row("new")
    assert len(index) == 101


def test_an_empty_index_can_be_tidied(tmp_path):
    index = made(tmp_path, 3)
    index.remove([1, 2, 3])
    index.tidy()
    assert len(index) == 0
    index.add([row("new")], units(1))
    assert names(index) == ["new"]


def test_a_failure_in_the_middle_changes_nothing(tmp_path, monkeypatch):
    index, query = made(tmp_path), units(1, seed=9)[0]
    before = index.nearest(query, 50)
    monkeypatch.setattr(
        os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(InputError, match="No space left on device"):
        index.add([row("new"), row(3)], -units(2))
    monkeypatch.undo()
    assert index.nearest(query, 50) == before
    assert Index(tmp_path).nearest(query, 50) == before
    index.add([row("new")], query[None])
    assert index.nearest(query, 1)[0][0] == row("new")


FILL = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from test_index import Index, row, units
from guidance import InputError
index = Index(sys.argv[1])
try:
    for i in range(10000):
        index.add([row(f"{i}-{j}") for j in range(100)], units(100))
except InputError as error:
    print(error)
    print(i * 100)
"""


def test_a_full_disk_is_one_line_and_the_index_is_what_was_committed(tmp_path):
    made(tmp_path, 0).close()
    limit = 300_000
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path, Path(__file__).parent],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True, text=True,
    )  # fmt: skip
    told, count = done.stdout.splitlines()
    assert "cannot write to the index" in told
    assert int(count) > 0
    index = Index(tmp_path)
    assert len(index) == int(count)
    assert len(index.nearest(units(1)[0], 10**6)) == int(count)
    index.add([row("more")], units(1))
    assert len(index) == int(count) + 1


def test_another_models_index_is_refused(tmp_path):
    made(tmp_path).close()
    with pytest.raises(InputError, match="made by a model"):
        Index.create(tmp_path, "another", "0" * 32, D)
    with pytest.raises(InputError, match="made by a model"):
        Index(tmp_path).merge(Index.create(tmp_path / "other", "another", "0" * 32, D))


@pytest.mark.parametrize("broken", ["index.sqlite", "vectors-1.f32"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 10])
def test_a_broken_index_is_told_in_one_line(tmp_path, broken, content):
    made(tmp_path).close()
    (tmp_path / broken).write_bytes(content)
    with pytest.raises(InputError, match=r"is broken .*; delete it"):
        Index(tmp_path).nearest(units(1)[0], 3)


def test_cut_off_or_overwritten_in_the_middle_it_is_told_in_one_line(tmp_path):
    index = made(tmp_path, 2000)
    index.close()
    file, vectors = tmp_path / "index.sqlite", tmp_path / "vectors-1.f32"
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], content[:8192] + b"\xff" * 8192 + content[16384:]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"is broken .*; delete it"):
            list(Index(tmp_path).rows())
    file.write_bytes(content)
    os.truncate(vectors, vectors.stat().st_size - 4)
    with pytest.raises(InputError, match=r"is broken .*; delete it"):
        Index(tmp_path).nearest(units(1)[0], 3)
    vectors.unlink()
    with pytest.raises(InputError, match=r"is broken .*; delete it"):
        Index(tmp_path).nearest(units(1)[0], 3)


def test_a_crash_after_the_embeddings_and_before_the_rows_leaves_no_trace(tmp_path):
    index, query = made(tmp_path), units(1, seed=9)[0]
    before = index.nearest(query, 50)
    with (tmp_path / "vectors-1.f32").open("ab") as file:
        file.write(query.tobytes() * 3 + b"half")
    assert Index(tmp_path).nearest(query, 50) == before
    index.add([row("new")], query[None])
    assert Index(tmp_path).nearest(query, 1)[0][0] == row("new")
    assert index.nearest(query, 51)[1:] == before


def test_no_index(tmp_path):
    with pytest.raises(InputError, match="guidance embed"):
        Index(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        made(tmp_path / "file" / "index")


def test_others_read_and_write_at_the_same_time(tmp_path):
    one, two = made(tmp_path), Index(tmp_path)
    walk = one.rows()
    next(walk)
    two.close()
    walk.close()
    two = Index(tmp_path)
    two.add([row("two")], units(1, 2))
    one.add([row("one")], units(1, 1))
    assert names(one)[-2:] == ["two", "one"]
    assert two.nearest(units(1, 1)[0], 1)[0][0] == row("one")
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_only_one_process_indexes_at_a_time_and_a_killed_one_is_none(tmp_path):
    index = made(tmp_path)
    hold = f"import time; from guidance.clip.index import Index\nwith Index({str(tmp_path)!r}).alone():"
    hold += " print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert len(index.nearest(units(1)[0], 3)) == 3
    with pytest.raises(InputError, match="another process"), index.alone():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with index.alone(), pytest.raises(InputError, match="another process"), Index(tmp_path).alone():
        pass


def test_a_large_index_is_searched_approximately_and_tells_its_recall(tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(index, "EXACT_ROWS", 2000)
    large = made(tmp_path, 3000)
    assert large.recall is None
    query = units(1, seed=9)[0]
    exact = large.nearest(query, 20)
    large.tidy()
    assert large.recall > 0.95
    looked = []
    real = graph.nearest
    monkeypatch.setattr(graph, "nearest", lambda *args: looked.append(1) or real(*args))
    hits = {row.path for row, _ in exact} & {row.path for row, _ in large.nearest(query, 20)}
    assert len(hits) > 18
    assert looked
    # What came later is found as well, what left is not, and few new rows make no new graph.
    large.remove([large.row(exact[0][0].path)[0]])
    large.add([row("later")], query[None])
    found = [row.path for row, _ in large.nearest(query, 20)]
    assert found[0] == row("later").path
    assert exact[0][0].path not in found
    (file,) = tmp_path.glob("graph-*")
    modified = file.stat().st_mtime_ns
    large.tidy()
    assert file.stat().st_mtime_ns == modified
    # usearch itself finds nothing in a file that is gone.
    content = file.read_bytes()
    for broken in (b"", content[:-100], None):
        file.unlink() if broken is None else file.write_bytes(broken)
        with pytest.raises(InputError, match="make it again"):
            large.nearest(query, 20)
    large.tidy()
    assert [row.path for row, _ in large.nearest(query, 20)] == found
    large.add([row(f"more {i}") for i in range(400)], units(400, 5))
    large.tidy()
    assert [file.name for file in tmp_path.glob("graph-*")] == ["graph-1-3401.usearch"]


def test_duplicates_are_groups_around_their_first(tmp_path, monkeypatch):
    vectors = units(3000)
    vectors[[7, 1500, 2999]] = vectors[3]
    vectors[2000] = vectors[1000] + 0.05 * units(1, seed=4)[0]
    vectors[2000] /= np.linalg.norm(vectors[2000])
    large = Index.create(tmp_path, "a model", "f" * 32, D)
    large.add([row("gone")], vectors[3:4])
    large.add([row(i) for i in range(3000)], vectors)
    large.remove([1])
    groups = [[Path(match.row.path).stem for match in group] for group in duplicates(large, 0.99)]
    assert groups == [["3", "7", "1500", "2999"], ["1000", "2000"]]
    # Against all pairs: every pair that is near is in one group or kept apart by a nearer first.
    cosines = vectors @ vectors.T
    leaders = {}
    for i in range(3000):
        leaders[i] = next((j for j in range(i) if leaders[j] == j and cosines[i, j] >= 0.6), i)
    expected = {i: leader for i, leader in leaders.items() if list(leaders.values()).count(leader) > 1}
    got = {}
    for group in duplicates(large, 0.6):
        leader = int(Path(group[0].row.path).stem)
        for match in group:
            got[int(Path(match.row.path).stem)] = leader
            assert match.score == pytest.approx(cosines[leader, int(Path(match.row.path).stem)], abs=1e-5)
    assert got == expected
    for threshold in (0.0, 1.5):
        with pytest.raises(InputError, match="threshold"):
            next(duplicates(large, threshold))
