"""Pieces of files on web servers, over connections that stay open. No torch here."""

import base64
import os
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

TIMEOUT = 20.0
"""seconds to wait for a connection, or for the next byte"""
TRIES = 4
REDIRECTS = 5

Connection = tuple[HTTPConnection, str, dict[str, str]]
"""what goes before the path in a request over it, and what headers"""
_connections: dict[tuple[int, int, str, str], Connection] = {}
"""by process, thread, scheme and host"""


def read_range(url: str, start: int, count: int, total: int) -> bytes:
    """`count` bytes of a file that has `total`, tried a few times.

    Raises:
        ConnectionError: the server cannot be reached or fails, time after time
        OSError: the server has no such file, another one, or cannot send a piece of it
    """
    host = urlsplit(url).netloc
    answer, content = _ask(url, {"Range": f"bytes={start}-{start + count - 1}"}, count)
    if answer.status == 200:
        raise OSError(f"{host} sends whole files only (no range requests); use another server or copy the shards here")
    if answer.status == 416:
        raise OSError(f"{url} ends before byte {start + count:,}, where its index has an image; make the index anew")
    if answer.status != 206:
        raise OSError(f"{host} answered {answer.status} {answer.reason} to {url}; check the address")
    told = answer.headers.get("Content-Range", "")
    if told.startswith(f"bytes {start}-") and told.endswith(f"/{total}"):
        return content
    raise OSError(f"{url} is not the file of the index, which has {total:,} bytes ({told}); make the index anew")


def read_text(url: str) -> str | None:
    """A small file, None where the server has none."""
    answer, content = _ask(url, {}, None)
    if answer.status in (403, 404, 410):
        return None
    if answer.status != 200:
        raise OSError(f"{urlsplit(url).netloc} answered {answer.status} {answer.reason} to {url}; check the address")
    return content.decode()


def _ask(url: str, headers: dict[str, str], most: int | None) -> tuple[HTTPResponse, bytes]:
    """The answer, and its content, of which no more than `most` bytes are awaited."""
    last: Exception = ConnectionError()
    for again in range(TRIES):
        if again > 1:  # at first at once: a server may have closed a connection that rested
            time.sleep(0.1 * 4**again)
        try:
            answer, content = _follow(url, headers, most)
        except (HTTPException, OSError) as error:
            last = error
            continue
        if answer.status < 500 and answer.status != 429:
            return answer, content
        last = ConnectionError(f"it answered {answer.status} {answer.reason}")
    why = str(last) or type(last).__name__
    raise ConnectionError(f"{urlsplit(url).netloc} failed {TRIES} times, at last with: {why} ({url})") from last


def _follow(url: str, headers: dict[str, str], most: int | None) -> tuple[HTTPResponse, bytes]:
    """One try, with its redirects."""
    for _ in range(REDIRECTS):
        parts = urlsplit(url)
        key = (os.getpid(), threading.get_ident(), parts.scheme, parts.netloc)
        if key not in _connections:
            _connections[key] = _connection(parts.scheme, parts.netloc)
        connection, before, more = _connections[key]
        path = f"{before}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        try:
            connection.request("GET", path, headers=headers | more)
            answer = connection.getresponse()
            content = answer.read(most)
            if most is not None and len(content) < most and answer.status == 206:
                raise ConnectionError(f"it sent {len(content):,} of {most:,} bytes")
        except BaseException:
            connection.close()
            raise
        if not answer.isclosed():  # there is more than was asked for
            connection.close()
        if answer.status not in (301, 302, 303, 307, 308):
            return answer, content
        url = urljoin(url, answer.headers.get("Location", ""))
    raise ConnectionError("it redirects for ever")


def _connection(scheme: str, netloc: str) -> Connection:
    """To the server, or through the proxy that the environment names."""
    kind = HTTPSConnection if scheme == "https" else HTTPConnection
    named = None if proxy_bypass(netloc) else getproxies().get(scheme)
    if not named:
        return kind(netloc, timeout=TIMEOUT), "", {}
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    who = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(who).decode()}"} if proxy.username else {}
    connection = kind(proxy.hostname or "", proxy.port or 80, timeout=TIMEOUT)
    if scheme == "https":
        connection.set_tunnel(netloc, headers=headers)
        return connection, "", {}
    return connection, f"{scheme}://{netloc}", headers
