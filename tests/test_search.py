"""The commands embed, search, duplicates and rank, from the command line's words to what they print."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidance import cli, clip_score, load, parse, read_image
from guidance.clip.index import Index


@pytest.fixture
def model(model_folder) -> str:
    return f"local-dir:{model_folder('vit')}"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gallery(n: int = 6) -> list[Path]:
    paths = []
    for i in range(n):
        colours = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        paths.append(Path("bilder", f"größe {i}.png").absolute())
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(colours).resize((40, 60 + i), Image.Resampling.NEAREST).save(paths[-1])
        os.utime(paths[-1], ns=(10**18, 10**18))
    return paths


def run(capsys: pytest.CaptureFixture[str], *tokens: object, code: int = 0) -> str:
    assert cli.main([str(token) for token in tokens]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_a_folder_is_embedded_and_searched(model, capsys):
    paths = gallery()
    Path("bilder", "notes.txt").write_text("x")
    Path("bilder", "broken.png").write_text("x")
    out = run(capsys, "embed", "bilder", "--clip", model)
    assert "6 encoded, 0 unchanged, 0 removed, 2 skipped" in out
    assert "6 pictures in outputs/index" in out
    listed = Path("outputs/index/skipped.tsv").read_text().splitlines()
    assert len(listed) == 3
    assert f"not a picture\t{paths[0].parent / 'broken.png'}" in listed
    assert "0 encoded, 6 unchanged" in run(capsys, "embed", "bilder", "--clip", model)

    found = json.loads(run(capsys, "search", "--image", paths[3], "--json", "--top", 2))
    assert found[0] == {"score": 1.0, "path": str(paths[3]), "caption": "", "width": 40, "height": 63}
    assert len(found) == 2
    blended = json.loads(
        run(
            capsys,
            "search",
            "a red heart",
            "--image",
            paths[0],
            "--image",
            paths[1],
            "--minus",
            "x",
            "--json",
        )
    )
    written = f"a red heart | @{paths[0]} | @{paths[1]} | x:-1.0"
    assert blended == json.loads(run(capsys, "search", written, "--json"))
    assert not Path("outputs/search.png").exists()

    table = run(capsys, "search", "a red heart")
    assert [line.split()[0] for line in table.splitlines() if line.split()[0].isdecimal()] == list("123456")
    assert table.endswith("sheet: outputs/search.png\n")
    assert read_image("outputs/search.png").mean() < 1


def test_what_is_wrong_is_told_in_one_line(model, model_folder, capsys):
    gallery(2)
    for tokens, words in [
        (["search", "x"], "no index in outputs/index"),
        (["embed"], "no index in outputs/index"),
        (["embed", "nowhere"], "nothing at nowhere"),
        (["duplicates"], "no index"),
        (["rank", "x", "nowhere"], "nothing at nowhere"),
    ]:
        err = run(capsys, *tokens, *(["--clip", model] if tokens[0] in ("rank", "embed") else []), code=2)
        assert words in err
        assert err.count("\n") == 1
    assert list(Path().iterdir()) == [Path("bilder")]
    run(capsys, "embed", "bilder", "--clip", model)
    other = f"local-dir:{model_folder('vit-quickgelu')}"
    for tokens, words in [
        (["search"], "say what to look for"),
        (["search", "x", "--clip", other], "was made by"),
        (["embed", "bilder", "--clip", other], "was made by"),
        (["search", "x", "--top", "0"], "top must be at least 1"),
        (["search", "x", "--sheet", "bilder/größe 0.png/a.png"], "cannot write"),
        (["duplicates", "--threshold", "2"], "threshold"),
    ]:
        assert words in run(capsys, *tokens, code=2)


def test_processes_of_torchrun_share_the_work(model, capsys, monkeypatch):
    gallery(9)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert "guidance embed --index outputs/index" in run(capsys, "embed", "bilder", "--clip", model)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert "9 merged, 9 pictures in outputs/index" in run(capsys, "embed")
    assert "0 encoded, 9 unchanged" in run(capsys, "embed", "bilder", "--clip", model)


@pytest.mark.parametrize("command", ["search x --json", "classify bilder --labels x,y"])
def test_a_reader_that_has_seen_enough_is_no_error(command, model, capsys):
    gallery(3)
    run(capsys, "embed", "bilder", "--clip", model)
    script = f"{sys.executable} -m guidance {command} --clip '{model}' | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_names_are_neither_markup_nor_commands_to_the_terminal(model, capsys):
    folder = gallery(1)[0].parent
    for name in ("[red]a[bold]", "b\nc", "\x1b[31md"):
        Path(folder, f"{name}.png").write_bytes(Path(folder, "größe 0.png").read_bytes())
    run(capsys, "embed", folder, "--clip", model)
    for tokens in (
        ["search", "x"],
        ["rank", "x", folder],
        ["duplicates"],
        ["classify", folder, "--labels", "x,y"],
    ):
        out = run(capsys, *tokens, *(["--clip", model] if tokens[0] in ("rank", "classify") else []))
        for name in ("[red]a[bold].png", "b\\nc.png", "\\x1b[31md.png"):
            assert f"{folder}/{name}\n" in out


def test_ctrl_c_leaves_an_index_that_is_read_and_completed(model, capsys):
    gallery(60)
    script = (
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from guidance import cli\nfrom guidance.clip import indexing\n"
        "indexing.COMMIT_SECONDS = 0\nreal = indexing.encode\n"
        "def slow(*args):\n    print(flush=True); time.sleep(0.2)\n    return real(*args)\n"
        "indexing.encode = slow\nsys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "embed", "bilder", "--batch", "4", "--clip", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "stopped early; the same command goes on\n"
    with closing(Index("outputs/index")) as index:
        assert 0 < len(index) < 60
    run(capsys, "embed", "bilder", "--clip", model)
    assert "0 encoded, 60 unchanged" in run(capsys, "embed", "bilder", "--clip", model)


def test_duplicates_are_listed(model, capsys):
    paths = gallery(3)
    copy = paths[0].with_name("copy.png")
    copy.write_bytes(paths[0].read_bytes())
    run(capsys, "embed", "bilder", "--clip", model)
    ((first, second),) = json.loads(run(capsys, "duplicates", "--json", "--threshold", "0.9999"))
    assert {first["path"], second["path"]} == {str(copy), str(paths[0])}
    assert second["score"] == pytest.approx(1, abs=1e-4)
    assert "2 pictures in 1 groups" in run(capsys, "duplicates", "--threshold", "0.9999")


def test_rank_sorts_by_clip_score(model, capsys):
    paths = gallery()
    Path("bilder", "broken.png").write_text("x")
    prompt = "a red heart | the blue whale:-0.5"
    ranked = json.loads(run(capsys, "rank", prompt, "bilder", paths[2], "--clip", model, "--json"))
    clip = load(model)
    scores = {str(path): clip_score(clip, parse(prompt), read_image(path)).item() for path in paths}
    assert [each["path"] for each in ranked] == sorted(scores, key=lambda path: -scores[path])
    assert all(each["score"] == pytest.approx(scores[each["path"]], abs=1e-4) for each in ranked)
    assert "sheet: outputs/rank.png" in run(capsys, "rank", prompt, *paths, "--clip", model, "--top", 3)
    assert read_image("outputs/rank.png").shape[2] < 500


def test_rank_takes_the_final_pictures_of_runs(model, capsys):
    paths = gallery(2)
    for i, path in enumerate(paths):
        run_folder = Path("outputs", "clipdraw", f"fox-{i}")
        run_folder.mkdir(parents=True)
        (run_folder / "run.json").write_text("{}")
        (run_folder / "final.png").write_bytes(path.read_bytes())
        (run_folder / "sheet.png").write_bytes(path.read_bytes())
    ranked = json.loads(run(capsys, "rank", f"@{paths[1]}", "outputs", "--clip", model, "--json"))
    assert [Path(each["path"]).parent.name for each in ranked] == ["fox-1", "fox-0"]
    assert torch.tensor(ranked[0]["score"]) > 0.99
