"""A story in film: every scene has its time, and a run that is resumed tells the same story."""

import json
from pathlib import Path

import pytest
import torch

from guidance import cli, media, run
from guidance.losses import ClipLoss

SMALL = ["--steps", "4", "--crops", "1", "--size", "32", "--paths", "6"]


def test_a_story_of_two_guides_is_resumed_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder
) -> None:
    guides = f"local-dir:{model_folder('vit')} | local-dir:{model_folder('vit-quickgelu')}:0.5"
    story = ["morph", "a red heart => the blue whale:2 | a fox:-0.5", *SMALL, "--clip", guides]
    assert cli.main([*story, "--output", str(tmp_path / "whole")]) == 0
    (whole,) = (tmp_path / "whole" / "morph").iterdir()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert sum(name.startswith("clip/local-dir:") for name in lines[0]) == 2

    see, calls = ClipLoss.__call__, iter(range(10))

    def dies(self: ClipLoss, image: torch.Tensor) -> torch.Tensor:
        if next(calls) == 5:  # in the third step
            raise RuntimeError("power cut")
        return see(self, image)

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(ClipLoss, "__call__", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            cli.main([*story, "--output", str(tmp_path / "died")])
    (died,) = (tmp_path / "died" / "morph").iterdir()
    assert cli.main(["resume", str(died)]) == 0
    for name in ("final.svg", "metrics.jsonl", "timelapse.mp4"):
        assert (died / name).read_bytes() == (whole / name).read_bytes()
    assert media.read_image(died / "final.png").equal(media.read_image(whole / "final.png"))


def test_the_last_scene_has_rates_as_high_as_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strokes slow down on their own; here the last scene has as far to go."""
    steps, rates = torch.optim.Adam.step, []

    def step(self: torch.optim.Adam, *args: object) -> None:
        rates.append([group["lr"] for group in self.param_groups])
        steps(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    assert cli.main(["morph", "red heart => blue heart", *SMALL, "--output", str(tmp_path)]) == 0
    assert rates == [rates[0]] * 4
    assert all(rates[0])


def test_a_story_without_weight_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["morph", "a => b:0", *SMALL, "--output", str(tmp_path)]) == 2
    assert "zero" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_it_has_the_options_of_the_run(tmp_path: Path) -> None:
    extra = ["--best-of", "2", "--film", "none", "--no-metadata", "--report", "--on-nan", "smaller"]
    assert cli.main(["morph", "red heart => blue heart", *SMALL, *extra, "--output", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "morph").iterdir()
    assert len(json.loads((folder / "run.json").read_text())["scores"]) == 2
    assert "report" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert not (folder / "timelapse.mp4").exists()
    assert "red heart" not in (folder / "final.svg").read_text()
