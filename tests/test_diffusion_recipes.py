"""`guidance guided-diffusion` and `vectorfusion`, from the command line's function to the run folder."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

import guidance as g
from guidance.media import read_image
from guidance.recipe import load
from guidance.run import Run
from guidance.shipped import recipes

guided_diffusion = load(recipes()["guided_diffusion"])
vectorfusion = load(recipes()["vectorfusion"])

QUICK = {"steps": 4, "crops": 2, "size": 32, "film": "none"}


def score(folder: Path) -> float:
    return max(json.loads((folder / "run.json").read_text())["scores"])


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_clip_guides_and_the_cost_is_told_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {}
    for clip_scale in (0.0, 3.0):
        folder = guided_diffusion(
            "a red heart", clip_scale=clip_scale, window=(0.5, 1.0), output=tmp_path, **QUICK
        )
        scores[clip_scale] = score(folder)
        told = capsys.readouterr().err
        assert "4 evaluations of the network, 2 of them guided" in told
        assert told.index("evaluations") < told.index("step 4/4")
        assert read_image(folder / "final.png").shape == (1, 3, 32, 32)
        plain, guided = {"step", "sigma"}, {"step", "sigma", "clip"}
        assert [set(line) for line in metrics(folder)] == [plain] * 2 + [guided if clip_scale else plain] * 2
    assert scores[3.0] > scores[0.0] + 0.005


def test_clip_may_guide_elsewhere_and_through_the_network(tmp_path: Path) -> None:
    settings = QUICK | {"steps": 8, "size": 64, "output": tmp_path}
    folder = guided_diffusion("a red heart", guidance="blue heart", gradient="full", every=2, **settings)
    plain = guided_diffusion("a red heart", clip_scale=0.0, **settings)
    blue, red = (
        (read_image(f / "final.png")[:, 2] - read_image(f / "final.png")[:, 0]).mean()
        for f in (folder, plain)
    )
    assert blue > red + 0.03


def test_members_are_single_runs(tmp_path: Path) -> None:
    folder = guided_diffusion("a red heart", best_of=2, output=tmp_path, **QUICK)
    alone = guided_diffusion("a red heart", seed=1, output=tmp_path, **QUICK)
    both = read_image(folder / "members" / "1.png"), read_image(alone / "final.png")
    assert torch.allclose(*both, atol=2 / 255)


def test_a_stopped_run_goes_on_to_the_same_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = guided_diffusion("a red heart", scheduler="unipc", every=2, output=tmp_path / "whole", **QUICK)
    track = Run.track

    def killed(self: Run, *given: object) -> object:
        yield from islice(track(self, *given), 3)
        monkeypatch.setattr(Run, "track", track)
        raise SystemExit

    monkeypatch.setattr("guidance.run.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Run, "track", killed)
    settings = QUICK | {"scheduler": "unipc", "every": 2, "output": tmp_path / "stopped"}
    with pytest.raises(SystemExit):
        guided_diffusion("a red heart", **settings)
    folder = tmp_path / "stopped" / "guided_diffusion" / "a-red-heart-0"
    assert not (folder / "final.png").exists()
    guided_diffusion("a red heart", **settings, resume=folder)
    assert torch.equal(read_image(folder / "final.png"), read_image(whole / "final.png"))
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_offload_and_a_gradient_through_the_network_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(g.InputError, match="give --gradient picture"):
        guided_diffusion("a red heart", offload="model", gradient="full", output=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["calm", "vectorfusion"])
def test_shapes_are_distilled(tmp_path: Path, preset: str) -> None:
    folder = vectorfusion(
        "a red heart", preset=preset, steps=2, paths=6, size=32, film="none", output=tmp_path
    )
    assert (folder / "final.svg").read_text().count("<path") == 6
    assert [set(line) for line in metrics(folder)] == [{"step", "distillation", "crossing"}] * 2


def test_unused_shapes_are_drawn_anew_and_a_stopped_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 6, "paths": 6, "size": 32, "film": "none", "best_of": 2}
    plain = vectorfusion("a red heart", renew=0, output=tmp_path / "plain", **settings)
    whole = vectorfusion("a red heart", renew=2, output=tmp_path / "whole", **settings)
    assert (whole / "final.svg").read_text() != (plain / "final.svg").read_text()
    track = Run.track

    def killed(self: Run, *given: object) -> object:
        yield from islice(track(self, *given), 4)  # the last of them has been seen, and is not saved
        monkeypatch.setattr(Run, "track", track)
        raise SystemExit

    monkeypatch.setattr("guidance.run.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Run, "track", killed)
    stopped = tmp_path / "stopped"
    with pytest.raises(SystemExit):
        vectorfusion("a red heart", renew=2, output=stopped, **settings)
    folder = stopped / "vectorfusion" / "a-red-heart-0"
    vectorfusion("a red heart", renew=2, output=stopped, **settings, resume=folder)
    for name in ("0.png", "1.png"):
        images = [read_image(place / "members" / name) for place in (folder, whole)]
        assert torch.equal(*images)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_distillation_draws_the_prompt(tmp_path: Path) -> None:
    folder = vectorfusion("a red heart", steps=30, paths=16, size=64, film="none", output=tmp_path)
    middle = read_image(folder / "final.png")[0, :, 384:640, 384:640].mean((1, 2))
    assert middle[0] > middle[2] + 0.1  # red, and the page was white
