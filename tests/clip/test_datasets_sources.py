"""Where training's pictures come from: tables, folders, shards, datasets; also from people who mean harm."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from guidance import InputError
from guidance.clip.datasets import Augmentation, Batches, Caption, Source, open_sources
from guidance.clip.datasets.opening import expand
from guidance.clip.pictures import Unusable


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, "png")
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def one(name: Path | str, cache: Path) -> Source:
    ((_, source),) = open_sources([str(name)], cache=cache)
    return source


def texts(source: Source) -> dict[str, list[tuple[str, str]]]:
    rows = (source.train[i] for i in range(len(source.train)))
    return {os.path.basename(row.picture): [(c.text, c.language) for c in row.captions] for row in rows}


def test_a_table_with_languages_a_split_and_several_captions(tmp_path):
    write(tmp_path / "a" / "1.png", png())
    rows = ["title\tfilepath\tlanguage\tsplit", "röd ros\ta/1.png\tsv\t", "red rose\t./a/1.png\ten\ttrain"]
    rows += rows[1:]  # twice there, once meant
    rows += ["blå\ta/2.png\tsv\tval", "\ta/3.png\tsv\t", "x\ta/4.png\t\ttest"]
    source = one(write(tmp_path / "t.tsv", "\ufeff" + "\n".join(rows)), tmp_path)
    assert texts(source) == {"1.png": [("röd ros", "sv"), ("red rose", "en")]}
    assert source.train[0].content() == png()
    assert [source.held_out[i].captions[0].text for i in range(2)] == ["blå", "x"]
    assert source.left_out() == f"{tmp_path}/t.tsv: 1 left out: 1 × no caption ({tmp_path}/a/3.png)"
    with pytest.raises(Unusable, match="No such file"):
        source.held_out[0].content()


def test_a_folder_with_a_table_and_translations(tmp_path):
    write(tmp_path / "captions.csv", "filepath,title,split\ni/1.png,red,train\ni/2.png,blue,val\n")
    write(
        tmp_path / "captions_multilingual.csv", "filepath,language,title\ni/1.png,de,rot\ni/2.png,de,blau\n"
    )
    source = one(tmp_path, tmp_path)
    assert texts(source) == {"1.png": [("red", "en"), ("rot", "de")]}
    assert source.held_out[0].captions == (Caption("blue", "en"), Caption("blau", "de"))
    write(tmp_path / "captions_multilingual.csv", "filepath,language,title\ni/3.png,de,rot\n")
    with pytest.raises(InputError, match=r"names i/3\.png, which captions\.csv does not"):
        one(tmp_path, tmp_path)


def test_a_folder_of_pictures_and_texts(tmp_path):
    write(tmp_path / "x" / "1.png", png())
    write(tmp_path / "x" / "1.txt", " a red\nthing \n")
    write(tmp_path / "2.png", png())
    write(tmp_path / "2.json", json.dumps({"caption": "zwei"}))
    write(tmp_path / "3.png", png())
    write(tmp_path / "4.png", png())
    os.mkfifo(tmp_path / "4.txt")
    write(tmp_path / "5.png", png())
    write(tmp_path / "5.txt", b"\xff\xfe caf\xe9")
    source = one(tmp_path, tmp_path)
    assert texts(source) == {
        "1.png": [("a red\nthing", "")],
        "2.png": [("zwei", "")],
        "5.png": [("\ufffd\ufffd caf\ufffd", "")],
    }
    wanted = f"{tmp_path}: 2 left out: 2 × no caption ({tmp_path}/3.png, {tmp_path}/4.png)"
    assert source.left_out() == wanted


def test_a_picture_that_is_a_pipe_or_a_folder_is_broken_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    long = "x" * 5000 + ".png"
    source = one(write(tmp_path / "t.csv", f"filepath,title\npipe.png,a\nfolder.png,b\n{long},c\n"), tmp_path)
    for number, reason in enumerate(("not a file", "not a file", "File name too long")):
        with pytest.raises(Unusable, match=reason):
            source.train[number].content()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns filepath and title"),
        (b"filepath,text\na.png,x\n", "columns filepath and title"),
        (b"filepath,title\n,x\n", "line 2"),
        (b"filepath,title\na\0.png,x\n", "t.csv"),
        (b"filepath,title\n\xff.png,x\n", "UTF-8"),
        (b"filepath,title\na.png," + b"x" * 200_000, "field larger"),
        (b"filepath,title\n", "no picture with a caption"),
        (b"filepath,title\na.png,\n", "no picture with a caption"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        one(write(tmp_path / "t.csv", content), tmp_path)


def test_shards_by_braces_any_row_at_any_time(tmp_path):
    for number in range(3):
        members = {f"{number}{i}.png": png("red" if i else "blue") for i in range(2)}
        members |= {f"{number}{i}.txt": f"text {number}{i}".encode() for i in range(2)}
        shard(tmp_path / f"s-{number:03d}.tar", dict(sorted(members.items())))
    source = one(f"{tmp_path}/s-{{000..002}}.tar", tmp_path)
    assert [text[0][0] for text in texts(source).values()] == [
        f"text {n}{i}" for n in range(3) for i in range(2)
    ]
    assert [source.train[i].content() for i in (5, 0, 3)] == [png("red"), png("blue"), png("red")]
    with pytest.raises(InputError, match=r"nothing at .*s-003\.tar"):
        one(f"{tmp_path}/s-{{000..003}}.tar", tmp_path)


class Bomb:
    """Whatever unpickles this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_shard_that_means_harm_does_none(tmp_path):
    sign, folder = tmp_path / "sign", tmp_path / "shards"
    folder.mkdir()
    bomb = pickle.dumps(Bomb(sign))
    huge = io.BytesIO()
    Image.new("1", (9000, 8000)).save(huge, "png")
    members = {
        "0.png": png(), "0.txt": b"good", "0.pyd": bomb, "0.pkl": bomb,
        "1.png": huge.getvalue(), "1.txt": b"a bomb of pixels",
        "2.png": bomb, "2.txt": b"a pickle",
        "../../3.png": png(), "../../3.txt": b"outside",
        "x" * 4000 + "/4.png": png(), "x" * 4000 + "/4.txt": b"long",
        "5.png": png(), "5.txt": b"x" * 100_000,
        "6.png": png(), "6.json": b"[" * 50_000,
        "\udcff7.png": png(), "\udcff7.txt": b"not Unicode",
    }  # fmt: skip
    path = shard(folder / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"k{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
            text = tarfile.TarInfo(f"k{kind.decode()}.txt")
            text.size = 1
            tar.addfile(text, io.BytesIO(b"x"))
    source = one(path, tmp_path)
    assert [t[0][0] for t in texts(source).values()] == [
        "good",
        "a bomb of pixels",
        "a pickle",
        "outside",
        "long",
    ]
    reasons = [missed.reason for missed in source.missed]
    assert sorted(reasons) == ["name is not Unicode"] * 2 + ["no caption"] * 2
    batches = Batches([(1.0, source)], Augmentation(8), batch=5, seed=0, most_broken=0.9)
    (batch,) = batches.iterate(0, 1)
    assert set(batch.captions[0]) == {"good", "outside", "long"}
    assert sorted(reason for reason in batches.broken.values()) == ["not a picture", "over 64 million pixels"]
    assert not sign.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    assert [path.name for path in folder.iterdir()] == ["a.tar"]


def test_a_shard_cut_short_gives_what_it_has(tmp_path):
    path = shard(tmp_path / "a.tar", {"0.png": png(), "0.txt": b"a", "1.png": png(), "1.txt": b"b"})
    path.write_bytes(path.read_bytes()[:2200])
    source = one(path, tmp_path)
    assert len(source.train) == 1
    assert f"1 left out: 1 × broken shard: bad header ({path})" in source.left_out()
    whole = shard(path, {"0.png": png(), "0.txt": b"a", "1.png": png(), "1.txt": b"b"}).read_bytes()
    assert one(path, tmp_path).missed == []
    write(path, whole[: 3 * 512 + 2 * 512 + 20])
    assert "unexpected end of data" in one(path, tmp_path).left_out()
    write(path, b"no tar")
    with pytest.raises(InputError, match=rf"no picture with a caption; .*broken shard.*{path}"):
        one(path, tmp_path)


def test_a_shard_of_names_without_end(tmp_path):
    """A header that says that the next one's name follows, again and again: tarfile reads it recursively."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5
    header = info.tobuf(tarfile.GNU_FORMAT) + b"a.png".ljust(512, b"\0")
    members = {"0.png": png(), "0.txt": b"a", "1.png": png()}
    good = shard(tmp_path / "a.tar", members).read_bytes()[: 6 * 512]
    source = one(write(tmp_path / "b.tar", good + header * 5000), tmp_path)
    assert texts(source) == {"0.png": [("a", "")]}


def test_weights_and_names_with_colons(tmp_path):
    table = "filepath,title\na.png,x\n"
    write(tmp_path / "t.csv", table)
    write(tmp_path / "t.csv:2", table)
    found = open_sources(
        [f"{tmp_path}/t.csv", f"{tmp_path}/t.csv:0.25", f"{tmp_path}/t.csv:1e2"], cache=tmp_path
    )
    assert [weight for weight, _ in found] == [1.0, 0.25, 100.0]
    with pytest.raises(InputError, match="must be a folder, or end"):
        open_sources([f"{tmp_path}/t.csv:2"], cache=tmp_path)
    with pytest.raises(InputError, match="between 1e-6 and 1e6, got 0"):
        open_sources([f"{tmp_path}/t.csv:0"], cache=tmp_path)
    with pytest.raises(InputError, match="at least one"):
        open_sources([], cache=tmp_path)
    for name in (
        "nowhere", "nowhere.csv", "wit:nowhere", "pipe:echo.tar", "x" * 5000, "x" * 5000 + ":2",
        "wit:" + "x" * 5000, "a.csv:nan", "a.csv:-1", "wit:x\0",
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"nothing at|no files of WIT"):
            open_sources([name], cache=tmp_path)


def test_braces_are_a_shells():
    assert expand("a{8..11}.{x,y}") == [f"a{n}.{e}" for n in (8, 9, 10, 11) for e in "xy"]
    assert expand("{008..010}") == ["008", "009", "010"]
    assert expand("{2..1}") == ["2", "1"]
    assert expand("{0..10}") == [str(n) for n in range(11)]
    assert expand("{00..10}")[:2] == expand("{0..01}") == ["00", "01"]
    assert expand("plain") == ["plain"]
    with pytest.raises(InputError, match="stands for over"):
        expand("{0..9999999999}")
    with pytest.raises(InputError, match="stands for over"):
        expand("{0..9999}{0..9999}")


def table_of_pictures(count: int = 5):
    datasets = pytest.importorskip("datasets")
    names = ["red", "lime", "blue", "white", "black"][:count]
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": png(name), "path": None} for name in names],
            "caption": [[name, f"a {name} thing"] for name in names],
            "language": ["en"] * count,
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.List(datasets.Value("string")),
                "language": datasets.Value("string"),
            }
        ),
    )


def test_parquet_files(tmp_path):
    table = table_of_pictures()
    table.to_parquet(tmp_path / "p-0.parquet")
    table.select([1]).to_parquet(tmp_path / "p-1.parquet")
    source = one(f"{tmp_path}/p-{{0..1}}.parquet", tmp_path / "cache")
    assert len(source.train) == 6
    assert source.train[5].captions == (Caption("lime", "en"), Caption("a lime thing", "en"))
    assert [source.train[i].content() for i in (5, 2)] == [png("lime"), png("blue")]
    batches = Batches([(1.0, source)], Augmentation(8), batch=6, seed=0)
    (batch,) = batches.iterate(0, 1)
    assert batch.images.shape == (1, 6, 3, 8, 8)


def test_parquet_written_by_others(tmp_path):
    """Plain bytes; a struct without a word that it is a picture; a path to what is none; nothing."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    os.mkfifo(tmp_path / "pipe.png")
    plain = pyarrow.table({"image": [png(), b"", None], "text": ["a", None, " "]})
    parquet.write_table(plain, tmp_path / "plain.parquet")
    source = one(tmp_path / "plain.parquet", tmp_path / "cache")
    assert source.train[0].content() == png()
    assert len(source.train) == 1
    name = tmp_path / "plain.parquet"
    assert source.left_out() == f"{name}: 2 left out: 2 × no caption ({name}[1], {name}[2])"
    empty = pyarrow.table({"image": [png(), None], "text": ["a", "b"], "split": ["TEST ", None]})
    parquet.write_table(empty, tmp_path / "empty.parquet")
    source = one(tmp_path / "empty.parquet", tmp_path / "cache")
    assert [len(rows) for rows in (source.train, source.held_out, source.missed)] == [1, 1, 0]
    assert source.held_out[0].captions == (Caption("a"),)
    with pytest.raises(Unusable, match="no picture in the row"):
        source.train[0].content()
    values = [{"bytes": png(), "path": "x.png"}, {"bytes": None, "path": str(tmp_path / "pipe.png")}]
    parquet.write_table(pyarrow.table({"image": values, "title": ["a", "b"]}), tmp_path / "struct.parquet")
    source = one(tmp_path / "struct.parquet", tmp_path / "cache")
    assert source.train[0].content() == png()
    with pytest.raises(Unusable, match="not a file"):
        source.train[1].content()
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"columns of pictures .* got a"):
        one(tmp_path / "other.parquet", tmp_path / "cache")
    write(tmp_path / "broken.parquet", b"PAR1 nothing")
    with pytest.raises(InputError, match="give whole parquet files"):
        one(tmp_path / "broken.parquet", tmp_path / "cache")


def test_datasets_in_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = datasets.DatasetDict({"train": table_of_pictures(4), "test": table_of_pictures(2)})
    parts.save_to_disk(tmp_path / "saved")
    source = one(f"hf:{tmp_path}/saved", tmp_path / "cache")
    assert (len(source.train), len(source.held_out)) == (4, 2)
    assert source.train[3].content() == png("white")
    write(tmp_path / "images" / "train" / "1.png", png("blue"))
    write(tmp_path / "images" / "train" / "metadata.csv", "file_name,text\n1.png,blue\n")
    source = one(f"hf:{tmp_path}/images", tmp_path / "cache")
    assert source.train[0].captions == (Caption("blue"),)
    assert source.train[0].content() == png("blue")


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    for name in (write(tmp_path / "a.parquet", b""), f"hf:{tmp_path}"):
        with pytest.raises(InputError, match=r"clip-guidance\[train\]"):
            open_sources([str(name)], cache=tmp_path)
