"""Latency measured on this machine, or remembered from before. No torch here."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from backbones import catalog, machine
from backbones.choose.cache import Cache
from backbones.choose.group import Group, place
from backbones.choose.latency import Failure, Latency, Setting
from backbones.choose.process import Failed, Worker

log = logging.getLogger("backbones")

MOST = 6  # networks held at once
PROCESS = 4e8  # bytes of one that has imported torch and computed


def measure(
    names: str | Iterable[str],
    *,
    batch_size: int = 1,
    threads: int | None = None,
    img_size: int | None = None,
    runs: int = 30,
    device: str = "cpu",
    fresh: bool = False,
) -> dict[str, Latency | Failure]:
    """Measure how long networks take for one batch on this machine, in float32, or tell what was measured before.

    Each network has a process of its own, pinned to as many processors as threads. Six at a time run short blocks in
    turn, so that a machine that slows down does so for all alike; blocks that other processes disturbed are repeated.
    Results are kept under the machine, the versions and the settings.

    Args:
        names: as `backbones list` prints them
        batch_size: images at a time
        threads: of computation; as many as the cores that this process may use by default
        img_size: side of the images; each network's own by default
        runs: at least so many of each network
        device: where to compute, as torch names it
        fresh: measure again what is known

    Returns:
        name -> what was measured, or why it could not be

    Raises:
        LookupError: no such name
        ValueError: a value that is not allowed, or a device on which nothing can be computed
    """
    entries = [catalog.find(name) for name in ([names] if isinstance(names, str) else names)]
    for word, value in (("batch_size", batch_size), ("runs", runs), ("img_size", 1 if img_size is None else img_size)):
        if value < 1:
            raise ValueError(f"{word}={value}; give a whole number, 1 or more")
    threads, most = machine.cores() if threads is None else threads, len(machine.processors())
    if not 1 <= threads <= most:
        raise ValueError(f"threads={threads}; this process may use {most} processors: give 1 to {most}")
    settings = {
        e["name"]: Setting(e["name"], img_size or e["input_size"][1], batch_size, threads, device) for e in entries
    }
    cache = Cache(machine.this(device), machine.versions())
    known: dict[Setting, Latency | Failure] = {}
    if not fresh:
        known.update(cache.read(settings.values(), runs))
    if missing := [s for s in settings.values() if s not in known]:
        with cache.alone():
            if not fresh:  # another process may have measured them meanwhile
                known.update(cache.read(missing, runs))
            for results in _measured([s for s in missing if s not in known], runs):
                cache.write(result for result in results if isinstance(result, Latency))
                known.update((result.setting, result) for result in results)
    return {name: known[setting] for name, setting in settings.items()}


def _measured(settings: Sequence[Setting], runs: int) -> Iterator[list[Latency | Failure]]:
    """One group of networks after another. All settings have the same threads and device."""
    if not settings:
        return
    with closing(Worker(settings[0].threads)) as kernel:
        try:
            kernel.ask("load_kernel", **place(settings[0]))
        except Failed as error:
            raise ValueError(f"cannot compute on {settings[0].device}: {error}") from None
        done = 0
        while held := _fitting(settings[done:]):
            names = ", ".join(setting.network for setting in held)
            log.info("measuring %d to %d of %d: %s", done + 1, done + len(held), len(settings), names)
            with Group(held) as group:
                results = group.measure(runs, kernel)
            yield results
            done += len(held)


def _fitting(settings: Sequence[Setting]) -> Sequence[Setting]:
    """The first of them that half of the free memory can hold at once, by an upper estimate; one at least."""
    room, few = machine.free_memory() / 2, 0
    while few < min(MOST, len(settings)) and (room := room - _memory(settings[few])) > 0:
        few += 1
    return settings[: max(few, 1)]


def _memory(setting: Setting) -> float:
    """Bytes that a process takes at most: maps grow with the images, what else the processor needs does not."""
    entry = catalog.load()[setting.network]
    measured, larger = entry["measured"], (setting.img_size / entry["input_size"][1]) ** 2 * setting.batch_size
    return PROCESS + measured["cpu_memory"] + 2.0 * measured["peak_memory"] * larger
