"""Embeddings, and indexing: what is encoded, kept and removed; whatever happens, the index does not lie."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidance import InputError, read_image
from guidance.clip import indexing, load
from guidance.clip.embed import embed_images, embed_texts
from guidance.clip.index import Index
from guidance.clip.indexing import Tally, embed, merge
from guidance.clip.search import search
from guidance.prompts import Prompt


@pytest.fixture
def clip(model_folder):
    return load(f"local-dir:{model_folder('vit')}")


def paint(path: Path, seed: int, *, old: bool = True) -> Path:
    """A picture file, whose time is long ago so that it can vouch for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((50, 40)).save(path)
    if old:
        os.utime(path, ns=(10**18 + seed, 10**18 + seed))
    return path


def gallery(folder: Path, n: int) -> Path:
    for i in range(n):
        paint(folder / f"{i % 3}" / f"{i:03} ü.png", i)
    return folder


def run(clip, sources: list[Path], folder: Path, **options: object) -> Tally:
    *_, tally = embed(clip, sources, folder, **options)
    return tally


def counts(tally: Tally) -> tuple[int, int, int, int]:
    return tally.encoded, tally.unchanged, tally.removed, len(tally.skipped)


def contents(folder: Path) -> dict[str, tuple[str, bytes, np.ndarray]]:
    with closing(Index(folder)) as index:
        vectors = index.vectors()[1]
        return {
            row.path: (row.caption, row.digest, np.array(vectors[slot - 1])) for slot, row in index.rows()
        }


def assert_same(one: Path, two: Path) -> None:
    a, b = contents(one), contents(two)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path][:2] == b[path][:2]
        np.testing.assert_allclose(a[path][2], b[path][2], atol=1e-5)


def test_files_images_and_arrays_have_the_models_embeddings(clip, tmp_path):
    paths = [paint(tmp_path / f"{i}.png", i) for i in range(5)]
    images = torch.cat([read_image(path) for path in paths])
    expected = torch.cat([clip.encode_image(image[None]) for image in images])
    torch.testing.assert_close(embed_images(clip, images, batch=2), expected)
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    torch.testing.assert_close(embed_images(clip, arrays, batch=2), expected, rtol=0, atol=1e-5)
    files = embed_images(clip, paths, batch=2)  # 8 bits after resizing
    assert torch.nn.functional.cosine_similarity(files, expected).min() > 0.999
    texts = ["a red heart", "红心"]
    torch.testing.assert_close(embed_texts(clip, texts), clip.encode_text(texts))
    assert embed_images(clip, []).shape == embed_texts(clip, []).shape == (0, 48)
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"broken\.png .not a picture"):
        embed_images(clip, [*paths, tmp_path / "broken.png"])


def test_an_index_has_every_pictures_embedding(clip, tmp_path):
    tally = run(clip, [gallery(tmp_path / "in", 11)], tmp_path / "index", batch=4)
    assert counts(tally) == (11, 0, 0, 0)
    found = contents(tmp_path / "index")
    expected = embed_images(clip, sorted(found))
    for path, vector in zip(sorted(found), expected, strict=True):
        np.testing.assert_allclose(found[path][2], vector, atol=1e-5)
        assert np.linalg.norm(found[path][2]) == pytest.approx(1, abs=1e-5)


def test_only_what_is_new_is_encoded_and_what_is_gone_leaves(clip, tmp_path):
    folder, index = gallery(tmp_path / "in", 9), tmp_path / "index"
    run(clip, [folder], index)
    assert counts(run(clip, [folder], index)) == (0, 9, 0, 0)
    paint(folder / "new.png", 100)
    changed = paint(folder / "0" / "000 ü.png", 101)
    os.utime(folder / "1" / "001 ü.png")  # touched, not changed
    (folder / "2" / "002 ü.png").unlink()
    broken = folder / "0" / "003 ü.png"
    broken.write_bytes(b"no picture any more")
    tally = run(clip, [folder], index)
    assert counts(tally) == (2, 6, 2, 1)
    assert [missed.path for missed in tally.skipped] == [str(broken)]
    run(clip, [folder], tmp_path / "fresh")
    assert_same(index, tmp_path / "fresh")
    torch.testing.assert_close(
        torch.from_numpy(contents(index)[str(changed)][2]),
        embed_images(clip, [changed])[0],
        rtol=0,
        atol=1e-5,
    )


def test_a_picture_changed_at_once_without_a_later_time_is_noticed(clip, tmp_path):
    path = paint(tmp_path / "in" / "a.bmp", 0, old=False)  # all of one length
    stat = path.stat()
    run(clip, [path.parent], tmp_path / "index")
    paint(path, 1, old=False)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert counts(run(clip, [path.parent], tmp_path / "index")) == (1, 0, 0, 0)


