"""The recipes that begin with a picture: sketch and style."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guidance import cli, media, run
from guidance.clock import at
from guidance.losses import PerceptualLoss

Folder = Callable[..., Path]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A dark blue disc on white, in a frame that is not square."""
    x, y = torch.arange(60) / 60, torch.arange(40)[:, None] / 60
    inside = (x - 0.5) ** 2 + (y - 0.33) ** 2 < 0.05
    image = torch.where(inside, torch.tensor([0.1, 0.1, 0.6])[:, None, None], torch.tensor(1.0))
    media.write_png(tmp_path / "disc.png", image[None])
    return tmp_path / "disc.png"


def draw(recipe: str, *tokens: object, output: Path) -> Path:
    common = ["--size", 32, "--crops", 1, "--film", "none", "--output", output]
    assert cli.main([recipe, *map(str, [*tokens, *common])]) == 0
    (found,) = (output / recipe).iterdir()
    return found


def paths(svg: Path) -> list[str]:
    return re.findall(r'<path[^>]* d="[^"]*"[^>]*>', svg.read_text())


@pytest.mark.parametrize("preset", ["outlines", "clipasso"])
def test_a_sketch_is_thin_black_strokes_of_one_cubic(tmp_path: Path, picture: Path, preset: str) -> None:
    folder = draw("sketch", picture, "--steps", 2, "--paths", 5, "--preset", preset, output=tmp_path / "out")
    svg = (folder / "final.svg").read_text()
    assert len(paths(folder / "final.svg")) == 5
    widths = [float(width) for width in re.findall(r'stroke-width="([\d.]+)"', svg)]
    assert widths == pytest.approx([3 * 32 / 224] * len(widths), rel=1e-2)
    image = media.read_image(folder / "final.png")
    assert image.min() == 0
    assert image.max() == 1


def test_the_best_sketch_is_the_one_most_like_the_picture(tmp_path: Path, picture: Path) -> None:
    folder = draw(
        "sketch", picture, "a ball", "--steps", 12, "--paths", 4, "--best-of", 2, output=tmp_path / "out"
    )
    facts = json.loads((folder / "run.json").read_text())
    assert facts["best"] == max(range(2), key=facts["scores"].__getitem__)
    terms = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"likeness/tiny", "crossing", "clip"} < terms.keys()
    alone = draw(
        "sketch",
        picture,
        "a ball",
        "--steps",
        12,
        "--paths",
        4,
        "--seed",
        facts["best"],
        output=tmp_path / "one",
    )
    assert json.loads((alone / "run.json").read_text())["scores"] == pytest.approx(
        [facts["scores"][facts["best"]]], rel=1e-3
    )


def test_a_sketch_is_done_when_two_looks_show_nothing_better(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at steps 10, 20, ...: better, better, the same twice; whatever comes later does not count."""
    values = iter([3.0, 2.0, 2.0, 2.0, 1.0, 0.5])
    monkeypatch.setattr(PerceptualLoss, "plain", lambda *_: torch.tensor([next(values)]))
    folder = draw("sketch", picture, "--steps", 90, "--paths", 2, output=tmp_path / "out")
    facts = json.loads((folder / "run.json").read_text())
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 40
    assert facts["status"] == "finished"
    assert facts["scores"] == [-2]


def test_a_killed_sketch_goes_on_to_the_same(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--steps", 14, "--paths", 3]
    whole = draw("sketch", picture, *options, output=tmp_path / "whole")
    see, calls = PerceptualLoss.__call__, iter(range(100))

    def dies(self: PerceptualLoss, image: torch.Tensor) -> torch.Tensor:
        if next(calls) == 12:  # after the first look
            raise RuntimeError("power cut")
        return see(self, image)

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(PerceptualLoss, "__call__", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            draw("sketch", picture, *options, output=tmp_path / "died")
    (died,) = (tmp_path / "died" / "sketch").iterdir()
    assert cli.main(["resume", str(died)]) == 0
    assert paths(died / "final.svg") == paths(whole / "final.svg")
    assert (died / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_prompt_stops_at_nine_tenths_and_the_style_goes_on(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw("style", "a red heart", picture, "--steps", 2, "--paths", 6, output=tmp_path / "out")
    assert len(paths(folder / "final.svg")) == 6
    terms = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"clip", "style"} < terms[0].keys()

    weights = {}
    steps = run.Run.optimize

    def listen(self: run.Run, canvas: object, losses: dict, *rest: object) -> object:
        weights.update({name: weight for name, (weight, _) in losses.items()})
        return steps(self, canvas, losses, *rest)

    monkeypatch.setattr(run.Run, "optimize", listen)
    draw("style", "a red heart", picture, "--steps", 1, "--paths", 6, "--style", 3, output=tmp_path / "two")
    assert [at(weights["clip"], progress) for progress in (0, 0.89, 0.9, 1)] == [1, 1, 0, 0]
    assert [at(weights["style"], progress) for progress in (0, 1)] == [3, 3]


@pytest.mark.parametrize(("recipe", "tokens"), [("sketch", []), ("style", ["a red heart"])])
def test_a_picture_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, tokens: list[str]
) -> None:
    assert cli.main([recipe, *tokens, str(tmp_path / "missing.png"), "--output", str(tmp_path / "out")]) == 2
    assert "missing.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["sketch", "--paths", "0"], "got 0"),
        (["sketch", "--paths", "60000"], "got 60000"),
        (["sketch", "--best-of", "0"], "got 0"),
        (["sketch", "--best-of", "100000000"], "got 100000000"),
        (["style", "a red heart", "--style", "nan"], "style must be"),
        (["style", "a red heart", "--style", "inf"], "style must be"),
        (["style", "a red heart", "--style=-1"], "style must be"),
    ],
)
def test_a_number_out_of_range_is_one_line(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str], tokens: list[str], words: str
) -> None:
    recipe, *rest = tokens
    place = ["--picture", str(picture), "--output", str(tmp_path / "out")]
    assert cli.main([recipe, *rest, *place]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_picture_as_thin_as_a_line_is_sketched(tmp_path: Path) -> None:
    media.write_png(tmp_path / "thin.png", torch.linspace(0, 1, 900).expand(1, 3, 1, 900))
    draw("sketch", tmp_path / "thin.png", "--steps", 1, "--paths", 2, output=tmp_path / "out")


def test_prompts_are_reported_beside_a_picture(tmp_path: Path, picture: Path) -> None:
    options = ["--steps", 1, "--paths", 2, "--report"]
    folder = draw("sketch", picture, "a ball | a box", *options, output=tmp_path / "out")
    (line,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert {"clip/1 a ball", "clip/2 a box"} < line["report"]["gradient norms"].keys()
