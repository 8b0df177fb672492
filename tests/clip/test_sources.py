"""What is found in folders, tables and shards, made with the standard library's own writers."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from guidance import InputError
from guidance.clip import sources
from guidance.clip.pictures import Unusable
from guidance.clip.sources import Found, Missed, covers, look, read


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, "png")
    return stream.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def split(found) -> tuple[list[Found], dict[str, str]]:
    found = list(found)
    missed = {os.path.basename(each.path): each.reason for each in found if isinstance(each, Missed)}
    return [each for each in found if isinstance(each, Found)], missed


def content(found: Found) -> bytes:
    return read(found.file, found.offset, found.length).data


NAMES = [
    "a.png", "Ä ö.png", "猫 🐈‍⬛.PNG", "e\u0301.png", "it's; DROP TABLE.png", "%_.png", "a\nb.png",
    "x" * 200 + ".png",
]  # fmt: skip


def test_a_folder_and_the_folders_in_it_whatever_their_names(tmp_path):
    for i, name in enumerate(NAMES):
        write(tmp_path / f"földer {i}" / name, png())
    write(tmp_path / "notes.txt", b"text")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    found, missed = split(look(tmp_path))
    assert [each.path for each in found] == [str(tmp_path / f"földer {i}" / n) for i, n in enumerate(NAMES)]
    assert missed == {
        "notes.txt": "not a picture",
        "pipe.png": "not a file",
        "gone.png": "No such file or directory",
    }
    assert all(content(each) == png() and each.caption is None for each in found)
    assert all(covers(tmp_path, each.path, each.source) for each in found)


def test_a_name_that_is_not_unicode_is_missed_and_told(tmp_path):
    write(tmp_path / os.fsdecode(b"caf\xe9.png"), png())
    found, missed = split(look(tmp_path))
    assert found == []
    assert missed == {"caf\\udce9.png": "name is not Unicode"}


def test_one_picture_is_a_source_with_any_ending(tmp_path):
    path = write(tmp_path / "picture", png())
    (found,) = look(path)
    assert content(found) == png()


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_table_names_files_beside_it(tmp_path, ending, delimiter):
    write(tmp_path / "images" / "a.png", png())
    rows = [["title", "filepath"], ["röd; ros", "images/a.png"], ["", "images/b.png"], ["nothing", ""]]
    text = "\ufeff" + "\n".join(delimiter.join(row) for row in rows)
    table = write(tmp_path / f"captions.{ending}", text.encode())
    found, missed = split(look(table))
    assert [(each.path, each.caption) for each in found] == [(str(tmp_path / "images" / "a.png"), "röd; ros")]
    assert missed == {"b.png": "No such file or directory", f"captions.{ending}, line 4": "no filepath"}
    assert covers(table, found[0].path, found[0].source)
    assert not covers(table, found[0].path, str(tmp_path))


@pytest.mark.parametrize("text", [b"", b"path,title\na.png,b\n", b"filepath\n\xff\xfe.png\n"])
def test_a_table_that_is_none(tmp_path, text):
    with pytest.raises(InputError, match=r"t\.csv"):
        list(look(write(tmp_path / "t.csv", text)))


def test_a_table_with_a_name_that_no_file_can_have(tmp_path):
    table = write(tmp_path / "t.csv", b"filepath,title\na\0.png,x\n" + b"y" * 5000 + b".png,x\n")
    found, missed = split(look(table))
    assert found == []
    assert len(missed) == 2


def test_a_shard_sample_by_sample(tmp_path):
    path = shard(
        tmp_path / "pictures 1.tar",
        {
            "a/0.png": png(),
            "a/0.txt": "röd".encode(),
            "a/1.json": json.dumps({"caption": "blå"}).encode(),
            "a/1.png": png("blue"),
            "b/1.left.png": png("lime"),
            "b/1.cls": b"3",
            "2.png": png("white"),
            "2.json": b"[" * 60000,
            "3.png": png("black"),
            "3.json": json.dumps({"text": "\ud800 half"}).encode(),
        },
    )
    found, missed = split(look(path))
    assert [(each.path.removeprefix(f"{path}/"), each.caption) for each in found] == [
        ("a/0.png", "röd"), ("a/1.png", "blå"), ("b/1.left.png", ""), ("2.png", ""), ("3.png", "? half"),
    ]  # fmt: skip
    colours = ["red", "blue", "lime", "white", "black"]
    assert [content(each) for each in found] == [png(colour) for colour in colours]
    assert missed == {"1.cls": "not a picture"}
    assert all(covers(path, each.path, each.source) for each in found)


def test_a_shard_that_is_cut_short_or_none(tmp_path):
    path = shard(tmp_path / "a.tar", {f"{i}.png": png() + bytes(2000) for i in range(4)})
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * 3072 + 600])
    found, missed = split(look(path))
    assert [os.path.basename(each.path) for each in found][:2] == ["0.png", "1.png"]
    assert missed["a.tar"].startswith("broken shard")
    assert content(found[1]).startswith(png())
    path.write_bytes(b"no shard" * 200)
    assert split(look(path))[1]["a.tar"].startswith("broken shard")


def test_a_shards_links_devices_and_outer_paths_lead_nowhere(tmp_path):
    secret = write(tmp_path / "secret.png", png("black"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
        info = tarfile.TarInfo("../secret.png")
        info.size = len(png())
        tar.addfile(info, io.BytesIO(png()))
    (found,), missed = split(look(tmp_path / "a.tar"))
    assert content(found) == png()  # the shard's own bytes
    assert missed == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "secret.png"]


def test_a_member_that_claims_too_much_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", png())
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    with pytest.raises(Unusable, match="over"):
        read(str(path), None, 0)
    with pytest.raises(Unusable, match="over"):
        read(str(path), 0, 2**60)


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", png())
    real = os.fstat
    calls = []

    def fstat(number: int) -> os.stat_result:
        calls.append(number)
        if len(calls) == 2:
            path.write_bytes(png("blue") + b"more")
        return real(number)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(Unusable, match="changed"):
        read(str(path), None, 0)


def test_the_time_of_a_file_vouches_for_it_only_when_it_is_old(tmp_path):
    path = write(tmp_path / "a.png", png())
    assert read(str(path), None, 0).modified == 0
    os.utime(path, ns=(10**18, 10**18))
    assert read(str(path), None, 0).modified == 10**18


def test_nothing_there(tmp_path):
    for name in ("nowhere", "a\0b", os.fsdecode(b"\xff")):
        with pytest.raises(InputError):
            look(tmp_path / name)
