"""The recipes `classify` and `languages` as their users meet them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guidance import cli, media
from guidance.clip import load
from guidance.clip.languages import compare, keep, read_names
from guidance.errors import InputError

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 0.8, 0.0), "blue": (0.0, 0.0, 1.0)}
Run = Callable[..., tuple[str, str]]


def disc(path: Path, colour: str, radius: float = 0.7, size: int = 64) -> Path:
    """A disc of a colour on white."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = ((x**2 + y**2) < radius**2).float()
    paint = torch.tensor(COLOURS[colour]).view(1, 3, 1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_png(path, 1 - inside * (1 - paint))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must succeed; returns what it printed, on stdout and on stderr."""

    def call(*tokens: object) -> tuple[str, str]:
        assert cli.main([str(token) for token in tokens]) == 0
        return capsys.readouterr()

    return call


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three labels, "red circle" twice, and one of the green ones in the folder of the blue ones."""
    folder = tmp_path / "set"
    for name, colour in (("a", "red"), ("b", "red")):
        disc(folder / "red circle" / f"{name}.png", colour)
    disc(folder / "green circle" / "a.png", "green")
    disc(folder / "blue circle" / "a.png", "blue")
    disc(folder / "blue circle" / "sub" / "wrong.png", "green")
    return folder


def test_pictures_get_their_labels(tmp_path: Path, run: Run) -> None:
    for colour in COLOURS:
        disc(tmp_path / "ünï 红" / f"{colour} [x].png", colour)
    labels = "red circle,green circle,blue circle"
    out, _ = run("classify", tmp_path / "ünï 红", "--labels", labels, "--json")
    pictures = json.loads(out)["pictures"]
    assert [Path(picture["path"]).stem[:-4] for picture in pictures] == ["blue", "green", "red"]
    for picture in pictures:
        assert next(iter(picture["labels"])).split()[0] in picture["path"]
        chances = list(picture["labels"].values())
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=1e-5)

    out, _ = run("classify", tmp_path / "ünï 红" / "red [x].png", "--labels", labels, "--top", 1)
    assert "red circle" in out
    assert "green circle" not in out


def test_the_probabilities_are_those_of_zero_shot(tmp_path: Path, run: Run, model_folder: Callable) -> None:
    from guidance.clip.templates import OPENAI
    from guidance.clip.zero_shot import zero_shot

    name = f"local-dir:{model_folder('vit')}"
    picture = disc(tmp_path / "a.png", "red", size=32)  # as large as the model sees
    out, _ = run(
        "classify", picture, "--labels", "red fox,the snow", "--templates", "openai", "--clip", name, "--json"
    )
    got = json.loads(out)["pictures"][0]["labels"]
    expected = zero_shot(load(name), media.read_image(picture), ["red fox", "the snow"], OPENAI)[0].tolist()
    assert [got["red fox"], got["the snow"]] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_read_is_skipped_counted_and_listed(tmp_path: Path, run: Run) -> None:
    good = disc(tmp_path / "good.png", "red")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:100])
    (tmp_path / "notes.txt").write_text("no picture")
    out, err = run("classify", tmp_path, "--labels", "cat,dog")
    assert str(good) in out
    assert "skipped 2 of 3 files" in err
    assert all(name in err for name in ("half.png", "notes.txt"))
    out, err = run("classify", tmp_path, "--labels", "cat,dog", "--json")
    assert {Path(path).name for path in json.loads(out)["skipped"]} == {"half.png", "notes.txt"}


def test_a_labelled_folder_is_evaluated(labelled: Path, run: Run) -> None:
    out, _ = run("classify", labelled, "--evaluate", "--json")
    facts = json.loads(out)
    assert facts["count"] == 5
    assert facts["top1"] == pytest.approx(4 / 5)
    assert facts["top5"] == 1
    assert facts["labels"] == {
        "blue circle": {"pictures": 2, "recall": 0.5},
        "green circle": {"pictures": 1, "recall": 1.0},
        "red circle": {"pictures": 2, "recall": 1.0},
    }
    assert facts["confusions"] == [{"label": "blue circle", "taken_for": "green circle", "times": 1}]
    out, _ = run("classify", labelled, "--evaluate")
    assert all(word in out for word in ("80.0%", "100.0%", "50.0%", "green circle"))


