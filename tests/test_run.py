"""A run's folder: what is in it, what it never overwrites, what it refuses."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image, ImageSequence
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from guidance import checkpoint, film, media
from guidance import run as run_module
from guidance.canvas.base import Canvas, ParamGroup
from guidance.clock import Clock
from guidance.errors import FULL_DISK, InputError
from guidance.folder import new_folder
from guidance.optimization import adam, optimize
from guidance.run import Run


class Greys(Canvas):
    """b images of one grey each."""

    def __init__(self, greys: list[float]) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(greys))

    def forward(self) -> Tensor:
        return self.grey.view(-1, 1, 1, 1).expand(-1, 3, 16, 16)

    def param_groups(self) -> list[ParamGroup]:
        return [{"name": "grey", "params": [self.grey], "lr": 0.001}]


def mean(image: Tensor) -> Tensor:
    return image.mean((1, 2, 3))


def square(image: Tensor) -> Tensor:
    return image.square().mean((1, 2, 3))


def draw(output: Path, *, steps: int = 4, greys: tuple[float, ...] = (0.5,), **changes: object) -> Path:
    """A whole recipe; greater is better."""
    arguments = {"prompt": "A fox!", "steps": steps, "seed": 7, "output": output, "resume": None} | changes
    run = Run("recipes/grey.py", arguments)
    canvas, clock = Greys(list(greys)), Clock(steps)
    optimizer = adam(canvas)
    for _ in run.optimize(canvas, {"mean": mean, "square": (0.0, square)}, clock, optimizer):
        pass
    return run.finish(canvas, scores=mean(canvas()))


def test_what_is_slow_to_save_is_saved_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second and a checkpoint a minute: a tenth of the time may go into those."""
    now, saves = [0.0], []

    def save(*given: object) -> None:
        now[0] += 60
        saves.append(now[0])

    def step(image: Tensor) -> Tensor:
        now[0] += 1
        return mean(image)

    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 5.0)
    monkeypatch.setattr("guidance.checkpoint.save", save)
    arguments = {"prompt": "slow", "seed": 0, "output": tmp_path, "resume": None, "film": "none"}
    run, canvas, clock = Run("recipes/grey.py", arguments), Greys([0.5]), Clock(1000)
    for _ in run.optimize(canvas, {"mean": step}, clock):
        pass
    assert saves == [65.0, 725.0, 1180.0]  # after 5 steps, after 600 more, at the end


