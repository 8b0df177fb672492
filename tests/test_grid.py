"""Many drawings: each is the run that its own command makes, found again and gone on with; and the sheet."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import guidance as g
from guidance import cli
from guidance.clip.sheet import named_table, write_table
from guidance.drawings import plan

SMALL = f"{Path(__file__).parent / 'recipes' / 'toy.py'} --steps 3"


def grid(folder: Path, *words: str) -> int:
    return cli.main(["grid", *words, "--output", str(folder), "--sheet", str(folder / "grid.png")])


def runs(folder: Path) -> dict[str, float]:
    return {str(run.parent.name): run.stat().st_mtime_ns for run in folder.glob("*/*/run.json")}


def test_every_cell_is_a_run_and_none_is_made_twice(tmp_path: Path) -> None:
    assert grid(tmp_path, "a rose", "a fox", "--recipe", SMALL, "--seeds", "2") == 0
    first = runs(tmp_path)
    assert first.keys() == {"a-rose-0", "a-rose-1", "a-fox-0", "a-fox-1"}
    assert Image.open(tmp_path / "grid.png").size == (2 * 164 + 4, 2 * 184 + 20)
    assert grid(tmp_path, "a rose", "a fox", "--recipe", SMALL, "--seeds", "2", "--seed", "1") == 0
    second = runs(tmp_path)
    assert second.keys() - first.keys() == {"a-rose-2", "a-fox-2"}
    assert {name: second[name] for name in first} == first


def test_a_cell_is_what_its_own_command_draws(tmp_path: Path) -> None:
    plan(SMALL, "a rose", 3, tmp_path / "cell").make()
    command = [*SMALL.split(), "a rose", "--seed", "3", "--output", str(tmp_path / "alone")]
    assert cli.main(command) == 0
    cell, alone = (tmp_path / which / "toy" / "a-rose-3" for which in ("cell", "alone"))
    assert (cell / "final.svg").read_text() == (alone / "final.svg").read_text()
    facts = [json.loads((folder / "run.json").read_text()) for folder in (cell, alone)]
    assert facts[0]["settings"] | {"output": ""} == facts[1]["settings"] | {"output": ""}


def test_other_options_are_another_cell(tmp_path: Path) -> None:
    one = plan(SMALL, "-a rose", 0, tmp_path).make()
    other = plan(SMALL.replace("--steps 3", "--steps 4"), "-a rose", 0, tmp_path).make()
    assert one != other
    assert plan(SMALL, "-a rose", 0, tmp_path).make() == one


def test_a_prompt_is_no_other_word_of_the_recipe(tmp_path: Path) -> None:
    arguments = plan("sketch cat.png", "-a = cat", 0, tmp_path, "cuda").arguments
    assert (arguments["picture"], arguments["prompt"]) == (Path("cat.png"), "-a = cat")
    assert arguments["device"] == "cuda"
    assert plan("shapes --device cpu", "x", 0, tmp_path, "cuda").arguments["device"] == "cpu"
    assert plan("shapes", "x", 0, tmp_path).arguments["device"] == "auto"


def test_a_run_of_another_is_not_looked_at(tmp_path: Path) -> None:
    one = plan(SMALL, "cat", 1, tmp_path).make()
    for name in ("cat-10", "cat-1-2"):
        (tmp_path / "toy" / name).mkdir()
        (tmp_path / "toy" / name / "run.json").write_text("broken")
    assert plan(SMALL, "cat", 1, tmp_path).make() == one
    assert plan(SMALL.replace("--steps 3", "--steps 2"), "cat", 1, tmp_path).make().name == "cat-1-3"


def test_a_run_from_before_an_option_is_found(tmp_path: Path) -> None:
    one = plan(SMALL, "cat", 0, tmp_path).make()
    facts = json.loads((one / "run.json").read_text())
    del facts["settings"]["pause"]
    (one / "run.json").write_text(json.dumps(facts))
    assert plan(SMALL, "cat", 0, tmp_path).make() == one
    assert plan(f"{SMALL} --pause 0.001", "cat", 0, tmp_path).make() != one


def test_where_a_finished_run_was_made_does_not_matter(tmp_path: Path) -> None:
    small = "shapes --steps 1 --paths 2 --size 32 --crops 1 --film none"
    one = plan(small, "cat", 0, tmp_path).make()
    assert plan(small, "cat", 0, tmp_path, "cpu").make() == one


def test_a_sheet_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sheet in (tmp_path, Path(__file__) / "sheet.png"):
        words = ["x", "--recipe", SMALL, "--output", str(tmp_path), "--sheet", str(sheet)]
        assert cli.main(["grid", *words]) == 2
        assert "cannot write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_long_name_is_cut_to_what_fits(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    cells = [[(str(tmp_path / "white.png"), None, 0)]]
    page = named_table(cells, ["i" * 100_000], ["x"])[0]
    ink = (page[0, 20:36] < 0.5).any(0).nonzero()
    assert ink.min() >= 4
    assert 140 < ink.max() - ink.min() <= 160


def test_a_cell_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan(SMALL, "a rose", 0, tmp_path / "whole").make()
    monkeypatch.setattr(g.Run, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    died = plan(SMALL, "a rose", 0, tmp_path / "died")
    with pytest.raises(KeyboardInterrupt):
        died.make()
    monkeypatch.undo()
    folder = died.make()
    assert folder == died.make()
    assert len(runs(tmp_path / "died")) == 1
    assert (folder / "final.svg").read_text() == (whole / "final.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least one prompt"),
        (["x", "--seeds", "0"], "at least one prompt, one recipe and one seed, got 1 prompts, 1 recipes, 0"),
        (["x", "--recipe", "shpaes"], "no recipe 'shpaes'; did you mean shapes"),
        (["x", "--recipe", "shapes --stepz 3"], "cannot run 'shapes --stepz 3'"),
        (["x", "--recipe", "rank"], "does not draw a prompt"),
        (["x", "--recipe", "shapes 'x"], "cannot run"),
        (["x", "--recipe", ""], "no recipe ''"),
        (["x", "--recipe", "clipdraw --help"], "cannot run 'clipdraw --help'"),
        (["x", "--recipe", "clipdraw y"], "cannot run 'clipdraw y'"),
        (["x", "--recipe", "sketch"], "cannot run 'sketch'"),
        (["--file", "nowhere.txt"], "cannot read the prompts in nowhere.txt"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert grid(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_table_has_its_pictures_where_its_names_say(tmp_path: Path) -> None:
    colours = [["red", "lime"], ["blue", "black"], ["yellow", "white"]]
    for row in colours:
        for colour in row:
            Image.new("RGB", (40, 20), colour).save(tmp_path / f"{colour}.png")
    cells = [[(str(tmp_path / f"{colour}.png"), None, 0) for colour in row] for row in colours]
    page = named_table(cells, ["first", "second", "third"], ["left", "right"])[0]
    found = [
        [page[:, 20 + 184 * i + 16 + 2 + 80, 4 + 164 * j + 80].tolist() for j in range(2)] for i in range(3)
    ]
    assert found == [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]], [[1, 1, 0], [1, 1, 1]]]
    words = page[:, :16].amin(0)
    assert words[:, 4:164].amin() < 0.5
    assert words[:, 168:328].amin() < 0.5


def test_a_picture_that_is_gone_is_grey_and_a_large_table_has_smaller_ones(tmp_path: Path) -> None:
    gone = [[tmp_path / "gone.png"] * 30] * 30
    write_table(tmp_path / "table.png", gone, [str(i) for i in range(30)], [str(i) for i in range(30)])
    page = g.read_image(tmp_path / "table.png")
    assert page[0, 0].numel() < 13e6 < 30 * 30 * 160**2
    assert torch.isclose(page, torch.tensor(211 / 255)).float().mean() > 0.5
