"""`guidance diffuse`: the embedded pipeline, from the command line's function to the run folder."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

import guidance as g
from guidance.diffusion.inversion import begin_word, save_word
from guidance.diffusion.pipeline import load_pipeline
from guidance.media import read_image, write_png
from guidance.recipe import load
from guidance.run import Run
from guidance.shipped import recipes

main = load(recipes()["diffuse"])
QUICK = {"steps": 4, "film": "none"}


def test_it_makes_a_run(tmp_path: Path) -> None:
    folder = main("a red heart", steps=4, output=tmp_path)
    image = read_image(folder / "final.png")
    assert image.shape == (1, 3, 64, 64)
    assert image[:, :, :4, :4].mean() > 0.8  # emoji stand on white
    assert (folder / "timelapse.mp4").stat().st_size > 0
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["recipe"], facts["status"]) == ("diffuse", "finished")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    again = main("a red heart", steps=4, output=tmp_path / "again")
    assert (again / "final.png").read_bytes() == (folder / "final.png").read_bytes()


def test_the_prompt_matters(tmp_path: Path) -> None:
    colours = []
    for prompt in ("red heart", "blue heart"):
        image = read_image(main(prompt, steps=8, film="none", output=tmp_path) / "final.png")
        colours.append(image.mean((0, 2, 3)))
    assert colours[0][0] > colours[0][2] + 0.1
    assert colours[1][2] > colours[1][0] + 0.1


def test_prompts_change_with_the_steps(tmp_path: Path) -> None:
    def picture(prompt: str) -> torch.Tensor:
        return read_image(main(prompt, dialect="a1111", output=tmp_path, **QUICK) / "final.png")

    red, changed = picture("red heart"), picture("[red heart:blue heart:0.5]")
    assert torch.equal(picture("[red heart:blue heart:1.0]"), red)
    assert torch.equal(picture("[red:blue:0.5] heart"), changed)
    assert not torch.equal(changed, red)
    assert not torch.equal(picture("red heart => blue heart"), red)


def test_learned_words_are_read_from_files(tmp_path: Path) -> None:
    """A word that was begun as another and never changed says the same."""
    word = begin_word(load_pipeline("tiny").text, "<it>", "heart", None)
    save_word(tmp_path / "it.safetensors", word)
    same = main("red <it>", embedding=(tmp_path / "it.safetensors",), output=tmp_path, **QUICK)
    plain = main("red heart", output=tmp_path, **QUICK)
    assert torch.equal(read_image(same / "final.png"), read_image(plain / "final.png"))


def test_a_negative_prompt_pushes_away(tmp_path: Path) -> None:
    redness = []
    for negative in ("red heart", "blue heart"):
        folder = main("apple", steps=8, film="none", negative=negative, output=tmp_path / negative)
        image = read_image(folder / "final.png")
        redness.append((image[:, 0] - image[:, 2]).mean())
    assert redness[1] > redness[0] + 0.1


def test_a_member_is_the_single_run_with_its_seed(tmp_path: Path) -> None:
    both = main("pizza", **QUICK, best_of=2, scheduler="euler-ancestral", output=tmp_path)
    alone = main("pizza", **QUICK, seed=1, scheduler="euler-ancestral", output=tmp_path / "alone")
    member = read_image(both / "members" / "1.png")
    assert (member - read_image(alone / "final.png")).abs().max() < 0.02
    facts = json.loads((both / "run.json").read_text())
    assert len(facts["scores"]) == 2
    best = read_image(both / "members" / f"{facts['best']}.png")
    assert torch.equal(best, read_image(both / "final.png"))


def test_a_stopped_run_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = main("pizza", steps=6, output=tmp_path / "whole")
    track = Run.track

    def killed(self: Run, *given: object) -> object:
        yield from islice(track(self, *given), 2)
        monkeypatch.setattr(Run, "track", track)
        raise SystemExit

    monkeypatch.setattr("guidance.run.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Run, "track", killed)
    with pytest.raises(SystemExit):
        main("pizza", steps=6, output=tmp_path / "stopped")
    folder = tmp_path / "stopped" / "diffuse" / "pizza-0"
    assert not (folder / "final.png").exists()
    main("pizza", steps=6, output=tmp_path / "stopped", resume=folder)
    assert torch.equal(read_image(folder / "final.png"), read_image(whole / "final.png"))
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_outside_the_mask_the_start_stays(tmp_path: Path) -> None:
    start = torch.zeros(1, 3, 64, 64)
    start[:, 1] = 0.6
    mask = torch.zeros(1, 3, 64, 64)
    mask[..., 32:] = 1
    write_png(tmp_path / "start.png", start)
    write_png(tmp_path / "mask.png", mask)
    files = {"start": tmp_path / "start.png", "mask": tmp_path / "mask.png"}
    image = read_image(main("red heart", **QUICK, **files, strength=1.0, output=tmp_path) / "final.png")
    assert (image - start)[..., :32].abs().max() < 0.005
    assert (image - start)[..., 32:].abs().max() > 0.2


def test_from_a_picture_less_strength_stays_nearer(tmp_path: Path) -> None:
    first = main("red heart", **QUICK, output=tmp_path)
    begun = read_image(first / "final.png")
    away = []
    for strength in (0.25, 0.75):
        folder = main("blue heart", **QUICK, start=first, strength=strength, output=tmp_path / str(strength))
        away.append((read_image(folder / "final.png") - begun).abs().mean())
    assert away[0] < away[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask": Path("mask.png")}, "give --start as well"),
        ({"size": 66}, "multiples of 16 pixels"),
        ({"steps": 0}, "steps must be from 1 to 1000"),
        ({"model": "tinny"}, "unknown pipeline"),
        ({"dialect": "a1111", "prompt": "a (red heart"}, "bracket|parenthes"),
        ({"start": Path("no.png")}, "no.png"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(settings: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(g.InputError, match=words):
        main(**{"prompt": "a", "output": tmp_path} | settings)
    assert not list(tmp_path.iterdir())
