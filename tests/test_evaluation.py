"""Evaluation: what the judge sees and ranks, who may judge, and what the recipe writes."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import guidance as g
from guidance import cli
from guidance.clip.zero_shot import evaluate as compare
from guidance.evaluation import (
    Drawn,
    Judge,
    Judged,
    Task,
    check_judge,
    read_distractors,
    read_drawn,
    read_tasks,
    summarise,
)
from guidance.losses.clip import clip_score
from guidance.recipe import load
from guidance.shipped import recipes

Folder = Callable[[str], Path]
SMALL = "shapes --steps 1 --paths 2 --size 32 --crops 1"


def picture(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    g.write_png(path, torch.rand(1, 3, 5, 4).repeat_interleave(8, 2).repeat_interleave(8, 3))
    return path


def test_the_names_are_what_the_readme_says() -> None:
    names, tasks = read_distractors(), read_tasks(languages=("en", "de", "es", "ja", "ru", "zh"))
    assert len(set(names)) == len(names) == 1571
    assert len(tasks) == 600
    assert {task.name for task in tasks} <= set(names)
    assert all(task.name == task.prompt for task in tasks if task.language == "en")
    assert Task("sun", "ja", "太陽") in tasks
    assert read_tasks(languages=("de",), count=2) == tasks_of("de", "red heart:rotes Herz", "pizza:Pizza")


def tasks_of(language: str, *pairs: str) -> list[Task]:
    return [Task(name, language, prompt) for name, prompt in (pair.split(":") for pair in pairs)]


def test_ranks_are_those_of_the_classifier(tmp_path: Path, model_folder: Folder) -> None:
    clip = g.load(f"local-dir:{model_folder('vit')}")
    names = ["a red heart", "a fox", "the blue whale", "sun", "house", "rose", "cat"]
    judge = Judge(clip, names)
    files = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    tasks = [Task(names[i], "de", "?") for i in range(5)]
    judged = [
        judge.judge(Drawn("r", task, i, file, None))
        for i, (task, file) in enumerate(zip(tasks, files, strict=True))
    ]
    scores = torch.stack(
        [
            torch.stack([clip_score(clip, [g.Prompt(text=name)], g.read_image(file))[0] for name in names])
            for file in files
        ]
    )
    order = scores.argsort(1, descending=True)
    assert [each.rank for each in judged] == [order[i].tolist().index(i) + 1 for i in range(5)]
    assert [each.guess for each in judged] == [names[i] for i in order[:, 0]]
    assert [each.score for each in judged] == pytest.approx(scores[range(5), range(5)].tolist(), abs=1e-4)
    (found,) = summarise(judged)
    assert found.first.value == pytest.approx(compare(scores, list(range(5))).top1)


def judged(recipe: str, language: str, name: str, rank: int, seed: int = 0) -> Judged:
    return Judged(recipe, language, name, name, seed, f"{name}.png", rank, "x", 0.5)


def test_summaries_are_of_recipes_and_languages_and_names_are_the_clusters() -> None:
    rows = [
        judged("a", language, name, rank, seed)
        for seed in range(2)
        for language in ("en", "de")
        for name, rank in (("sun", 1), ("rose", 10), ("key", 11))
    ]
    found = summarise([*rows, judged("b", "en", "sun", 2)])
    assert [(s.recipe, s.language, s.drawings, s.names) for s in found] == [
        ("a", "en", 6, 3),
        ("a", "de", 6, 3),
        ("a", "all", 12, 3),
        ("b", "en", 1, 1),
    ]
    assert [round(s.ten.value, 3) for s in found] == [0.667, 0.667, 0.667, 1]
    assert [round(s.first.value, 3) for s in found] == [0.333, 0.333, 0.333, 0]
    # Seeds and languages say the same of every name, so that they make nothing surer.
    assert found[0].ten == found[2].ten


def run(output: Path, *words: object) -> int:
    return cli.main(["evaluate", *map(str, words), "--output", str(output)])


@pytest.fixture
def models(model_folder: Folder) -> tuple[str, list[object]]:
    """A judge, and the options of a small evaluation guided by another model."""
    guide = f"local-dir:{model_folder('vit')}"
    return f"local-dir:{model_folder('timm')}", ["--recipe", f"{SMALL} --clip {guide}", "--count", 1]


def test_drawings_are_made_judged_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: tuple[str, list[object]]
) -> None:
    judge, options = models
    words = [*options, "--languages", "en,de", "--judge", judge]
    assert run(tmp_path, *words) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("first ten", "CLIP score", "all", "shapes"))
    with (tmp_path / "judged.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["language"], row["name"], row["prompt"]) for row in rows] == [
        ("en", "red heart", "red heart"),
        ("de", "red heart", "rotes Herz"),
    ]
    assert all(1 <= int(row["rank"]) <= 1571 and Path(row["picture"]).exists() for row in rows)
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert facts["names"] == 1571
    assert [each["language"] for each in facts["results"]] == ["en", "de", "all"]
    assert len(list(tmp_path.glob("shapes-*.png"))) == 2

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shapes/*/run.json")}
    assert len(before) == 2
    assert run(tmp_path, *words, "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("shapes/*/run.json")} == before

    # The same from the folder of the runs, whose prompts say what was to be drawn.
    assert run(tmp_path / "again", tmp_path / "shapes", "--judge", judge, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert {each["language"]: each["first"]["value"] for each in again["results"]} == {
        each["language"]: each["first"]["value"] for each in facts["results"]
    }
    assert again["results"][0]["score"] in [each["score"] for each in facts["results"]]


def test_labelled_pictures_can_be_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Folder
) -> None:
    for i, label in enumerate(["sun", "my own thing"]):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        picture(tmp_path / "pictures" / label / "0.png", i)
    words = [tmp_path / "pictures", "--judge", f"local-dir:{model_folder('timm')}", "--json"]
    assert run(tmp_path / "out", *words) == 2
    assert "not known" in capsys.readouterr().err
    assert run(tmp_path / "out", *words, "--force") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["names"] == 1572
    assert sum(each["drawings"] for each in facts["results"] if each["language"] != "all") == 2


def test_the_guide_does_not_judge_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Folder
) -> None:
    copy = tmp_path / "another name"
    shutil.copytree(model_folder("vit"), copy)
    words = ["--recipe", f"{SMALL} --clip local-dir:{model_folder('vit')}", "--count", 1]
    words += ["--judge", f"local-dir:{copy}"]
    assert run(tmp_path / "out", *words) == 2
    assert "cannot judge as well" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "out", *words, "--force") == 0


def test_a_guide_that_was_trained_anew_does_not_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Folder
) -> None:
    guide = tmp_path / "guide"
    shutil.copytree(model_folder("vit"), guide)
    words = ["--recipe", f"{SMALL} --clip local-dir:{guide}", "--count", 1]
    words += ["--judge", f"local-dir:{model_folder('timm')}"]
    assert run(tmp_path / "out", *words) == 0
    shutil.rmtree(guide)
    shutil.copytree(model_folder("vit-layerscale"), guide)
    assert run(tmp_path / "out", *words) == 2
    assert "has changed since it guided" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", 0], "seeds and count must be at least 1"),
        (["--languages", "en,xx"], "has no names in 'xx'; it has en, de, es, ja, ru, zh"),
        (["--prompts", "@nowhere.csv"], "cannot read the names in nowhere.csv"),
        (["--prompts", ",sun"], "no name must be empty"),
        (["nowhere"], "leave out --recipe"),
        (["--prompts", "cat,dog", "--languages", "de"], "--languages are"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_drawn(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    models: tuple[str, list[object]],
    words: list[object],
    message: str,
) -> None:
    judge, options = models
    assert run(tmp_path / "out", *options, "--judge", judge, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_and_a_source_that_is_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Path(__file__), "--judge", "tiny") == 2
    assert "not a writable folder" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "nowhere", "--judge", "tiny") == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("note", ["", "[]", '{"tiny": '])
def test_a_broken_note_of_the_guides_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: tuple[str, list[object]], note: str
) -> None:
    judge, options = models
    (tmp_path / "guides.json").write_text(note)
    assert run(tmp_path, *options, "--judge", judge) == 2
    assert "choose another output" in capsys.readouterr().err


def finished(folder: Path, settings: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    facts = {"recipe": "shapes", "settings": settings, "versions": {}, "status": "finished"}
    (folder / "run.json").write_text(json.dumps(facts))


def test_runs_of_others_are_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "a", {"seed": 0})
    finished(tmp_path / "b", {"prompt": "", "seed": 0})
    finished(tmp_path / "c", {"prompt": "sun", "seed": "0"})
    finished(tmp_path / "d", {"prompt": "sun", "seed": 3, "clip": 5})
    assert read_drawn(tmp_path, []) == [
        Drawn("shapes", Task("sun", "", "sun"), 3, tmp_path / "d" / "final.png", None)
    ]
    assert "3 runs in" in capsys.readouterr().err


def test_models_that_runs_name_are_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Folder
) -> None:
    loaded = []
    monkeypatch.setattr("guidance.evaluation.load", lambda name: loaded.append(name))
    judge = g.load(f"local-dir:{model_folder('timm')}")
    for guides in ("hf-hub:evil/model", "ViT-B/32", f"local-dir:{tmp_path / 'gone'}"):
        with pytest.raises(g.InputError, match="not known here"):
            check_judge(judge, [], [guides], force=False)
        assert check_judge(judge, [], [guides, None], force=True) == {}
    with pytest.raises(g.InputError, match="cannot judge"):
        check_judge(judge, [], [f"{judge.name} | hf-hub:evil/model"], force=False)
    assert not loaded


def test_a_judge_that_is_not_finite_is_told(tmp_path: Path, model_folder: Folder) -> None:
    clip = g.load(f"local-dir:{model_folder('vit')}")
    judge = Judge(clip, ["sun", "rose"])
    judge._texts[1] = torch.nan
    with pytest.raises(g.InputError, match="not finite"):
        judge.judge(Drawn("r", Task("sun", "en", "sun"), 0, picture(tmp_path / "a.png", 0), None))


def test_every_recipe_has_a_sheet_whatever_its_name(tmp_path: Path) -> None:
    write_sheets = load(recipes()["evaluate"]).__globals__["write_sheets"]
    names = ["a" * 300, "a" * 300 + " --steps 1", "太" * 300, "shapes --lr 1", "shapes --lr -1"]
    write_sheets(tmp_path, [judged(name, "en", "sun", 1) for name in names])
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_an_empty_picture_is_told(tmp_path: Path, model_folder: Folder) -> None:
    judge = Judge(g.load(f"local-dir:{model_folder('vit')}"), ["sun", "rose"])
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(g.InputError, match=r"broken\.png"):
        judge.judge(Drawn("r", Task("sun", "en", "sun"), 0, tmp_path / "broken.png", None))
    Image.new("RGB", (3, 3)).save(tmp_path / "small.png")
    assert judge.judge(Drawn("r", Task("sun", "en", "sun"), 0, tmp_path / "small.png", None)).rank in (1, 2)