def test_tables_of_labels_with_a_picture_each_are_left_out(tmp_path: Path, run: Run) -> None:
    for colour in COLOURS:
        disc(tmp_path / f"{colour} circle" / "a.png", colour)
    out, _ = run("classify", tmp_path, "--evaluate")
    assert out == "pictures  labels  top-1   top-5\n3         3       100.0%  100.0%\n"


def test_captions_are_labels_too(tmp_path: Path, run: Run) -> None:
    rows = ["filepath,title,split"]
    for colour in COLOURS:
        disc(tmp_path / "images" / f"{colour}.png", colour)
        rows.append(f'images/{colour}.png,"{colour} circle",train')
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    out, _ = run("classify", tmp_path, "--evaluate", "--json")
    facts = json.loads(out)
    assert facts["top1"] == 1
    assert list(facts["labels"]) == ["red circle", "green circle", "blue circle"]


def test_more_labels_than_the_folder_has(labelled: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("red circle\ngreen circle\nblue circle\npizza\n")
    out, _ = run("classify", labelled, "--evaluate", "--labels", f"@{file}", "--json")
    assert json.loads(out)["labels"]["pizza"] == {"pictures": 0, "recall": None}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["--labels", "cat,dog"], "name pictures or folders, got 0"),
        (["good.png"], "--labels cat,dog"),
        (["good.png", "--labels", "cat"], "at least two labels"),
        (["good.png", "--labels", "cat,cat"], "'cat' again"),
        (["good.png", "--labels", "cat,"], "must not be empty"),
        (["good.png", "--labels", "@nowhere"], "cannot read the labels in 'nowhere'"),
        (["good.png", "--labels", "cat,dog", "--top", "0"], "top must be at least 1, got 0"),
        (["good.png", "--labels", "cat,dog", "--templates", "opnai"], "plain, openai or a text file"),
        (["good.png", "--labels", "cat,dog", "--clip", "tinny"], "tiny"),
        (["nowhere.png", "--labels", "cat,dog"], "nowhere.png"),
        (["broken.png", "--labels", "cat,dog"], "no picture to read; 1 files were skipped"),
        (["empty", "--labels", "cat,dog"], "no picture to read"),
        (["good.png", "--evaluate"], "a folder of labelled pictures is needed"),
        (["empty", "--evaluate"], "no folders named like labels"),
        (["empty", "empty", "--evaluate"], "one labelled folder, got 2"),
        (["set", "--evaluate"], "at least two labels"),
        (["set", "--evaluate", "--labels", "cat,dog"], "lacks a label of the folder, 'red'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tokens: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    disc(Path("good.png"), "red")
    disc(Path("set/red/good.png"), "red")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("empty").mkdir()
    assert cli.main(["classify", *tokens]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("guidance: ")
    assert err.count("\n") == 1
    assert words in err


NAMES = {
    "en": {"red": "red circle", "green": "green circle", "blue": "blue circle"},
    "es": {"red": "círculo rojo", "green": "círculo verde", "blue": "círculo azul"},
    "xx": {"red": "blue circle", "green": "blue circle", "blue": "green circle"},  # all wrong
}


@pytest.fixture
def translated(tmp_path: Path) -> Path:
    """The names of three discs in three languages, of which one is nonsense, in one table."""
    rows = ["filepath,language,title"]
    for language, names in NAMES.items():
        for colour, name in names.items():
            disc(tmp_path / f"{colour}.png", colour)
            rows.append(f"{colour}.png,{language},{name}")
    (tmp_path / "names.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "names.csv"


def test_languages_are_reported(translated: Path, run: Run) -> None:
    out, _ = run("languages", translated, "--json")
    facts = {language["language"]: language for language in json.loads(out)["languages"]}
    assert facts["en"]["first"] == facts["en"]["ten"] == 1
    assert facts["en"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert facts["xx"]["first"] == 0
    assert facts["xx"]["ten"] == 1
    assert facts["es"]["cosine"] > facts["xx"]["cosine"]
    assert facts["xx"]["others"] > facts["en"]["others"]
    table, _ = run("languages", translated)
    assert table.index("\nen ") < table.index("\nxx ")


def test_the_two_formats_and_broken_pictures(translated: Path, run: Run) -> None:
    folder = translated.parent
    english, *others = (
        "\n".join(f"{colour}.png,{language},{name}" for colour, name in names.items())
        for language, names in NAMES.items()
    )
    (folder / "captions.csv").write_text("filepath,title\n" + english.replace(",en,", ","), encoding="utf-8")
    multilingual = "filepath,language,title\n" + "\n".join(others)
    (folder / "captions_multilingual.csv").write_text(multilingual, encoding="utf-8")
    as_folder, as_table = run("languages", folder, "--json"), run("languages", translated, "--json")
    assert json.loads(as_folder[0]) == json.loads(as_table[0])
    (folder / "green.png").write_bytes(b"broken")
    facts = json.loads(run("languages", translated, "--json")[0])
    assert [Path(path).name for path in facts["skipped"]] == ["green.png"]
    assert [language["names"] for language in facts["languages"]] == [2, 2, 2]
    (folder / "green.png").unlink()
    assert json.loads(run("languages", translated, "--json")[0])["languages"] == facts["languages"]
    assert facts["languages"][0]["first"] == 1


def test_agreement_is_what_a_plain_loop_counts(model_folder: Callable) -> None:
    clip = load(f"local-dir:{model_folder('vit')}")
    generator = torch.Generator().manual_seed(0)
    words = ["red", "fox", "snow", "whale", "heart", "the"]
    names = [(i % 40, f"{words[i % 6]} {words[i // 6 % 5]}") for i in range(60)]  # 30 names, each twice
    texts = {title: clip.encode_text([title])[0] for _, title in names}
    noise = torch.randn(2, 40, clip.embed_dim, generator=generator)
    pictures = torch.stack([texts[names[i][1]] for i in range(40)]) + 0.1 * noise[0]
    english = torch.nn.functional.normalize(noise[1], dim=-1)
    ranks, cosines, others = [], [], []
    for picture, title in names:
        right = {i for i, other in names if other == title}
        order = sorted(range(40), key=lambda i: -float(texts[title] @ pictures[i]))
        ranks.append(next(rank for rank, i in enumerate(order) if i in right))
        cosines.append(float(texts[title] @ english[picture]))
        others += [float(texts[title] @ english[i]) for i in range(40) if i != picture]
    result = compare(clip, pictures, english, "xx", names)
    assert 0 < sum(rank < 1 for rank in ranks) < 60
    assert result.first == pytest.approx(sum(rank < 1 for rank in ranks) / 60)
    assert result.ten == pytest.approx(sum(rank < 10 for rank in ranks) / 60)
    assert result.cosine == pytest.approx(sum(cosines) / 60, abs=1e-5)
    assert result.others == pytest.approx(sum(others) / len(others), abs=1e-5)


def test_names_of_readable_pictures_are_renumbered() -> None:
    names = {"en": [(0, "a"), (2, "c"), (1, "b")], "de": [(2, "C")], "fr": [(1, "B")]}
    files = [Path("/a"), Path("/b"), Path("/c")]
    assert keep(names, files, ["/a", "/c"]) == {"en": [(0, "a"), (1, "c")], "de": [(1, "C")]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("filepath,title\na.png,cat\n", "the language of every title"),
        ("filepath,language,title\na.png,en,cat\n", "English only"),
        ("filepath,language,title\na.png,de,Katze\n", "one English name .* has 0"),
        ("filepath,language,title\na.png,en,cat\n./a.png,en,dog\n", "has 2"),
        ("filepath,language\na.png,en\n", "columns filepath and title"),
        ("filepath,language,title\na.png,en,\n", "line 2"),
        ("", "columns"),
    ],
)
def test_wrong_names_are_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "names.csv").write_text(content)
    with pytest.raises(InputError, match=told):
        read_names(tmp_path / "names.csv")
    with pytest.raises(InputError, match="cannot read the captions"):
        read_names(tmp_path / "nowhere.csv")
    (tmp_path / "names.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the captions"):
        read_names(tmp_path / "names.csv")
