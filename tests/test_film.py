"""Films against what ffmpeg and Pillow decode."""

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe, read_frames
from PIL import Image, ImageSequence

from guidance import film
from guidance.errors import InputError
from guidance.media import jpeg

COLOURS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
FRAMES = [jpeg(torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 33, 47)) for rgb in COLOURS]


def test_an_mp4_is_its_frames_then_the_last_held(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film.write_film(path, FRAMES, fps=10, hold=0.5)
    assert count_frames_and_secs(str(path))[0] == 3 + 5
    reader = read_frames(str(path))
    facts = next(reader)
    assert facts["size"] == (48, 34)
    assert (facts["codec"], facts["pix_fmt"].split("(")[0]) == ("h264", "yuv420p")
    seen = [np.frombuffer(frame, np.uint8).reshape(34, 48, 3)[16, 16] / 255 for frame in reader]
    for picture, rgb in zip(seen, [*COLOURS, *[COLOURS[-1]] * 5], strict=True):
        assert np.abs(picture - rgb).max() < 0.06


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_gif_and_webp_show_the_frames_for_their_time_and_begin_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"film.{kind}"
    film.write_film(path, FRAMES, fps=10, hold=0.5)
    with Image.open(path) as file:
        assert (file.format, file.size, file.info["loop"]) == (kind.upper(), (47, 33), 0)
        shown = [
            (frame.convert("RGB").getpixel((20, 16)), frame.info["duration"])
            for frame in ImageSequence.Iterator(file)
        ]
    # How the last is held, by one long frame or by several, is the encoder's business.
    assert sum(duration for _, duration in shown) == pytest.approx(800, abs=20)
    for (pixel, duration), rgb in zip(shown, COLOURS, strict=False):
        assert np.abs(np.array(pixel) / 255 - rgb).max() < 0.06
        assert duration == 100 or rgb == COLOURS[-1]


def test_an_mp4_says_what_it_is(tmp_path: Path) -> None:
    path, comment = tmp_path / "film.mp4", json.dumps({"a": "= ; # \\ \n 🦊"}, ensure_ascii=False)
    film.write_film(path, FRAMES, {"title": 'a "red" fox; 狐', "comment": comment + "x" * 40_000})
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "ffmetadata", "-"]
    told = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    plain = told.replace("\\", "")  # ffmpeg's escapes
    assert 'title=a "red" fox; 狐' in plain
    assert "comment=" + comment.replace("\\", "") in plain


def test_the_same_frames_are_the_same_film(tmp_path: Path) -> None:
    for kind in ("mp4", "gif", "webp"):
        for name in ("a", "b"):
            film.write_film(tmp_path / f"{name}.{kind}", FRAMES)
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_film_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"film\.mp4: .+"):
        film.write_film(tmp_path / "film.mp4", [b"no jpeg"])
    with pytest.raises(InputError, match=r"must end in \.mp4, \.gif, \.webp"):
        film.write_film(tmp_path / "film.avi", FRAMES)
    assert not list(tmp_path.iterdir())


def test_frames_are_written_one_by_one_though_ffmpeg_complains_of_each(tmp_path: Path) -> None:
    broken = jpeg(torch.rand(1, 3, 64, 64))[:-600]
    film.write_film(tmp_path / "film.mp4", (broken for _ in range(2000)))
    assert count_frames_and_secs(str(tmp_path / "film.mp4"))[0] > 2000
    with pytest.raises(RuntimeError, match=r"film\.mp4: .+"):  # it ends long before all are written
        film.write_film(tmp_path / "film.mp4", (b"no jpeg" * 100_000 for _ in range(50)))


def test_a_film_for_which_there_is_no_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = os.strerror(errno.ENOSPC)
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(
        f"#!/bin/sh\ncat > /dev/null\necho 'av_interleaved_write_frame(): {words}' >&2\nexit 1\n"
    )
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(film, "get_ffmpeg_exe", lambda: str(ffmpeg))
    with pytest.raises(OSError, match=words) as caught:
        film.write_film(tmp_path / "film.mp4", FRAMES)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("total", "frames"), [(1, 1), (40, 40), (151, 150), (400, 150)])
def test_a_run_keeps_no_more_than_six_seconds(total: int, frames: int) -> None:
    shown = [index for index in range(total) if film.shows(index, total)]
    assert len(shown) == pytest.approx(frames, abs=1)
    assert shown[0] == 0
    assert max(np.diff([*shown, total])) <= -(-total // frames) + 1
