"""A file from the network: whole or not at all, and on from where it was cut. No torch here."""

import hashlib
import logging
import os
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from filelock import FileLock

log = logging.getLogger("backbones")

TIMEOUT = 10.0
"""seconds to wait for a connection, or for the next byte"""
CHUNK = 1 << 20
LOCAL = ("localhost", "127.0.0.1", "::1")


def download(url: str, path: Path, sha256: str) -> str:
    """Put the file at `path` unless it is there. Returns its sha256, which begins with `sha256`.

    What had come before a cut stays beside `path`; this call or the next goes on from there. Of two processes that
    want the file, one waits for the other.

    Raises:
        ConnectionError: the server cannot be reached, has no such file, fell silent or cut the connection
        ValueError: the file is not the one asked for
    """
    _refuse_insecure(url)
    if path.exists():  # also where nobody may write
        return verify(path, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "lock"))
    with FileLock(lock):
        found = verify(path, sha256) if path.exists() else _fetch(url, path, part, sha256)
        with suppress(OSError):  # nobody needs it once the file is there; Windows keeps what is open
            lock.unlink()
    return found


def verify(path: Path, sha256: str) -> str:
    """The sha256 of a file that is here. ValueError where it does not begin with `sha256`; the file stays."""
    if not (found := digest(path)).startswith(sha256):
        raise ValueError(
            f"{path} has sha256 {found[:8]}..., its publisher says {sha256[:8]}...: it was cut or altered; "
            "delete it and try again"
        )
    return found


def digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, path: Path, part: Path, sha256: str) -> str:
    """Fill `part`, compare it, flush it to the disk, and put it in place."""
    log.info("downloading %s", url)
    if not sha256:  # what was cut may be of another file
        part.unlink(missing_ok=True)
    _receive(url, part)
    if not (found := digest(part)).startswith(sha256):
        part.unlink()
        raise ValueError(
            f"{url} came with sha256 {found[:8]}..., its publisher says {sha256}...; "
            "nothing was kept; try again, or give a file"
        )
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    return found


def _receive(url: str, part: Path) -> None:
    """Fill `part`, with a new connection after each cut, as long as every one brings something."""
    host = urlsplit(url).netloc
    while True:
        have = part.stat().st_size if part.exists() else 0
        try:
            got, total = _connect(url, part, have)
            cut = f"after {got:,} of {total:,} bytes"
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:  # more than the server has
                part.unlink()
                continue
            raise ConnectionError(f"{host} answered {error.code} {error.reason} to {url}") from None
        except TimeoutError:
            raise ConnectionError(f"{host} sent nothing for {TIMEOUT:g} s") from None
        except URLError as error:
            raise ConnectionError(f"cannot reach {host} ({error.reason})") from None
        except (HTTPException, ConnectionError, SSLError) as error:
            got, total, cut = part.stat().st_size if part.exists() else 0, None, f"({error})"
        if got == total:
            return
        if got <= have:
            raise ConnectionError(f"{host} cut the connection {cut}; try again to go on from there")
        log.info("%s cut the connection %s; going on", host, cut)


def _connect(url: str, part: Path, have: int) -> tuple[int, int]:
    """Receive what one connection brings. Bytes that are now in `part`, and those that the whole file has."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _opener.open(request, timeout=TIMEOUT) as answer:
        start, total = _span(answer, have)
        with open(part, "ab" if start else "wb") as file:
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
            got = file.tell()
    return got, got if total is None else total


def _span(answer: HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer starts in the file, and the size of the file as far as the server tells."""
    told, length = answer.headers.get("Content-Range", ""), answer.headers.get("Content-Length")
    if answer.status != 206:  # the whole file, whatever was asked for
        return 0, int(length) if length else None
    if not told.startswith(f"bytes {have}-"):
        raise HTTPException(f"asked from byte {have}, it sent {told!r}")
    return have, int(size) if (size := told.rpartition("/")[2]).isdigit() else None


def _refuse_insecure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise ValueError(f"{url} is not fetched: only https:// is, where nobody on the way can change a file")


class _Redirects(HTTPRedirectHandler):
    """Redirects to https only."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        try:
            _refuse_insecure(newurl)
        except ValueError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = build_opener(_Redirects)
