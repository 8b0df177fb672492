"""WIT's tables, and pictures from the web: against a server on this machine."""

import gzip
import io
import math
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from guidance import InputError
from guidance.clip.datasets import Augmentation, Batches, Caption, fetch, open_sources, wit
from guidance.clip.datasets.fetch import Web, is_public
from guidance.clip.datasets.wit import COLUMNS, WitRows
from guidance.clip.pictures import Unusable


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(stream, "png")
    return stream.getvalue()


def line(url: str, **fields: str) -> str:
    values = {"language": "en", "image_url": url, "attribution_passes_lang_id": "true"} | fields
    return "\t".join(values.get(column, "") for column in COLUMNS) + "\n"


def reference(text: str) -> dict[str, str]:
    return {"caption_reference_description": text}


ROWS = [
    line("http://x/a.jpg", caption_reference_description='He said "tab', caption_alt_text_description="alt"),
    line(
        "http://x/b.jpg", caption_alt_text_description="'alt", caption_attribution_description="attribution"
    ),
    line("http://x/c.jpg", caption_attribution_description="attribution", language="zh-TW"),
    line("http://x/d.jpg", caption_attribution_description="else", attribution_passes_lang_id="false"),
    line("http://x/e.jpg"),
    line("", **reference("no picture")),
    "too\tfew\n",
    line("http://x/f.jpg", **reference("猫\u2028 one line")),
    "x" * (2**20 + 5) + "\n",
    line("http://x/g.jpg", **reference("last")).rstrip("\n"),
]
EXPECTED = [
    ("http://x/a.jpg", Caption('He said "tab', "en")),
    ("http://x/b.jpg", Caption("'alt", "en")),
    ("http://x/c.jpg", Caption("attribution", "zh-TW")),
    ("http://x/f.jpg", Caption("猫\u2028 one line", "en")),
    ("http://x/g.jpg", Caption("last", "en")),
]


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_rows_and_captions_by_the_rule(tmp_path, monkeypatch, ending, header):
    monkeypatch.setattr(wit, "BLOCK", 2)
    monkeypatch.setattr(WitRows, "block", 2)
    text = ("\t".join(COLUMNS) + "\n" if header else "") + "".join(ROWS)
    file = tmp_path / f"wit{ending}"
    file.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    ((_, source),) = open_sources([f"wit:{file}"], cache=tmp_path / "cache")
    rows = source.train
    assert len(rows) == 5
    for order in (range(5), (4, 0, 3, 1, 2)):
        assert [(rows[i].picture, rows[i].captions[0]) for i in order] == [EXPECTED[i] for i in order]
    # What was found is kept; not for another file of this name.
    monkeypatch.setattr(wit, "_rows", lambda stream: pytest.fail("read again"))
    assert len(WitRows(file, Web(tmp_path / "cache"))) == 5


