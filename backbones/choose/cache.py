"""What was measured on this machine before. No torch here.

One JSON file for each machine with its versions, in $XDG_CACHE_HOME/backbones, or ~/.cache/backbones: deleting it
does no harm.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from backbones import catalog
from backbones.choose.latency import Latency, Setting
from backbones.choose.machine import Machine

log = logging.getLogger("backbones")

DTYPE = "float32"


def folder() -> Path:
    """Where results are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "backbones"


class Cache:
    """The results of one machine with these versions, by setting."""

    def __init__(self, machine: Machine, versions: Mapping[str, str]) -> None:
        self._machine, self._versions = machine, dict(versions)
        self._head = {"machine": asdict(machine), "versions": self._versions}
        self.file = folder() / f"latency-{_digest(self._head)}.json"

    def read(self, settings: Iterable[Setting], runs: int) -> dict[Setting, Latency]:
        """What is known of these settings, from at least so many runs."""
        known = self._load()
        found = {setting: known.get(_key(setting)) for setting in settings}
        return {s: self._latency(s, values) for s, values in found.items() if values and values["runs"] >= runs}

    def write(self, latencies: Iterable[Latency]) -> None:
        """Keep these too, in place of older ones of their settings."""
        with FileLock(self.file.with_suffix(".lock")):
            results = self._load()
            for latency in latencies:
                values = asdict(latency)
                del values["setting"], values["machine"], values["versions"]
                results[_key(latency.setting)] = values
            whole = self.file.with_suffix(".new")
            whole.write_text(json.dumps({**self._head, "results": results}, indent=1) + "\n")
            os.replace(whole, self.file)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else measures: of two that would, one waits."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.file.with_name("measuring.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting until another process has measured")
            lock.acquire(poll_interval=1.0)
        try:
            yield
        finally:
            lock.release()

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self.file.read_text())["results"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            log.warning("%s cannot be read; it is written anew", self.file)
            return {}

    def _latency(self, setting: Setting, values: Mapping[str, Any]) -> Latency:
        rest = {**values, "flags": tuple(values["flags"])}
        return Latency(setting=setting, machine=self._machine, versions=self._versions, **rest)


def _key(setting: Setting) -> str:
    """The setting in words, with the network's definition: a network that is changed is another."""
    entry = catalog.load()[setting.network]
    measured = entry["measured"]
    definition = [entry["settings"], entry["input_size"], entry["num_classes"], measured["params"], measured["madds"]]
    how = f"{setting.img_size} px, batch {setting.batch_size}, {setting.threads} threads, {setting.device}, {DTYPE}"
    return f"{setting.network} {_digest(definition)}, {how}"


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