def test_sources_do_not_remove_each_others_pictures(clip, tmp_path):
    one, two = gallery(tmp_path / "one", 4), gallery(tmp_path / "one two", 5)
    index = tmp_path / "index"
    run(clip, [one], index)
    assert counts(run(clip, [two], index)) == (5, 0, 0, 0)
    assert counts(run(clip, [one, one / "0", two], index)) == (0, 9, 0, 0)
    (one / "0" / "000 ü.png").unlink()
    assert counts(run(clip, [two], index)) == (0, 5, 0, 0)
    assert counts(run(clip, [one / "0"], index)) == (0, 1, 1, 0)
    assert len(contents(index)) == 8


def test_captions_of_a_table_are_kept_and_brought_up_to_date(clip, tmp_path):
    folder, index = gallery(tmp_path / "in", 2), tmp_path / "index"
    table = tmp_path / "t.csv"
    line = "{},{}\n".format
    names = [f"in/{i}/{i:03} ü.png" for i in range(2)]
    table.write_text(
        "filepath,title\n" + line(names[0], "eins") + line(names[1], "zwei") + line(names[0], "noch")
    )
    assert counts(run(clip, [table], index)) == (2, 0, 0, 0)
    assert counts(run(clip, [folder], index)) == (0, 2, 0, 0)
    assert sorted(caption for caption, *_ in contents(index).values()) == ["eins", "zwei"]
    table.write_text("filepath,title\n" + line(names[0], "un"))
    assert counts(run(clip, [table], index)) == (0, 1, 1, 0)
    assert [caption for caption, *_ in contents(index).values()] == ["un"]


def test_a_folder_may_have_a_table_of_captions(clip, tmp_path):
    folder, index = gallery(tmp_path / "in", 3), tmp_path / "index"
    table = folder / "captions.csv"
    table.write_text("filepath,title\n1/001 ü.png,zwei\n", encoding="utf-8")
    assert counts(run(clip, [folder], index)) == (3, 0, 0, 0)
    assert sorted(caption for caption, *_ in contents(index).values()) == ["", "", "zwei"]
    table.write_text("filepath,title\n1/001 ü.png,deux\n", encoding="utf-8")
    assert counts(run(clip, [folder], index)) == (0, 3, 0, 0)
    assert sorted(caption for caption, *_ in contents(index).values()) == ["", "", "deux"]
    table.write_text("name,meaning\n")
    tally = run(clip, [folder], index)
    assert counts(tally) == (0, 3, 0, 1)
    assert "must have the column filepath" in tally.skipped[0].reason


def test_another_process_at_work_is_told_and_its_part_is_not_merged(clip, tmp_path):
    folder, index = gallery(tmp_path / "in", 4), tmp_path / "index"
    run(clip, [folder], index, share=(0, 2))
    with closing(Index(index / "parts" / "0-of-2")) as part, part.alone():
        for work in (lambda: merge(index), lambda: run(clip, [folder], index)):
            with pytest.raises(InputError, match="another process"):
                work()
    assert run(clip, [folder], index).merged > 0
    assert len(contents(index)) == 4


def test_shards_are_incremental_too(clip, tmp_path):
    files = [paint(tmp_path / "in" / f"{i}.png", i) for i in range(5)]

    def pack(some: list[Path], moment: int) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for path in some:
                tar.add(path, path.name)
                info = tarfile.TarInfo(path.with_suffix(".txt").name)
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        os.utime(tmp_path / "a.tar", ns=(moment, moment))

    pack(files, 10**18)
    assert counts(run(clip, [tmp_path / "a.tar"], tmp_path / "index", batch=2)) == (5, 0, 0, 0)
    assert counts(run(clip, [tmp_path / "a.tar"], tmp_path / "index")) == (0, 5, 0, 0)
    pack([*files[1:], paint(tmp_path / "in" / "new.png", 9)], 10**18 + 1)
    assert counts(run(clip, [tmp_path / "a.tar"], tmp_path / "index")) == (1, 4, 1, 0)
    assert counts(run(clip, [tmp_path / "a.tar"], tmp_path / "index")) == (0, 5, 0, 0)
    run(clip, [tmp_path / "in"], tmp_path / "loose")
    loose, packed = contents(tmp_path / "loose"), contents(tmp_path / "index")
    for path, (caption, digest, vector) in packed.items():
        assert caption == "abc"
        assert loose[path.replace("a.tar", "in")][1] == digest
        np.testing.assert_allclose(loose[path.replace("a.tar", "in")][2], vector, atol=1e-5)


def test_another_model_is_refused_and_another_precision_is_not(clip, model_folder, tmp_path):
    folder = gallery(tmp_path / "in", 3)
    run(clip, [folder], tmp_path / "index")
    other = load(f"local-dir:{model_folder('vit-quickgelu')}")
    with pytest.raises(InputError, match="made by"):
        run(other, [folder], tmp_path / "index")
    with closing(Index(tmp_path / "index")) as index:
        with pytest.raises(InputError, match="made by"):
            search(index, other, "a red heart")
        half = load(f"local-dir:{model_folder('vit')}", precision="bfloat16")
        assert len(search(index, half, "a red heart")) == 3