def test_a_table_that_changes_or_is_none(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(ROWS))
    rows = WitRows(file, Web(tmp_path / "cache"))
    file.write_text(ROWS[0])
    with pytest.raises(InputError, match="has changed"):
        rows[0]
    file.write_text("a\tb\n")
    with pytest.raises(InputError, match="no rows with a caption"):
        WitRows(file, Web(tmp_path / "cache"))
    whole = gzip.compress("".join(ROWS).encode())
    (tmp_path / "b.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="give a whole"):
        WitRows(tmp_path / "b.tsv.gz", Web(tmp_path / "cache"))


def test_a_broken_archive_is_one_line(tmp_path):
    """Wherever a byte is wrong: gzip raises three kinds of errors."""
    rows = "".join(line(f"http://x/{i * i * 7919}.jpg", **reference(f"{i * i}")) for i in range(300))
    whole, raised = gzip.compress(rows.encode()), set()
    for place in range(10, len(whole), len(whole) // 40):
        broken = bytearray(whole)
        broken[place : place + 3] = b"\xff\x00\xff"
        file = tmp_path / f"{place}.tsv.gz"
        file.write_bytes(broken)
        with pytest.raises(InputError, match="give a whole") as caught:
            WitRows(file, Web(tmp_path / "cache"))
        raised.add(type(caught.value.__cause__).__name__)
    assert "error" in raised  # zlib's


def test_pictures_of_a_folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "secret.png").write_bytes(png(99))
    urls = [f"https://upload.example/a/ab/{name}" for name in ("K%C3%B6ln_1.png", "b.png?x=1", "none.png")]
    urls += ["http://x/..%2Fsecret.png", "http://x/..", "http://x/", "http://x/%00.png", "http://[x/a.png"]
    (images / "Köln_1.png").write_bytes(png(1))
    (images / "b.png").write_bytes(png(2))
    file = tmp_path / "wit.tsv"
    file.write_text("".join(line(url, **reference("x")) for url in urls))
    ((_, source),) = open_sources([f"wit:{tmp_path}"], cache=tmp_path / "cache", images=images)
    assert [source.train[i].content() for i in range(2)] == [png(1), png(2)]
    for number in range(2, len(urls)):
        with pytest.raises(Unusable):
            source.train[number].content()
    assert not source.train.remote
    with pytest.raises(InputError, match="no folder of pictures"):
        open_sources([f"wit:{tmp_path}"], cache=tmp_path, images=tmp_path / "nowhere")


class Server(ThreadingHTTPServer):
    """Answers by path, and counts what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.daemon_threads = True
        self.patience = math.inf

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        name = self.path[1:]
        self.server.asked[name] += 1
        if name.startswith("redirect"):
            self.send_response(302)
            self.send_header("Location", {"redirect": "/7", "redirect-in": "http://10.0.0.1/7",
                "redirect-file": "file:///etc/passwd", "redirect-loop": "/redirect-loop"}[name])  # fmt: skip
            self.end_headers()
            return
        if name == "gone" or (name == "busy" and self.server.asked[name] < 3) or name == "down":
            self.send_error(404 if name == "gone" else 503)
            return
        body = self.server.files.get(name) or (png(int(name)) if name.isdigit() else b"x" * 5000)
        self.send_response(200)
        if name != "endless":
            self.send_header("Content-Length", str(len(body) + (10 if name == "short" else 0)))
        self.end_headers()
        try:
            while name in ("slow", "endless") and time.monotonic() < self.server.patience:
                self.wfile.write(b"x" if name == "slow" else body)
                time.sleep(0.05 if name == "slow" else 0)
            self.wfile.write(body)
        except OSError:
            pass  # the other side had enough


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """A server whose address counts as public; all others are judged as ever."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def web(tmp_path) -> Web:
    return Web(tmp_path / "cache", most=6000, seconds=1.0, pause=0.01)


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(server, web):
    threads = [threading.Thread(target=web.read, args=(server.url("7"),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert web.read(server.url("7")) == png(7)
    assert server.asked == {"7": 1}
    assert Web(web.folder).read(server.url("7")) == png(7)
    assert server.asked == {"7": 1}
    assert files(web.folder) == [""]


@pytest.mark.parametrize(
    ("name", "reason", "times", "kept"),
    [
        ("gone", "status 404", 1, [".gone"]),
        ("down", "status 503, 3 times", 3, []),
        ("short", "cut short, 3 times", 3, []),
        ("endless", "over 6000 bytes", 1, [".gone"]),
        ("redirect-in", "not a public address", 1, [".gone"]),
        ("redirect-file", r"no http\(s\) address", 1, [".gone"]),
        ("redirect-loop", "redirected too often", 6, [".gone"]),
    ],
)
def test_what_cannot_be_fetched_has_a_reason(server, web, name, reason, times, kept):
    for _ in range(1 + len(kept)):  # what is final is not asked for again
        with pytest.raises(Unusable, match=reason):
            web.read(server.url(name))
    assert server.asked[name] == times
    assert files(web.folder) == kept


def test_a_busy_server_is_asked_again_and_a_redirection_followed(server, web):
    assert web.read(server.url("busy")) == b"x" * 5000
    assert server.asked["busy"] == 3
    assert web.read(server.url("redirect")) == png(7)
    with pytest.raises(Unusable, match="over 4000 bytes"):
        Web(web.folder, most=4000).read(server.url("large"))


def test_a_slow_server_is_not_waited_for(server, tmp_path):
    start = time.monotonic()
    with pytest.raises(Unusable, match="too slow"):
        Web(tmp_path, seconds=0.3, tries=1).read(server.url("slow"))
    assert time.monotonic() - start < 5
    assert files(tmp_path) == []


def test_time_runs_out_before_there_is_a_connection(server, tmp_path, monkeypatch):
    def late(host: str, port: int, until: float) -> socket.socket:
        time.sleep(max(0.0, until - time.monotonic()) + 0.2)
        return socket.create_connection((host, port), 10)

    server.patience = time.monotonic() + 5  # else this test would never end
    monkeypatch.setattr(fetch, "_dial", late)
    start = time.monotonic()
    with pytest.raises(Unusable, match="too slow"):
        Web(tmp_path, seconds=0.3, tries=1).read(server.url("slow"))
    assert time.monotonic() - start < 4


def test_a_name_with_any_number_of_dead_addresses_is_given_up(tmp_path, monkeypatch):
    waited = []

    class Dead(socket.socket):
        def connect(self, place: object) -> None:
            waited.append(self.gettimeout())
            time.sleep(0.1)
            raise TimeoutError

    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place] * 1000)
    monkeypatch.setattr(socket, "socket", Dead)
    with pytest.raises(Unusable, match="too slow"):
        Web(tmp_path, seconds=0.5, tries=1).read("http://x/y.png")
    assert len(waited) < 10
    assert max(waited) <= 0.5


def test_half_a_file_of_a_killed_process_is_no_file(server, web):
    web.read(server.url("7"))
    (path,) = (path for path in web.folder.rglob("*") if path.is_file())
    path.rename(path.with_name(f".{path.name}.1.tmp"))
    assert web.read(server.url("7")) == png(7)
    assert server.asked == {"7": 2}


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://x/y",
        "x.png",
        "",
        "http://",
        "http://[::1",
        "http://x:99999/",
        "http://\udcff/",
        "http://a b/x.png",
        "http://a\x7fb/x.png",
        "http://a\0b/x.png",
    ],
)
def test_no_address(web, address):
    with pytest.raises(Unusable, match=r"no http\(s\) address"):
        web.read(address)


