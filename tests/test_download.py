"""A file from the network: cut, altered, silent, in two processes, killed. No test needs the world."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Page, Server, serving

from backbones.weights import download as module
from backbones.weights.download import download

BODY = bytes(range(256)) * 300
SHA256 = hashlib.sha256(BODY).hexdigest()
CODE = "import sys; from pathlib import Path; from backbones.weights.download import download; "
CALL = "print(download(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "net.pth"


def start(url: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE + CALL, url, str(path), SHA256[:8]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ranges(server: Server) -> list[str]:
    return [asked for _, _, asked in server.seen]


def part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def test_whole_and_once(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY))
    assert download(url, path, SHA256[:8]) == SHA256
    assert path.read_bytes() == BODY
    assert list(path.parent.iterdir()) == [path]
    assert download(url, path, SHA256[:8]) == SHA256
    assert len(server.seen) == 1


def test_a_cut_goes_on_where_it_was(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY, cuts=[20_000, 30_000]))
    assert download(url, path, SHA256[:8]) == SHA256
    assert ranges(server) == ["", "bytes=20000-", "bytes=50000-"]


def test_a_cut_starts_again_without_ranges(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY, cuts=[20_000, 30_000], ranges=False))
    assert download(url, path, SHA256[:8]) == SHA256
    assert len(server.seen) == 3


def test_a_server_that_always_cuts_is_given_up(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY, cuts=[20_000] * 9, ranges=False))
    with pytest.raises(ConnectionError, match="cut the connection after 20,000 of 76,800 bytes; try again"):
        download(url, path, SHA256[:8])
    assert not path.exists()
    server.pages["/net.pth"].cuts.clear()
    assert download(url, path, SHA256[:8]) == SHA256


def test_an_altered_file_is_not_kept(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY[:-1] + b"!"))
    with pytest.raises(ValueError, match=f"its publisher says {SHA256[:8]}.*nothing was kept"):
        download(url, path, SHA256[:8])
    assert not path.exists()
    assert not part(path).exists()


def test_an_altered_file_that_was_here_stays(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(BODY[:-5])
    with pytest.raises(ValueError, match=r"net\.pth has sha256 .* delete it and try again"):
        download(server.add("/net.pth", Page(BODY)), path, SHA256[:8])
    assert path.exists()
    assert server.seen == []


def test_a_longer_rest_of_something_else_is_dropped(server: Server, path: Path) -> None:
    path.parent.mkdir()
    part(path).write_bytes(b"x" * (len(BODY) + 7))
    assert download(server.add("/net.pth", Page(BODY)), path, SHA256[:8]) == SHA256
    part(path.with_name("unhashed")).write_bytes(b"x" * 100)
    download(server.add("/unhashed", Page(BODY)), path.with_name("unhashed"), "")
    assert path.with_name("unhashed").read_bytes() == BODY


def test_refusals(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    host = server.url.removeprefix("http://")
    moved = Page(status=302, headers={"Location": "http://example.org/net.pth"})
    for url, kind, says in (
        (f"{server.url}/none", ConnectionError, f"{host} answered 404 Not Found to "),
        (server.add("/stalls", Page(BODY, stall=20_000)), ConnectionError, f"{host} sent nothing for 0.3 s"),
        (server.add("/silent", Page(BODY, stall_at_once=True)), ConnectionError, f"{host} sent nothing for 0.3 s"),
        ("http://127.0.0.1:9/net.pth", ConnectionError, "cannot reach 127.0.0.1:9 .*refused"),
        ("http://example.org/net.pth", ValueError, "only https:// is"),
        ("file:///etc/hostname", ValueError, "only https:// is"),
        (server.add("/moved", moved), ValueError, "http://example.org/net.pth is not fetched"),
    ):
        with pytest.raises(kind, match=says) as caught:
            download(url, path, SHA256[:8])
        assert "\n" not in str(caught.value)
        assert not path.exists()


def test_two_processes_fetch_it_once(server: Server, path: Path) -> None:
    url = server.add("/net.pth", Page(BODY, pause=0.05))
    for process in [start(url, path), start(url, path)]:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, SHA256), err
    assert len(server.seen) == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_leaves_no_half_file(server: Server, path: Path, kill: signal.Signals) -> None:
    page = Page(BODY, stall=40_000)
    url = server.add("/net.pth", page)
    process = start(url, path)
    while not part(path).exists() or part(path).stat().st_size < 40_000:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, kill)
    process.communicate(timeout=60)
    assert not path.exists()
    page.stall = None
    assert download(url, path, SHA256[:8]) == SHA256
    assert ranges(server) == ["", "bytes=40000-"]
