"""Which stored images were whole when they were last decoded: a JSON file per folder, in the cache."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import PIL

from backbones.places import cache_folder

Stamp = tuple[str, int, int]
"""name, size in bytes and time of change, of what holds an image"""


class Checked:
    """The images of the folder that all these stamps share, as far as they were good; no more than a memory aid."""

    def __init__(self, stamps: Iterable[Stamp]) -> None:
        folders = {os.path.dirname(name) for name, _, _ in stamps} or {""}
        with suppress(ValueError):  # addresses and paths have nothing in common
            folders = {os.path.commonpath(folders)}
        self._head = {"folder": min(folders), "reader": f"pillow {PIL.__version__}"}
        digest = hashlib.sha256(json.dumps(self._head).encode()).hexdigest()[:16]
        self._file = cache_folder() / "checked" / f"{digest}.json"
        self._good: dict[str, list[int]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._good = dict(json.loads(self._file.read_text())["good"])
        self._known = dict(self._good)

    def __contains__(self, stamp: Stamp | None) -> bool:
        return stamp is not None and self._good.get(stamp[0]) == [stamp[1], stamp[2]]

    def add(self, stamp: Stamp) -> None:
        """This one is whole."""
        name, size, changed = stamp
        self._good[name] = [size, changed]

    def save(self) -> None:
        """Remember, where that can be: the file is replaced whole."""
        if self._good == self._known:
            return
        with suppress(OSError):
            replace_whole(self._file, json.dumps({**self._head, "good": self._good}))


def replace_whole(file: Path, text: str) -> None:
    """Write a file that nobody ever sees half written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.replace(new.name, file)
        except BaseException:
            os.unlink(new.name)
            raise
