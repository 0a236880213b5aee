"""What this machine is and what else it is doing. No torch here."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ACCELERATORS = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
IDLE = (3, 4)  # of /proc/stat's columns: idle, and waiting for a disk
SAMPLE, MOST_OTHERS = 0.2, 0.15  # seconds to look at what others do, and processors that they may use
COUNTED = 8  # of its columns; guests, which follow, are counted before already


@dataclass(frozen=True)
class Machine:
    """What latencies depend on."""

    cpu: str
    processors: int
    """that this process may use"""
    memory: int
    """bytes"""
    system: str
    accelerator: str
    """empty where the processor computes"""


def this(device: str) -> Machine:
    """The machine as it computes on that device."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Machine(_cpu(), len(processors()), _memory("MemTotal"), system, _accelerator(device))


def versions() -> dict[str, str]:
    """Of what else latencies depend on, read without importing it."""
    return {"python": platform.python_version(), "torch": version("torch"), "backbones": version("backbones")}


def processors() -> list[int]:
    """Those that this process may use: one of each core before the second of any, and the first, on which systems
    serve interrupts, late."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    return sorted(allowed, key=lambda cpu: _siblings(cpu).index(cpu))


def cores() -> int:
    """Real ones that this process may use."""
    return len({_siblings(cpu)[0] for cpu in processors()})


def busy(which: Iterable[int]) -> float | None:
    """Seconds that these processors have worked for anybody since the system started, where it tells."""
    names = {f"cpu{number}" for number in which}
    with suppress(OSError, ValueError):
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = sum(
            int(value)
            for name, *columns in lines
            if name in names
            for place, value in enumerate(columns[:COUNTED])
            if place not in IDLE
        )
        return ticks / os.sysconf("SC_CLK_TCK")
    return None


def own() -> float:
    """Seconds that this process and those it started, living or ended, have computed so far."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + sum(map(_worked, _started(os.getpid())))


def crowded(threads: int) -> bool:
    """Whether others use so many processors now that so many threads would have to share. Takes 0.2 s."""
    allowed, start = processors(), time.perf_counter()
    before = busy(allowed)
    time.sleep(SAMPLE)
    after, seconds = busy(allowed), time.perf_counter() - start
    if before is None or after is None:
        return False
    return (after - before) / seconds > len(allowed) - threads + MOST_OTHERS


def load() -> float | None:
    """Mean number of processes that wanted to run in the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def free_memory() -> int:
    """Bytes that may be taken without harm to others."""
    return _memory("MemAvailable")


def _started(process: int) -> list[int]:
    """The living processes that one started, and those that they started, where the system tells."""
    found = list[int]()
    with suppress(OSError, ValueError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found + [later for child in found for later in _started(child)]


def _worked(process: int) -> float:
    """Seconds of all its threads."""
    with suppress(OSError, ValueError, IndexError):
        columns = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, columns[11:15])) / os.sysconf("SC_CLK_TCK")  # with those that it has waited for
    return 0.0


def _siblings(cpu: int) -> list[int]:
    """The processors of one core, itself among them."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        spans = [span.split("-") for span in text.strip().split(",")]
        found = [number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)]
    except (OSError, ValueError):
        return [cpu]
    return found if cpu in found else [cpu]


def _cpu() -> str:
    with suppress(OSError, KeyError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
        return f"{told['model name']} (family {told['cpu family']}, model {told['model']})"
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _memory(kind: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == kind:
                return int(value.split()[0]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _accelerator(device: str) -> str:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ""
    names = _output(*ACCELERATORS).splitlines() if kind == "cuda" else []
    return names[int(number or 0)] if len(names) > int(number or 0) else kind


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return ""
