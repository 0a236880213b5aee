"""Tar files of others: where the images lie in them and what their labels are, found by reading the headers once."""

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO, Self
from urllib.error import HTTPError
from urllib.request import urlopen

from backbones.data.checked import replace_whole
from backbones.data.decode import EXTENSIONS
from backbones.data.web import TIMEOUT
from backbones.places import cache_folder

log = logging.getLogger("backbones")

WAY = 2
"""of walking; what another way has found is not remembered"""
HIGHEST = 1_000_000
"""number of a class"""
MOST_LABEL = 1 << 16
"""bytes of a .cls or .json"""
MOST_HEADER = 1 << 20
"""bytes of a header that goes before a member's own, such as for a long name"""
LONG = b"LKxgX"
"""types of such headers"""

Sample = tuple[int, int, int, str]
"""offset, bytes, label and name of an image"""


class Header(tarfile.TarInfo):
    """A header as it stands in the file; longer ones before it may correct its name."""

    plain = ""
    """the name in it"""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in LONG and header.size > MOST_HEADER):
            raise tarfile.ReadError(f"the header {header.name} tells of {header.size:,} bytes")
        header.plain = header.name
        return header

    def may_be(self, name: str) -> bool:
        """Whether it can be of a member of this name: it may be cut there, and have ? for what is not ASCII."""
        plain = self.plain.encode(errors="surrogateescape")
        spellings = name.encode(errors="surrogateescape"), name.encode("ascii", "replace")
        return any(plain in (spelling, spelling[:100]) for spelling in spellings)


def on_web(name: str) -> bool:
    """Whether this is an address."""
    return name.startswith(("http://", "https://"))


def walk(name: str) -> tuple[int, list[Sample]]:
    """(bytes, images) of a tar file, remembered until it changes."""
    try:
        with _open(name) as file:
            size, version = _size_and_version(name, file)
            key = json.dumps([name if on_web(name) else os.path.abspath(name), size, version, WAY])
            memory = cache_folder() / "shards" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
            if version:
                with suppress(OSError, ValueError):
                    return size, [tuple(sample) for sample in json.loads(memory.read_text())]
            log.info("reading the headers of %s, once", name)
            samples = list(_samples(file, size, on_web(name)))
    except HTTPError as error:
        error.close()
        raise OSError(f"the server answered {error.code} {error.reason} to {name}; check the address") from None
    except (tarfile.TarError, EOFError, RecursionError) as error:
        why = (
            "compressed tar files cannot be read in any order: unpack them to .tar" if ".gz" in name else "copy it anew"
        )
        raise ValueError(f"{name} is not a whole plain tar file ({error}); {why}") from None
    except HTTPException as error:
        raise ConnectionError(f"{name} came cut ({error!r}); try again") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None
    if not samples:
        raise ValueError(f"{name} has no images; remove it")
    if version:
        with suppress(OSError):
            replace_whole(memory, json.dumps(samples))
    return size, samples


def _open(name: str) -> BinaryIO:
    if on_web(name):
        answer: BinaryIO = urlopen(name, timeout=TIMEOUT)
        return answer
    return open(name, "rb")


def _size_and_version(name: str, file: BinaryIO) -> tuple[int, str]:
    """How many bytes it has, and what changes when its content does; "" where a server does not tell."""
    if not isinstance(file, HTTPResponse):
        found = os.fstat(file.fileno())
        return found.st_size, str(found.st_mtime_ns)
    length = file.headers["Content-Length"]
    if not length:
        raise OSError(f"the server does not tell the size of {name}; use another server or copy the shards here")
    return int(length), file.headers["ETag"] or file.headers["Last-Modified"] or ""


def _samples(file: BinaryIO, size: int, stream: bool) -> Iterator[Sample]:
    """What follows one another in the tar file with the same name up to the first dot is a sample."""
    if not stream:
        file.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
        if any(file.read()):
            raise tarfile.ReadError("its end is missing")
        file.seek(0)
    key, image, label = "", None, None
    with tarfile.open(fileobj=file, mode="r|" if stream else "r:", tarinfo=Header, encoding="utf-8") as tar:
        for member in tar:
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes")
            folder, _, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            if not member.isfile() or not stem or not dot:
                continue
            if f"{folder}/{stem}" != key:
                if key:
                    yield _sample(key, image, label)
                key, image, label = f"{folder}/{stem}", None, None
            if f".{ending.lower()}" in EXTENSIONS:
                if image:
                    raise ValueError(f"{key} has two images, {image[2]} and {member.name}; give each its own name")
                image = (member.offset_data, member.size, _shown(member))
            elif ending in ("cls", "json") and label is None:
                if member.size > MOST_LABEL:
                    raise ValueError(f"{member.name} has {member.size:,} bytes, too many for a label; write it anew")
                content = tar.extractfile(member)
                label = _label(member.name, content.read() if content else b"")
    if key:
        yield _sample(key, image, label)


def _shown(member: tarfile.TarInfo) -> str:
    """The name by which the header before the image is known again."""
    return member.plain if isinstance(member, Header) and not member.may_be(member.name) else member.name


def _sample(key: str, image: tuple[int, int, str] | None, label: int | None) -> Sample:
    if image is None:
        raise ValueError(f"{key} has no image ({', '.join(EXTENSIONS)}); remove it")
    if label is None:
        raise ValueError(f"{key} has no label; it takes a .cls with the number of the class, or a .json with 'label'")
    return image[0], image[1], label, image[2]


def _label(name: str, content: bytes) -> int | None:
    """The number of the class; None where a .json does not tell it."""
    try:
        if name.endswith(".cls"):
            label = int(content) if content.strip().isdigit() else None
        else:
            told = json.loads(content)
            label = told.get("label", told.get("cls")) if isinstance(told, dict) else None
            if label is None:
                return None
        if type(label) is int and 0 <= label <= HIGHEST:
            return label
    except (ValueError, RecursionError):
        pass
    raise ValueError(
        f"{name} has no number of a class, but {content[:40]!r}; write a whole number from 0 to {HIGHEST:,}"
    )
