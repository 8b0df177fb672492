"""The recipe as its user meets it: what it makes, and one line for everything wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guidance import cli, media, run
from guidance.losses import ClipLoss

Folder = Callable[..., Path]


def draw(model: Path, output: Path, *options: object) -> int:
    common = ["--steps", "3", "--paths", "8", "--size", "48", "--clip", f"local-dir:{model}"]
    return cli.main(
        ["clipdraw", "a red heart", *common, "--output", str(output), *(str(option) for option in options)]
    )


def test_it_draws(tmp_path: Path, model_folder: Folder) -> None:
    assert draw(model_folder("vit"), tmp_path) == 0
    folder = tmp_path / "clipdraw" / "a-red-heart-0"
    assert {path.name for path in folder.iterdir()} == {
        "final.png", "final.svg", "timelapse.mp4", "run.json", "metrics.jsonl", "checkpoint",
    }  # fmt: skip
    assert media.read_image(folder / "final.png").shape == (1, 3, 1024, 1024)
    assert "a red heart" in (folder / "final.svg").read_text()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_every_member_is_what_its_seed_alone_would_draw(tmp_path: Path, model_folder: Folder) -> None:
    assert draw(model_folder("vit"), tmp_path, "--best-of", 3) == 0
    folder = tmp_path / "clipdraw" / "a-red-heart-0"
    facts = json.loads((folder / "run.json").read_text())
    assert facts["best"] == max(range(3), key=facts["scores"].__getitem__)
    assert (folder / "sheet.png").exists()
    final = media.read_image(folder / "final.png")
    assert final.equal(media.read_image(folder / "members" / f"{facts['best']}.png"))

    for member in range(3):
        assert draw(model_folder("vit"), tmp_path / "alone", "--seed", member) == 0
        alone = tmp_path / "alone" / "clipdraw" / f"a-red-heart-{member}"
        ours = media.read_image(folder / "members" / f"{member}.png")
        # Not bit by bit: products of larger matrices round differently.
        assert (ours - media.read_image(alone / "final.png")).abs().mean() < 1e-3
        scores = json.loads((alone / "run.json").read_text())["scores"]
        assert scores == pytest.approx([facts["scores"][member]], abs=1e-4)


def test_the_presets_are_different_drawings(tmp_path: Path, model_folder: Folder) -> None:
    def widths(name: str, *options: object) -> list[float]:
        assert draw(model_folder("vit"), tmp_path / name, *options) == 0
        svg = next((tmp_path / name).rglob("final.svg")).read_text()
        return [float(width) for width in re.findall(r'stroke-width="([\d.]+)"', svg)]

    # CLIPDraw's pen is 2 px wide at the start and moves by 0.2 px a step; dabs are broader, each its own.
    assert max(widths("pen", "--preset", "clipdraw")) < 2.7
    assert max(widths("dabs")) > 3


def test_the_same_command_draws_the_same(tmp_path: Path, model_folder: Folder) -> None:
    for output in ("a", "b"):
        torch.manual_seed(hash(output))  # nobody may look at it
        assert draw(model_folder("vit"), tmp_path / output) == 0
    svg = [next((tmp_path / output).rglob("final.svg")).read_text() for output in ("a", "b")]
    assert svg[0] == svg[1]


def test_a_run_that_died_is_resumed_to_the_same_drawing(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test_resume.py` kills processes; here are the real canvas, crops, model and losses."""
    assert draw(model_folder("vit"), tmp_path / "whole", "--best-of", 2) == 0
    see, calls = ClipLoss.__call__, iter(range(10))

    def dies(self: ClipLoss, image: torch.Tensor) -> torch.Tensor:
        if next(calls) == 2:
            raise RuntimeError("power cut")
        return see(self, image)

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "__call__", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            draw(model_folder("vit"), tmp_path / "died", "--best-of", 2)
    folder, whole = (tmp_path / name / "clipdraw" / "a-red-heart-0" for name in ("died", "whole"))
    assert cli.main(["resume", str(folder)]) == 0
    for name in ("final.svg", "metrics.jsonl", "timelapse.mp4"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    for name in ("final.png", "sheet.png"):
        assert media.read_image(folder / name).equal(media.read_image(whole / name))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([""], "prompt must not be empty"),
        (["  "], "prompt must not be empty"),
        (["x", "--steps", "0"], "steps must be at least 1, got 0"),
        (["x", "--steps", "-5"], "got -5"),
        (["x", "--steps", "many"], "--steps"),
        (["x", "--paths", "0"], "paths"),
        (["x", "--size", "0"], "size"),
        (["x", "--size", "1000000"], "size"),
        (["x", "--crops", "0"], "crops"),
        (["x", "--best-of", "0"], "got 0"),
        (["x", "--device", "gpu"], "unknown device 'gpu'"),
        (["x", "--device", "cuda:99"], "cuda:99"),
        (["x", "--precision", "float16"], "precision"),
        (["x", "--clip", "tinny"], "tiny"),
        (["x", "--clip", "local-dir:nowhere"], "nowhere"),
        (["@missing.png"], "missing.png"),
        (["x", "--output", "file"], "cannot write to"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tokens: list[str],
    words: str,
    tmp_path: Path,
    model_folder: Folder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    clip = [] if "--clip" in tokens else ["--clip", f"local-dir:{model_folder('vit')}"]
    assert cli.main(["clipdraw", *clip, *tokens]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("guidance: ")
    assert err.count("\n") == 1
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