def test_addresses_of_this_network_are_refused(web):
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "2130706433"):
        with pytest.raises(Unusable, match="not a public address"):
            web.read(f"http://{host}:9/x.png")
    inside = ["10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "224.0.0.1", "fe80::1", "fc00::1", "::"]
    inside += ["::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1"]
    inside += ["::7f00:1", "::ffff:0:7f00:1", "fec0::1", "64:ff9b:1::a00:1"]
    assert not any(map(is_public, inside))
    assert all(map(is_public, ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]))


def test_training_on_addresses(server, tmp_path):
    lines = [line(server.url(str(i)), **reference(f"number {i}")) for i in range(20)]
    lines[4] = line(server.url("gone"), **reference("gone"))
    (tmp_path / "wit.tsv").write_text("".join(lines))
    sources = open_sources([f"wit:{tmp_path}/wit.tsv"], cache=tmp_path / "cache")
    batches = Batches(sources, Augmentation(4), batch=20, seed=0, log=tmp_path / "broken.jsonl")
    (batch,) = batches.iterate(0, 1)
    assert [f"number {n}" for n in batch.images[0, :, 0, 2, 2].tolist()] == batch.captions[0]
    assert batches.broken == {server.url("gone"): "status 404"}
    asked = server.asked.total()
    (again,) = Batches(sources, Augmentation(4), batch=20, seed=0).iterate(0, 1)
    assert (again.images == batch.images).all()
    assert server.asked.total() == asked


def test_shards_from_the_web_are_fetched_once_and_then_local(server, tmp_path):
    for number in range(2):
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for name, content in (("a.png", png(number)), ("a.txt", b"x")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        server.files[f"{number}.tar"] = shard.getvalue()
    for _ in range(2):
        ((_, source),) = open_sources([server.url("{0..1}.tar:2")], cache=tmp_path)
        assert [source.train[i].content() for i in (1, 0)] == [png(1), png(0)]
    assert server.asked == {"0.tar": 1, "1.tar": 1}
    with pytest.raises(InputError, match=r"cannot fetch .* \(status 404\)"):
        open_sources([server.url("gone")], cache=tmp_path)
