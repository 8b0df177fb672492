"""What pictures say of how they were made: kept whatever it is, read by others, left out on request."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe

from guidance import cli, media, metadata
from guidance.canvas.raster import Scene
from guidance.canvas.svg import read_svg, to_svg
from guidance.errors import InputError
from guidance.run import Run

TOY = Path(__file__).parent / "recipes" / "toy.py"
DC = "{http://purl.org/dc/elements/1.1/}"
CC = "{http://creativecommons.org/ns#}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
STROKE = Scene(
    points=torch.tensor([[0.1, 0.1], [0.4, 0.2], [0.6, 0.8], [0.9, 0.9]]),
    segments=torch.tensor([1]),
    widths=torch.tensor([[0.1]]),
    colours=torch.tensor([[[1.0, 0.0, 0.0]]]),
    opacity=torch.tensor([[1.0]]),
    background=torch.ones(3),
)
#: Everything that a command line can hold, with what breaks out of XML, JSON and PNG chunks made likely.
FRAGMENTS = [
    "]]>",
    "-->",
    "<!--",
    "&amp;",
    "</run>",
    '"',
    "\\",
    "\n",
    "\r",
    "\0",
    "\x1b",
    "\ufffe",
    "🦊",
    "אב",
    "\u202e",
]
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(CHARACTERS | st.sampled_from(FRAGMENTS), max_size=30).map("".join)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


def facts_of(prompt: str, **more: object) -> dict:
    return {"recipe": "clipdraw", "settings": {"prompt": prompt, **more}, "versions": {"torch": "2"}}


def written(folder: Path, facts: dict) -> tuple[Path, Path]:
    png, svg = folder / "a.png", folder / "a.svg"
    media.write_png(png, torch.rand(1, 3, 4, 4), metadata.for_png(facts))
    media.write_text(
        svg, to_svg(STROKE, 8, title=facts["settings"]["prompt"], metadata=metadata.for_svg(facts))
    )
    return png, svg


@given(prompt=TEXT, more=st.dictionaries(TEXT, VALUES | st.lists(VALUES, max_size=3), max_size=3))
@example(prompt="]]></metadata></svg><script>alert(1)</script>", more={})
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_comes_back(tmp_path: Path, prompt: str, more: dict) -> None:
    facts = facts_of(prompt) | {"settings": more | {"prompt": prompt}}
    png, svg = written(tmp_path, facts)
    assert metadata.read(png) == metadata.read(svg) == facts
    scene, size = read_svg(svg)
    assert size == (8, 8)
    assert torch.allclose(scene.points, STROKE.points, atol=1e-3)


@given(prompt=TEXT)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_others_read_the_prompt(tmp_path: Path, prompt: str) -> None:
    png, svg = written(tmp_path, facts_of(prompt))
    shown = "".join(c for c in prompt if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff"))
    in_xml = shown.replace("\r\n", "\n").replace("\r", "\n")  # as every reader of XML has it
    work = ElementTree.parse(svg).find(f".//{CC}Work")
    assert work is not None
    assert (work.findtext(f"{DC}title") or "") == in_xml
    text = media.read_text(png)
    assert text["Description"] == shown
    packet = ElementTree.fromstring(text["XML:com.adobe.xmp"].split("?>", 1)[1].rsplit("<?", 1)[0])
    assert (packet.findtext(f".//{DC}description/{RDF}Alt/{RDF}li") or "") == in_xml


@pytest.mark.parametrize("model", ["tiny", 'local-dir:/home/me/a, b: "c"', "a\\b, c"])
def test_the_parameters_are_what_web_uis_read(model: str) -> None:
    facts = facts_of("a fox, red\nhappy: yes", steps=9, seed=4, size=64, clip=model) | {"member": 2}
    *lines, last = metadata.for_png(facts)["parameters"].split("\n")
    # The pattern of AUTOMATIC1111's stable-diffusion-webui, infotext_utils.py.
    pairs = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))
    assert "\n".join(lines) == "a fox, red\nhappy: yes"
    assert (pairs["Steps"], pairs["Seed"]) == ("9", "6")
    assert "Size" not in pairs  # the setting is not the picture's
    assert (json.loads(pairs["Model"]) if pairs["Model"].startswith('"') else pairs["Model"]) == model


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.png", None, "there is no picture at"),
        ("a.png", b"\x89PNG\r\n\x1a\n broken", "cannot read"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "neither a PNG nor an SVG"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "does not say how it was made"),
        ("a.svg", b"<svg><run xmlns='urn:clip-guidance'>[1]</run></svg>", "does not say how it was made"),
        ("a.svg", b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "not safe"),
        ("a.svg", b"<svg><run xmlns='urn:clip-guidance'>" + b"[" * 100_000 + b"</run></svg>", "does not say"),
    ],
)
def test_what_does_not_say_is_told(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words):
        metadata.read(tmp_path / name)


def draw(model: Path, output: Path, *options: str) -> Path:
    common = [
        "--steps",
        "3",
        "--paths",
        "8",
        "--size",
        "48",
        "--clip",
        f"local-dir:{model}",
        "--best-of",
        "2",
    ]
    assert cli.main(["clipdraw", "Zanzibar <&>", *common, "--output", str(output), *options]) == 0
    return output / "clipdraw" / "zanzibar-0"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[..., Path]) -> Path:
    return draw(model_folder("vit"), tmp_path_factory.mktemp("drawn"))


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in {".png", ".svg", ".mp4"}
    }


def test_metadata_is_in_every_file_or_in_none(
    drawn: Path, tmp_path: Path, model_folder: Callable[..., Path]
) -> None:
    said = pictures(drawn)
    unsaid = pictures(draw(model_folder("vit"), tmp_path, "--no-metadata"))
    members = {f"members/{i}.{kind}" for i in "01" for kind in ("png", "svg")}
    assert said.keys() == unsaid.keys() == {"final.png", "final.svg", "sheet.png", "timelapse.mp4"} | members
    assert all(b"Zanzibar" in data for data in said.values())
    for data in unsaid.values():
        assert not re.search(rb"(?i)zanzibar|guidance|clipdraw", data)


def test_each_member_says_which_it_is(drawn: Path) -> None:
    for kind in ("png", "svg"):
        assert [metadata.read(drawn / "members" / f"{i}.{kind}")["member"] for i in (0, 1)] == [0, 1]
    best = json.loads((drawn / "run.json").read_text())["best"]
    assert (drawn / "final.png").read_bytes() == (drawn / "members" / f"{best}.png").read_bytes()
    assert "member" not in json.loads(media.read_text(drawn / "sheet.png")["guidance"])


def test_the_film_says_it_to_players(drawn: Path) -> None:
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(drawn / "timelapse.mp4"), "-f", "ffmetadata", "-"]
    told = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert "title=Zanzibar <&>" in told
    assert '"recipe": "clipdraw"' in told


@pytest.mark.parametrize("name", ["final.png", "members/0.svg", "run.json"])
def test_rerun_makes_the_same_bytes(tmp_path: Path, drawn: Path, name: str) -> None:
    assert cli.main(["rerun", str(drawn / name), "--output", str(tmp_path)]) == 0
    assert pictures(tmp_path / "clipdraw" / "zanzibar-0") == pictures(drawn)


def test_rerun_of_a_recipe_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(TOY), "dots", "--steps", "3", "--output", str(tmp_path / "a")]) == 0
    final = tmp_path / "a" / "toy" / "dots-0" / "final.svg"
    capsys.readouterr()
    assert cli.main(["rerun", str(final)]) == 2
    assert "of the recipe toy.py, none of ours" in capsys.readouterr().err
    assert cli.main(["rerun", str(final), "--recipe", str(TOY), "--output", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "toy" / "dots-0" / "final.svg").read_bytes() == final.read_bytes()


def test_a_recipe_of_ones_own_is_not_taken_for_ours_of_that_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "clipdraw.py"
    mine.write_text(TOY.read_text())
    assert cli.main([str(mine), "dots", "--steps", "1", "--output", str(tmp_path)]) == 0
    folder = tmp_path / "clipdraw" / "dots-0"
    assert str(tmp_path).encode() not in (folder / "final.png").read_bytes()
    capsys.readouterr()
    for file in (folder / "final.png", folder):
        assert cli.main(["rerun", str(file), "--output", str(tmp_path / "again")]) == 2
        assert "none of ours" in capsys.readouterr().err


READS = """
from pathlib import Path

