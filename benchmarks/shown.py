"""What the scripts of this folder have in common: the machine in words, its peak, ratios as rows."""

import os
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version

import torch

from backbones import machine
from backbones.timing import Times

PEAK_SIDE, PEAK_CHANNELS, PEAK_PIXELS, PEAK_SECONDS = 2048, 256, 56, 0.5


def heading(device: str, *packages: str) -> str:
    """Where and with what the figures below were taken."""
    here = machine.this(device)
    said = [here.accelerator or here.cpu, f"{here.processors} processors, {torch.get_num_threads()} threads"]
    said += [f"{name} {version(name)}" for name in ("torch", *packages)]
    return f"{date.today()}; {'; '.join(said)}; load {machine.load() or 0:.1f}"


def peak(dtype: torch.dtype, device: str) -> float:
    """Multiply-adds per second, the best of half a second each: of a product of two large matrices, and of a 3x3
    convolution of 256 channels, for libraries of the one may know a processor better than those of the other."""
    square = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    image = torch.randn(4, PEAK_CHANNELS, PEAK_PIXELS, PEAK_PIXELS, device=device).to(dtype)
    layer = torch.nn.Conv2d(PEAK_CHANNELS, PEAK_CHANNELS, 3, padding=1, device=device, dtype=dtype)
    layer, image = (part.to(memory_format=torch.channels_last) for part in (layer, image))
    known = {
        PEAK_SIDE**3: lambda: square @ square,
        4 * PEAK_PIXELS**2 * PEAK_CHANNELS**2 * 9: lambda: layer(image),
    }
    with torch.inference_mode():
        return max(madds / _fastest(run, device) for madds, run in known.items())


def _fastest(run: Callable[[], object], device: str) -> float:
    best, until = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < until:
        best = min(best, seconds(run, device))
    return best


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