def test_a_fingerprint_is_of_weights_and_preprocessing(clip, model_folder, tmp_path):
    name = model_folder("vit")
    assert load(f"local-dir:{name}").fingerprint == clip.fingerprint
    copy = shutil.copytree(name, tmp_path / "copy")
    assert load(f"local-dir:{copy}").fingerprint == clip.fingerprint
    config = copy / "open_clip_config.json"
    config.write_text(config.read_text().replace("0.25", "0.26"))
    assert load(f"local-dir:{copy}").fingerprint != clip.fingerprint


def test_search_is_the_weighted_mean_of_cosines(clip, tmp_path):
    folder = gallery(tmp_path / "in", 8)
    run(clip, [folder], tmp_path / "index")
    picture = sorted(folder.rglob("*.png"))[2]
    with closing(Index(tmp_path / "index")) as index:
        (itself, *_) = search(index, clip, [Prompt(image=picture)])
        assert (itself.row.path, round(itself.score, 4)) == (str(picture), 1.0)
        found = search(index, clip, f"a red heart:3 | @{picture} | the blue whale:-0.5", top=5)
        paths = sorted(folder.rglob("*.png"))
        images = embed_images(clip, paths)
        heart, whale = embed_texts(clip, ["a red heart", "the blue whale"])
        scores = (3 * images @ heart + images @ embed_images(clip, [picture])[0] - 0.5 * images @ whale) / 4.5
        best = scores.topk(5)
        assert [match.row.path for match in found] == [str(paths[i]) for i in best.indices]
        assert [match.score for match in found] == pytest.approx(best.values.tolist(), abs=1e-5)
        vector = tuple((images[5] * 7).tolist())
        assert search(index, clip, [Prompt(embedding=vector)])[0].row.path == str(paths[5])
        for prompts, message in [
            ("a red heart | a red heart:-1.0", "cancel"),
            ([Prompt(embedding=(1.0, 2.0))], "48 numbers"),
            ("@nowhere.png", r"nowhere\.png"),
        ]:
            with pytest.raises(InputError, match=message):
                search(index, clip, prompts)
        with pytest.raises(InputError, match="top"):
            search(index, clip, "x", top=0)


def test_processes_share_the_work_and_their_parts_merge(clip, tmp_path):
    folder = gallery(tmp_path / "in", 20)
    index = tmp_path / "index"
    shares = [run(clip, [folder], index, share=(rank, 3)) for rank in range(3)]
    assert sum(tally.encoded for tally in shares) == 20
    assert min(tally.encoded for tally in shares) > 0
    assert counts(run(clip, [folder], index, share=(0, 3)))[0] == 0
    assert run(clip, [folder], index).merged == 20
    run(clip, [folder], tmp_path / "alone")
    assert_same(index, tmp_path / "alone")
    assert list(index.glob("parts/*")) == []
    paint(folder / "new.png", 99)
    again = [counts(run(clip, [folder], index, share=(rank, 2))) for rank in range(2)]
    assert [sum(column) for column in zip(*again, strict=True)] == [1, 20, 0, 0]
    assert merge(index) == 1
    assert len(contents(index)) == 21


def test_nothing_is_made_for_a_source_that_is_not_there(clip, tmp_path):
    with pytest.raises(InputError, match="nothing at"):
        run(clip, [gallery(tmp_path / "in", 2), tmp_path / "nowhere"], tmp_path / "index")
    with pytest.raises(InputError, match="batch"):
        run(clip, [tmp_path / "in"], tmp_path / "index", batch=0)
    assert not (tmp_path / "index").exists()


def test_a_picture_that_makes_the_model_fail_is_skipped(clip, tmp_path, monkeypatch):
    folder = gallery(tmp_path / "in", 4)
    real = indexing.encode
    monkeypatch.setattr(
        indexing, "encode", lambda *args: real(*args).index_fill(0, torch.tensor([1]), torch.nan)
    )
    assert counts(run(clip, [folder], tmp_path / "index")) == (3, 0, 0, 1)


INDEX = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from guidance.clip import indexing, load
indexing.COMMIT_SECONDS = 0
clip = load(sys.argv[1])
print("ready", flush=True)
for tally in indexing.embed(clip, [Path(sys.argv[2])], Path(sys.argv[3]), batch=4):
    print(tally.encoded, flush=True)
"""


def test_killed_at_any_moment_it_has_all_that_was_committed_and_goes_on(clip, tmp_path):
    folder, index = gallery(tmp_path / "in", 120), tmp_path / "index"
    run(clip, [folder], tmp_path / "whole")
    command = [sys.executable, "-c", INDEX, clip.name, folder, index]
    moments = random.Random(0)
    told = 0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.02, 0.15))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        process.wait()
        told += max((int(line) for line in lines), default=0)
        if (index / "index.sqlite").exists():
            with closing(Index(index)) as killed:
                assert len(killed) >= told
                told = len(killed)
                assert len(killed.nearest(np.ones(48, np.float32), 1000)) == told
            found, whole = contents(index), contents(tmp_path / "whole")
            assert all(np.abs(found[path][2] - whole[path][2]).max() < 1e-5 for path in found)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_same(index, tmp_path / "whole")
