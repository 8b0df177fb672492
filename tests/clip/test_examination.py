"""What is asked of a model while it trains: each question only where there is something to ask about."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from guidance import load
from guidance.clip.datasets import held_out, open_sources
from guidance.clip.examination import examination
from guidance.clip.measures import classify, measure, read_labelled
from guidance.clip.pictures import fitting

HEARTS = ("red", "blue", "green", "yellow", "black", "white", "orange", "brown", "purple", "grey", "pink")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares, of which the first four are held out of the table; also as labelled folders."""
    folder = tmp_path_factory.mktemp("squares")
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "split"])
        for i, colour in enumerate(HEARTS):
            path = folder / "labelled" / colour / "a.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (64, 64), colour).save(path)
            writer.writerow([path.relative_to(folder), f"{colour} heart", "val" if i < 4 else "train"])
    return folder


def test_every_question_is_asked_of_its_own_data(folder: Path, tmp_path: Path) -> None:
    clip = load("tiny")
    sources = open_sources([str(folder / "captions.csv")], cache=tmp_path)
    asked = examination(
        clip,
        sources,
        labelled=folder / "labelled",
        names=[f"{h} {n}" for h in HEARTS for n in ("heart", "cat")],
    )
    assert asked is not None
    found = asked(clip)
    four = measure(clip, held_out(sources, clip.image_size, fitting(clip)))
    accuracy = classify(clip, read_labelled(folder / "labelled", clip))
    assert found == four | {"zero_shot_top1": accuracy["top1"], "zero_shot_top5": accuracy["top5"], "kept": 1}

    everything = examination(clip, sources, validation=sources, known=sources)
    assert everything is not None
    eleven = measure(clip, held_out(sources, clip.image_size, fitting(clip), everything=True))
    assert everything(clip) == eleven | {"kept": 1}
    assert eleven != four


def test_where_there_is_nothing_to_ask_there_is_no_examination(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "captions.csv").read_text().replace("val", "train")
    (folder / "seen.csv").write_text(rows)
    assert examination(load("tiny"), open_sources([str(folder / "seen.csv")], cache=tmp_path)) is None
