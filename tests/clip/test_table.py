"""Tables in a pipe and in a terminal, and the sheets of pictures beside them."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from guidance import progress, read_image
from guidance.clip import sheet
from guidance.clip.table import one_line, skipped, table

LONG = "/pictures/" + "long/" * 40 + "[b]猫.png"


def test_lines_are_whole_outside_a_terminal_and_cells_are_no_markup():
    lines = table(["", "empty", "picture"], [["1", "", LONG], ["10", "", "[/x]\x1b\n"]]).splitlines()
    assert lines == ["    picture", f"1   {LONG}", "10  [/x]\\x1b\\n"]


def test_a_terminal_of_80_columns_shows_all_of_a_long_name():
    code = f"from guidance.clip.table import table; print(table(['score', 'picture'], [['0.123', {LONG!r}]]))"
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment) as process:
        os.close(theirs)
        told = b""
        try:
            while some := os.read(ours, 4096):
                told += some
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
        assert process.wait() == 0
    lines = told.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.removeprefix("0.123").strip() for line in lines[1:]) == LONG


def test_twenty_of_many_skipped_files_are_named():
    lines = skipped({f"{i}\n": "broken" for i in range(25)}, 30).splitlines()
    assert lines[0] == "skipped 25 of 30 files:"
    assert lines[1] == "  0\\n (broken)"
    assert lines[20:] == ["  19\\n (broken)", "  and 5 more"]
    assert one_line("猫 👩‍🚀 é\u2028") == "猫 👩‍🚀 é\\u2028"


def test_items_that_take_long_are_counted(capsys, monkeypatch):
    assert list(progress.counted(range(3), "Reading")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "PAUSE", -1)
    assert list(progress.counted(range(2), "Reading")) == [0, 1]
    assert capsys.readouterr().err == "Reading 0/2\nReading 1/2\n"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def below(path: Path) -> np.ndarray:
    """The second line of text on a sheet of one picture."""
    return (read_image(path)[0, 0, 5 + 160 + sheet.LINE :] < 0.5).numpy()


def test_what_no_font_has_is_left_out_and_said(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "FONTS", ())
    for cached in (sheet._fonts, sheet._font, sheet._has):
        cached.cache_clear()
    place = (str(picture), None, 0)
    told = sheet.write_sheet(tmp_path / "latin.png", [place], ["1\nred cat"])
    assert told == f"sheet: {tmp_path / 'latin.png'}"
    told = sheet.write_sheet(tmp_path / "mixed.png", [place], ["1\n猫red cat猫"])
    assert "(猫)" in told
    assert below(tmp_path / "latin.png").any()
    np.testing.assert_array_equal(below(tmp_path / "mixed.png"), below(tmp_path / "latin.png"))
    for cached in (sheet._fonts, sheet._font, sheet._has):
        cached.cache_clear()


def test_a_font_is_one_that_has_the_letters():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 12)
    except OSError:
        pytest.skip("DejaVu is not installed")
    assert sheet._font("a red heart") is sheet._fonts()[0]
    cyrillic = sheet._font("красное")
    assert all(sheet._has(cyrillic, character) for character in "красное")
    assert not sheet._has(sheet._fonts()[1], "\u0378")  # nobody's


def test_a_sheet_has_an_end(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MOST", 4)
    told = sheet.write_sheet(tmp_path / "s.png", [(str(picture), None, 0)] * 9, list("123456789"))
    assert told.endswith("s.png, the first 4 of 9")
    assert read_image(tmp_path / "s.png").shape[3] < 400


def test_a_picture_that_is_gone_is_grey(tmp_path):
    sheet.write_sheet(tmp_path / "s.png", [(str(tmp_path / "gone.png"), None, 0)], ["1"])
    middle = read_image(tmp_path / "s.png")[0, :, 80, 80]
    torch.testing.assert_close(middle, torch.full((3,), 211 / 255))
