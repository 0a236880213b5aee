"""A small web server on this machine that can behave badly; it also plays the Hugging Face Hub."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 13
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Page:
    """What the server has under one path, and how it fails."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    """answers that end after so many bytes, one after the other"""
    stall: int | None = None
    """bytes after which nothing comes"""
    stall_at_once: bool = False
    """not even headers come"""
    length: bool = True
    """whether it tells how long it is"""
    ranges: bool = True
    """whether pieces are sent when asked for"""
    pause: float = 0.0
    """seconds between blocks"""


class Server(ThreadingHTTPServer):
    """Pages by path; `seen` holds (method, path, Range) of all requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.seen: list[tuple[str, str, str]] = []
        self.proxied: list[str] = []
        """what requests say to a proxy"""
        self.connections = 0
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, path: str, page: Page) -> str:
        self.pages[path] = page
        return self.url + path

    def add_repo(self, repo: str, files: dict[str, Page], revisions: tuple[str, ...] = ("main", COMMIT)) -> None:
        """As the hub answers: the commit, and for weights the sha256 as the etag."""
        for name, page in files.items():
            etag = hashlib.sha256(page.body).hexdigest() if name.endswith(".safetensors") else "ab" * 20
            page.headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'} | page.headers
            for revision in revisions:
                self.pages[f"/{repo}/resolve/{revision}/{name}"] = page

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # keeps connections open

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        asked = self.headers.get("Range", "")
        if not self.path.startswith("/api/"):  # the hub's client asks for news of its own
            self.server.seen.append((self.command, self.path, asked))
            self.server.proxied.append(self.headers.get("Proxy-Authorization", ""))
        missing = Page(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        page = self.server.pages.get(self.path, missing)
        if page.stall_at_once:
            self.server.closing.wait()
            return
        first, _, last = (
            asked.removeprefix("bytes=").partition("-") if page.ranges and page.status == 200 else ("", "", "")
        )
        start, end = int(first or 0), min(int(last or len(page.body)) + 1, len(page.body))
        if start > len(page.body):
            self.send_error(416)
            return
        self.send_response(206 if start or last else page.status)
        for key, value in page.headers.items():
            self.send_header(key, value)
        if start or last:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(page.body)}")
        if page.length:
            self.send_header("Content-Length", str(end - start))
        else:
            self.close_connection = True
        self.end_headers()
        if body:
            self.send(page, start, end)

    def send(self, page: Page, start: int, whole: int) -> None:
        end = min(whole, start + page.cuts.pop(0)) if page.cuts else whole
        if page.stall is not None:
            end = min(end, page.stall)
        for at in range(start, end, BLOCK):
            self.wfile.write(page.body[at : min(at + BLOCK, end)])
            time.sleep(page.pause)
        if page.stall is not None:
            self.wfile.flush()
            self.server.closing.wait()
        self.close_connection |= end < whole or page.stall is not None


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
