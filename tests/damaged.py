"""A folder of photos as the world has them: most are fine, some are odd but whole, some cannot be used."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, kind: str = "JPEG", mode: str = "RGB", side: int = 24) -> bytes:
    """A picture of noise in the mode, stored as this kind of file."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stored = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stored, kind)
    return stored.getvalue()


def gray16(seed: int) -> bytes:
    """PNG of 16 bits"""
    stored = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 65536, (32, 32), dtype=np.uint16)).save(stored, "PNG")
    return stored.getvalue()


def animated(seed: int) -> bytes:
    """GIF of three frames"""
    frames = [Image.open(io.BytesIO(photo(seed + i, "PNG"))) for i in range(3)]
    stored = io.BytesIO()
    frames[0].save(stored, "GIF", save_all=True, append_images=frames[1:])
    return stored.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """PNG whose header promises 3.6 thousand million pixels"""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


UNUSABLE = ("empty", "cut", "text", "bomb", "dangling", "forbidden")
ODD = ("misnamed", "cmyk", "gray16", "animated", "transparent")


def hostile_folder(path: Path, n: int, share: float = 0.05, parts: tuple[str, ...] = ("train", "val")) -> list[Path]:
    """`n` images of two classes in each part; the paths of the share that cannot be used, in the order of the folder.

    As many again are odd but whole. Files without permission are among them only where permissions count.
    """
    unusable = [kind for kind in UNUSABLE if kind != "forbidden" or os.geteuid()]
    bad: list[Path] = []
    for part in parts:
        count = round(share * n)
        places = np.random.default_rng(len(part)).permutation(n)
        kinds = {int(at): unusable[i % len(unusable)] for i, at in enumerate(places[:count])}
        kinds |= {int(at): ODD[i % len(ODD)] for i, at in enumerate(places[count : 2 * count])}
        for i in range(n):
            file = path / part / ("cat" if i < n // 2 else "dog") / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = kinds.get(i, "photo")
            _write(file, kind, i)
            if kind in UNUSABLE:
                bad.append(file)
    return bad


def _write(file: Path, kind: str, seed: int) -> None:
    if kind == "dangling":
        file.symlink_to("nowhere.jpg")
        return
    contents: dict[str, Callable[[], bytes]] = {
        "photo": lambda: photo(seed),
        "empty": lambda: b"",
        "cut": lambda: photo(seed)[:500],
        "text": lambda: b"<html>404 Not Found</html>",
        "bomb": bomb,
        "forbidden": lambda: photo(seed),
        "misnamed": lambda: photo(seed, "PNG"),
        "cmyk": lambda: photo(seed, mode="CMYK"),
        "gray16": lambda: gray16(seed),
        "animated": lambda: animated(seed),
        "transparent": lambda: photo(seed, "PNG", "RGBA"),
    }
    file.write_bytes(contents[kind]())
    if kind == "forbidden":
        file.chmod(0)
