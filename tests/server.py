"""A small web server on this machine that can behave badly; it also plays the Hugging Face Hub."""

import hashlib
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
    ranges: bool = True
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

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

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
        missing = Page(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        page = self.server.pages.get(self.path, missing)
        if page.stall_at_once:
            self.server.closing.wait()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and page.ranges else 0
        if start > len(page.body):
            self.send_error(416)
            return
        self.send_response(206 if start else page.status)
        for key, value in page.headers.items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        self.send_header("Content-Length", str(len(page.body) - start))
        self.end_headers()
        if body:
            self.send(page, start)

    def send(self, page: Page, start: int) -> None:
        end = start + page.cuts.pop(0) if page.cuts else len(page.body)
        if page.stall is not None:
            end = min(end, page.stall)
        for at in range(start, end, BLOCK):
            self.wfile.write(page.body[at : min(at + BLOCK, end)])
            time.sleep(page.pause)
        if page.stall is not None:
            self.wfile.flush()
            self.server.closing.wait()
        self.close_connection = True


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