def main(
    prompt: str, *, picture: Path | None = None, templates: str = "plain", clip: str = "tiny", seed: int = 0,
    output: Path = Path("outputs"), resume: Path | None = None,
):
    "Tell."
    print(clip)
"""


def test_rerun_names_models_and_files_and_notes_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reads.py").write_text(READS)
    cat, mask, picture, lines = files = [tmp_path / name for name in ("cat.png", "m.png", "p.png", "lines")]
    for path in files:
        path.write_text("before")
    prompt = f"a fox [@{mask}] | @{cat}:0.5 => @{tmp_path / 'none.png'}"
    arguments = {"prompt": prompt, "picture": picture, "templates": str(lines)}
    arguments |= {"clip": "tiny | local-dir:model:0.5", "seed": 0, "output": tmp_path, "resume": None}
    said = Run(str(tmp_path / "reads.py"), arguments)._said()
    assert said is not None
    assert said["files"].keys() == {str(path) for path in files}
    svg = written(tmp_path, said)[1]
    command = ["rerun", str(svg), "--recipe", str(tmp_path / "reads.py")]
    assert cli.main(command) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: {svg} is made with local-dir:model:0.5, ")
    assert all(str(path) in note for path in files)
    lines.write_text("after")
    assert cli.main(command) == 0
    changed = [line for line in capsys.readouterr().err.splitlines() if "changed" in line]
    assert changed == [f"note: {lines} has changed since: the picture may differ"]


@pytest.mark.parametrize("clip", ["hf-hub:a/b", "tiny | ViT-B/32:0.5", "hf-hub:tiny"])
def test_rerun_asks_before_it_takes_a_model_from_the_internet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clip: str
) -> None:
    (tmp_path / "reads.py").write_text(READS)
    _, svg = written(tmp_path, facts_of("x", clip=clip))
    command = ["rerun", str(svg), "--recipe", str(tmp_path / "reads.py")]
    assert cli.main(command) == 2
    assert "add --trust" in capsys.readouterr().err
    assert cli.main([*command, "--trust"]) == 0
    assert capsys.readouterr().out == f"{clip}\n"


def test_no_file_commands_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reads.py").write_text(READS)
    evil = "\x1b]0;evil\x07\u202e"
    facts = facts_of("x") | {"versions": {"torch": evil}}
    for changed in (facts, facts | {"recipe": evil}, facts_of("x", clip=evil)):
        png, _ = written(tmp_path, changed)
        own = [] if changed["recipe"] == evil else ["--recipe", str(tmp_path / "reads.py")]
        cli.main(["rerun", str(png), *own])
        err = capsys.readouterr().err
        assert "evil" in err
        assert err.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (facts_of("x", bogus=1), "has the settings prompt, bogus"),
        (facts_of("x", steps="many"), "has steps 'many', not int"),
        (facts_of("x") | {"recipe": "../../evil"}, "none of ours"),
        (facts_of("x", resume="/etc"), "has the settings prompt, resume"),
    ],
)
def test_rerun_believes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], facts: dict, words: str
) -> None:
    for path in written(tmp_path, facts):
        assert cli.main(["rerun", str(path)]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert len([line for line in err.splitlines() if line.startswith("guidance: ")]) == 1


def test_rerun_writes_where_it_is_told_and_notes_other_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    facts = facts_of("dots", steps=1, output=str(elsewhere)) | {"recipe": "toy"}
    _, svg = written(tmp_path, facts)
    assert cli.main(["rerun", str(svg), "--recipe", str(TOY), "--output", str(tmp_path / "here")]) == 0
    assert "note: made with torch 2, here is " in capsys.readouterr().err
    assert not elsewhere.exists()
    assert (tmp_path / "here" / "toy" / "dots-0").is_dir()
