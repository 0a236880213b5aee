"""What the scripts of this folder have in common: the machine in words, its peak, ratios as rows."""

import os
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version

import torch

from backbones import machine
from backbones.timing import Times

PEAK_SIDE, PEAK_SECONDS = 2048, 0.5


def heading(device: str, *packages: str) -> str:
    """Where and with what the figures below were taken."""
    here = machine.this(device)
    said = [here.accelerator or here.cpu, f"{here.processors} processors, {torch.get_num_threads()} threads"]
    said += [f"{name} {version(name)}" for name in ("torch", *packages)]
    return f"{date.today()}; {'; '.join(said)}; load {machine.load() or 0:.1f}"


def peak(dtype: torch.dtype, device: str) -> float:
    """Multiply-adds per second of a product of two large matrices: the best of half a second."""
    left = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    best, until = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < until:
        best = min(best, seconds(lambda: left @ left, device))
    return PEAK_SIDE**3 / best


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one run, with what it queued on a GPU."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(base: Times, other: Times) -> str:
    """How many times as fast as the base: by medians, and between the extremes of both."""
    believed = "" if base.believed and other.believed else ", disturbed"
    low, high = base.low / other.high, base.high / other.low
    return f"{base.median / other.median:.2f} ({low:.2f} to {high:.2f}{believed})"


def resident() -> float:
    """The most memory that this process ever had, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if os.uname().sysname == "Linux" else 2**20)