def draw_half(output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that died at its third step, with a checkpoint after the second."""
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)

    def dies(image: Tensor) -> Tensor:
        if clock.index == 2:
            raise RuntimeError("power cut")
        return mean(image)

    arguments = {"prompt": "A fox!", "steps": 4, "seed": 7, "output": output, "resume": None}
    run, canvas, clock = Run("recipes/grey.py", arguments), Greys([0.5]), Clock(4)
    optimizer = adam(canvas)
    with pytest.raises(RuntimeError, match="power cut"):
        list(
            run.track(
                optimize(canvas, {"mean": dies, "square": (0.0, square)}, clock, optimizer),
                canvas,
                optimizer,
                clock,
            )
        )
    return run.folder


def test_the_folder_holds_everything(tmp_path: Path) -> None:
    folder = draw(tmp_path)
    assert folder == tmp_path / "grey" / "a-fox-7"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "final.png",
        "timelapse.mp4",
        "run.json",
        "metrics.jsonl",
        "checkpoint/lock",
        "checkpoint/state.safetensors",
    }
    facts = json.loads((folder / "run.json").read_text())
    assert (Path(facts["recipe"]).name, facts["status"], facts["best"]) == ("grey.py", "finished", 0)
    assert facts["settings"] == {"prompt": "A fox!", "steps": 4, "seed": 7, "output": str(tmp_path)}
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["seconds"] >= 0


def test_metrics_are_the_losses_of_each_step(tmp_path: Path) -> None:
    lines = (draw(tmp_path, steps=3, greys=(0.5, 0.25)) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    assert [json.loads(line)["mean"] for line in lines][2] == pytest.approx([0.498, 0.248], abs=1e-5)


def test_the_best_of_a_population_is_kept(tmp_path: Path) -> None:
    folder = draw(tmp_path, greys=(0.2, 0.9, 0.4))
    facts = json.loads((folder / "run.json").read_text())
    assert facts["best"] == 1
    assert facts["scores"] == pytest.approx([0.196, 0.896, 0.396], abs=1e-4)
    assert media.read_image(folder / "final.png").mean().item() == pytest.approx(0.896, abs=0.01)
    cells = Image.open(folder / "sheet.png").convert("L")
    greys = [cells.getpixel((1 + 8 + 17 * x, 1 + 8 + 17 * y)) / 255 for y in (0, 1) for x in (0, 1)]
    assert greys == pytest.approx([0.196, 0.896, 0.396, 1.0], abs=0.01)


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp"])
def test_a_film_of_all_steps_and_the_finished_picture_held(tmp_path: Path, kind: str) -> None:
    film_of_run = draw(tmp_path, steps=40, film=kind) / f"timelapse.{kind}"
    seconds = (40 + 1) / 25 + 1.5
    if kind == "mp4":
        assert count_frames_and_secs(str(film_of_run))[0] == pytest.approx(seconds * 25, abs=1)
    else:
        with Image.open(film_of_run) as file:
            shown = sum(frame.copy().info["duration"] for frame in ImageSequence.Iterator(file))
        assert shown == pytest.approx(seconds * 1000, abs=50)


def test_no_film_and_no_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "keep", None)  # to call it would be an error
    assert not list(draw(tmp_path, film="none").glob("timelapse*"))


def test_an_unknown_film_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="film must be one of mp4, gif, webp, none, got 'avi'"):
        draw(tmp_path, film="avi")


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("  A  Fox: in/the\\snow?  ", "a-fox-in-the-snow"),
        ("../../etc", "etc"),
        ("красное сердце", "красное-сердце"),
        ("🦊", "untitled"),
        ("x" * 300, "x" * 40),
    ],
)
def test_folder_names(tmp_path: Path, prompt: str, slug: str) -> None:
    assert draw(tmp_path, steps=1, prompt=prompt) == tmp_path / "grey" / f"{slug}-7"


def test_no_run_overwrites_another(tmp_path: Path) -> None:
    first = draw(tmp_path)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert draw(tmp_path).name == "a-fox-7-2"
    assert draw(tmp_path).name == "a-fox-7-3"
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_runs_that_begin_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(new_folder, [tmp_path / "a"] * 32))
    assert len(set(folders)) == 32


def test_the_recipe_may_end_the_loop(tmp_path: Path) -> None:
    arguments = {"prompt": "x", "seed": 0, "output": tmp_path, "resume": None}
    run, canvas, clock = Run("grey.py", arguments), Greys([0.5]), Clock(9)
    optimizer = adam(canvas)
    for step in run.track(optimize(canvas, {"mean": mean}, clock, optimizer), canvas, optimizer, clock):
        if step.index == 3:
            break
    folder = run.finish(canvas)
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert "scores" not in json.loads((folder / "run.json").read_text())


def test_a_failed_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path, *_: object, **__: object) -> None:
        Path(path).write_bytes(b"\x89PNG half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        draw(tmp_path, film="none")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".png", ".jpg", ".tmp"}]


@pytest.mark.parametrize("number", FULL_DISK)
def test_a_full_disk_leaves_the_last_good_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)
    sync, calls = os.fsync, iter(range(9))

    def full(file: int) -> None:
        """The disk is full when the third checkpoint is written, and half of it is there."""
        sync(file)
        if next(calls) == 2:
            os.ftruncate(file, 100)
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=os.strerror(number)):
            draw(tmp_path)
    folder = tmp_path / "grey" / "a-fox-7"
    assert f"to go on: guidance resume {folder}" in capsys.readouterr().err
    with safe_open(folder / "checkpoint" / "state.safetensors", "pt") as state:
        assert state.metadata()["index"] == "2"
    assert not list(folder.rglob("*.tmp"))
    draw(tmp_path, resume=folder)
    whole = draw(tmp_path)
    for name in ["metrics.jsonl", "timelapse.mp4", "final.png"]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_reports_are_in_the_metrics(tmp_path: Path) -> None:
    folder = draw(tmp_path, steps=2, greys=(0.5, 0.2), report=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["report"]["gradient norms"]["mean"] == pytest.approx([768**-0.5] * 2) for line in lines)
    assert lines[0]["report"]["cosines"]["mean ~ square"] == pytest.approx([1, 1])
    without = (draw(tmp_path, steps=2, greys=(0.5, 0.2)) / "metrics.jsonl").read_text().splitlines()
    assert [{name: line[name] for name in ("step", "mean", "square")} for line in lines] == list(
        map(json.loads, without)
    )


def test_members_are_kept(tmp_path: Path) -> None:
    folder = draw(tmp_path, greys=(0.2, 0.9, 0.4))
    shown = [media.read_image(folder / "members" / f"{i}.png").mean().item() for i in range(3)]
    assert shown == pytest.approx([0.196, 0.896, 0.396], abs=0.01)
    assert not (draw(tmp_path) / "members").exists()


def test_resuming_goes_on_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    assert draw(tmp_path, resume=folder) == folder
    whole = draw(tmp_path)
    for name in ["metrics.jsonl", "timelapse.mp4", "final.png"]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    (folder / "checkpoint" / "state.safetensors").unlink()
    draw(tmp_path, resume=folder)
    assert (folder / "metrics.jsonl").read_bytes() == (draw(tmp_path) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_broken_checkpoint_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    state = folder / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:cut])
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"state\.safetensors is broken .*delete it to start"):
        draw(tmp_path, resume=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("name", ["", "lock", "lock/", "state.safetensors", "state.safetensors/"])
def test_a_damaged_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    place = folder / "checkpoint" / name
    shutil.rmtree(folder / "checkpoint")
    if name.endswith("/"):
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"no such thing" * 100)
    with pytest.raises(InputError, match="delete"):
        draw(tmp_path, resume=folder)


def test_foreign_bytes_among_metrics_and_frames_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    with (folder / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b"\xff\xfe")
    (folder / "checkpoint" / "frames" / "0" / "foo.jpg").write_bytes(media.jpeg(torch.zeros(1, 3, 16, 16)))
    draw(tmp_path, resume=folder)
    assert (folder / "metrics.jsonl").read_bytes() == (draw(tmp_path) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, facts: (tensors, None),
        lambda tensors, facts: (tensors, {}),
        lambda tensors, facts: (tensors, facts | {"index": "many"}),
        lambda tensors, facts: (tensors, facts | {"index": "5"}),
        lambda tensors, facts: (tensors | {"more": torch.zeros(1)}, facts),
        lambda tensors, facts: (tensors | {"optimizer.x.y": torch.zeros(1)}, facts),
        lambda tensors, facts: (tensors | {"optimizer.0.exp_avg": torch.zeros(3)}, facts),
        lambda tensors, facts: ({n: t for n, t in tensors.items() if "exp_avg" not in n}, facts),
        lambda tensors, facts: ({n: t for n, t in tensors.items() if "optimizer" not in n}, facts),
    ],
)
def test_a_checkpoint_that_is_none_of_ours_changes_nothing(tmp_path: Path, change: Callable) -> None:
    path, canvas, clock = tmp_path / "state.safetensors", Greys([0.5]), Clock(4)
    optimizer = adam(canvas)
    list(zip(range(2), optimize(canvas, {"mean": mean}, clock, optimizer), strict=False))
    checkpoint.save(path, canvas, optimizer, clock, 1.5)
    with safe_open(path, "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    changed, header = change(tensors, facts)
    save_file(changed, path, header)
    fresh, start = Greys([0.7]), Clock(4)
    with pytest.raises(InputError, match=r"state\.safetensors .*delete it to start"):
        checkpoint.load(path, fresh, adam(fresh), start)
    assert (fresh.grey.item(), start.index) == (pytest.approx(0.7), 0)


def test_an_optimizer_may_keep_nothing(tmp_path: Path) -> None:
    canvas, clock = Greys([0.5]), Clock(4, index=2)
    sgd = torch.optim.SGD(canvas.parameters(), lr=0.1)
    checkpoint.save(tmp_path / "state", canvas, sgd, clock, 1.5)
    start = Clock(4)
    assert checkpoint.load(tmp_path / "state", canvas, sgd, start) == 1.5
    assert start == clock


def test_a_checkpoint_of_another_canvas_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="does not fit this Greys"):
        draw(tmp_path, resume=folder, greys=(0.5, 0.5))


def test_resume_needs_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_half(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="has seed 7, got 8"):
        draw(tmp_path, resume=folder, seed=8)
    with pytest.raises(InputError, match=r"has prompt 'A fox!', got 'xx+\.\.\.xx+'"):
        draw(tmp_path, resume=folder, prompt="x" * 300)
    draw(tmp_path / "moved", resume=folder)


def test_resuming_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run in"):
        draw(tmp_path, resume=tmp_path)
    good = {"recipe": "grey", "settings": {}, "versions": {}, "status": "running"}
    wrong = [good | change for change in ({"recipe": ["x"]}, {"settings": []}, {"status": 0})]
    for text in ["{", "[" * 100_000, "[]", '{"status": "running"}', *map(json.dumps, wrong)]:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match="no run in"):
            draw(tmp_path, resume=tmp_path)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    folder = draw(tmp_path)
    with pytest.raises(InputError, match="is finished"):
        draw(tmp_path, resume=folder)


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in [tmp_path / "file", tmp_path / "file" / "deeper"]:
        with pytest.raises(InputError, match="cannot write to"):
            Run("grey.py", {"prompt": "x", "seed": 0, "output": output, "resume": None})


def test_a_folder_in_one_that_is_closed_to_us_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, stat = tmp_path / "closed", os.stat
    closed.mkdir()

    def guarded(path: Path, **options: bool) -> os.stat_result:  # root may look everywhere
        if closed in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", guarded)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)
    with pytest.raises(InputError, match="cannot write to"):
        Run("grey.py", {"prompt": "x", "seed": 0, "output": closed / "a", "resume": None})


@pytest.mark.parametrize(("output", "seed"), [("x" * 300, 0), (".", 10**300)])
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, output: str, seed: int) -> None:
    with pytest.raises(InputError, match="cannot make"):
        draw(tmp_path / output, seed=seed)


@pytest.mark.parametrize("changes", [{"prompt": "caf\udce9"}, {"names": ["caf\udce9"]}])
def test_text_that_is_not_unicode_is_told_before_anything_is_written(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(InputError, match="not valid UTF-8"):
        draw(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_the_first_step(tmp_path: Path) -> None:
    Run("grey.py", {"prompt": "x", "seed": 0, "output": tmp_path / "outputs", "resume": None})
    assert list(tmp_path.iterdir()) == []


def test_progress_is_about_ten_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, steps=35)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("step 35/35  mean 0.4660  square 0.2172  0 s left")


def test_a_run_that_died_while_finishing_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(film, "write_film", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            draw(tmp_path)
    folder = draw(tmp_path, resume=tmp_path / "grey" / "a-fox-7")
    whole = draw(tmp_path)
    for name in ["metrics.jsonl", "timelapse.mp4", "final.png"]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
