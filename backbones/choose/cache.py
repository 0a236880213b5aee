"""What was measured on this machine before. No torch here.

One JSON file for each machine with its versions, in $XDG_CACHE_HOME/backbones, or ~/.cache/backbones: deleting it
does no harm.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from filelock import FileLock, Timeout

from backbones import catalog
from backbones.choose.latency import Latency, Setting
from backbones.machine import Machine
from backbones.places import cache_folder

log = logging.getLogger("backbones")

DTYPE = "float32"


class Cache:
    """What is known of one machine with these versions: a file of sections, each of values by name."""

    def __init__(self, machine: Machine, versions: Mapping[str, str]) -> None:
        self._machine, self._versions = machine, dict(versions)
        self._head = {"machine": asdict(machine), "versions": self._versions}
        self.file = cache_folder() / f"machine-{_digest(self._head)}.json"

    def read(self, settings: Iterable[Setting], runs: int) -> dict[Setting, Latency]:
        """What is known of these settings, from at least so many runs."""
        known, found = self._section("latency"), {}
        for setting in settings:
            with suppress(KeyError, TypeError):  # unknown, or written by another form of this program
                values = known[_key(setting)]
                if values["runs"] >= runs:
                    found[setting] = self._latency(setting, values)
        return found

    def write(self, latencies: Iterable[Latency]) -> None:
        """Keep these too, in place of older ones of their settings."""
        self._keep("latency", {_key(latency.setting): _values(latency) for latency in latencies})

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

    def _section(self, name: str) -> dict[str, Any]:
        section = self._load().get(name)
        return section if isinstance(section, dict) else {}

    def _keep(self, name: str, values: Mapping[str, Any]) -> None:
        """Add to a section, in a file that is replaced whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):
            sections = self._load()
            old = sections.get(name)
            sections[name] = {**(old if isinstance(old, dict) else {}), **values}
            whole = self.file.with_suffix(".new")
            whole.write_text(json.dumps({**self._head, **sections}, indent=1) + "\n")
            os.replace(whole, self.file)

    def counted(self, what: str, settings: Iterable[Setting]) -> dict[Setting, Any]:
        """What was counted of networks before: their profiles of operators, their costs."""
        known = self._section(what)
        return {s: known[_shape_key(s)] for s in settings if isinstance(known.get(_shape_key(s)), dict)}

    def keep_counted(self, what: str, counts: Mapping[Setting, Mapping[str, int]]) -> None:
        """Keep these too."""
        self._keep(what, {_shape_key(s): values for s, values in counts.items()})

    def times(self, setting: Setting) -> dict[str, float]:
        """Seconds of the operator calls that were timed before with these threads, on this device."""
        known = self._section(_operators(setting))
        return {call: seconds for call, seconds in known.items() if isinstance(seconds, float)}

    def keep_times(self, setting: Setting, times: Mapping[str, float]) -> None:
        """Keep these too."""
        self._keep(_operators(setting), times)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(json.loads(self.file.read_text()))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            log.warning("%s cannot be read; it is written anew", self.file)
            return {}

    def _latency(self, setting: Setting, values: Mapping[str, Any]) -> Latency:
        rest = {**values, "flags": tuple(values["flags"])}
        return Latency(setting=setting, machine=self._machine, versions=self._versions, **rest)


def _values(latency: Latency) -> dict[str, Any]:
    """Without what the file and the name of the value tell."""
    return {key: value for key, value in asdict(latency).items() if key not in ("setting", "machine", "versions")}


def _operators(setting: Setting) -> str:
    return f"operators, {setting.threads} threads, {setting.device}"


def _key(setting: Setting) -> str:
    """The setting in words."""
    return f"{_shape_key(setting)}, {setting.threads} threads, {setting.device}, {DTYPE}"


def _shape_key(setting: Setting) -> str:
    """What is computed, with the network's definition: a network that is changed is another."""
    entry = catalog.load()[setting.network]
    measured = entry["measured"]
    definition = [entry["settings"], entry["input_size"], entry["num_classes"], measured["params"], measured["madds"]]
    return f"{setting.network} {_digest(definition)}, {setting.img_size} px, batch {setting.batch_size}"


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
