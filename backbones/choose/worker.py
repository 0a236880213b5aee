"""The child process that computes: python -m backbones.choose.worker, one request and one answer a line, as JSON.

It imports torch at its first request, holds one thing to run (a network, or the calibration kernel), and is idle
between requests. It ends when its parent closes the line or is gone.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf, sqrt
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.backbone import Backbone
    from backbones.records import Variant

Run = Callable[[], object]

WARM_BLOCK = 0.1  # seconds, or two runs
WARM_BLOCKS, WARM_SECONDS = 8, 10.0  # at most, and two blocks at least
SETTLED = 0.03  # relative difference of two blocks in a row
LEAD = 0.02  # seconds before a block, for caches that another process has used meanwhile; at least one run
REST = 0.02  # seconds after a block until the threads of torch stop to look for work
SIDE, FLOATS, KERNEL = 768, 1 << 24, 0.2  # of the calibration kernel: sizes, and seconds of each part


class Worker:
    """Answers requests by the name of a method."""

    def __init__(self) -> None:
        self.parent = os.getppid()
        self.run: Run
        self.parts: dict[str, Run]

    def load(self, network: str, img_size: int, batch_size: int, processors: list[int], device: str) -> dict[str, Any]:
        """Build the network, on one thread, and only then take the processors."""
        import torch

        from backbones.factory import model_info

        torch.set_num_threads(1)
        variant = model_info(network)
        model = _filled(variant, device)
        images = torch.randn(batch_size, variant.input_size[0], img_size, img_size).to(device)
        self.run = self._finished(lambda: model(images), device)
        _pin(processors)
        return {}

    def load_kernel(self, processors: list[int], device: str) -> dict[str, Any]:
        """The calibration kernel: a matrix product, and a pass over more memory than caches hold."""
        import torch

        torch.set_num_threads(1)
        square, long = torch.randn(SIDE, SIDE, device=device), torch.ones(FLOATS, device=device)
        product, moved = torch.empty_like(square), torch.empty_like(long)
        self.parts = {
            "product": self._finished(lambda: torch.mm(square, square, out=product), device),
            "memory": self._finished(lambda: torch.add(long, 1.0, out=moved), device),
        }
        _pin(processors)
        return {}

    def calibrate(self) -> dict[str, Any]:
        """Seconds of runs of each part of the kernel, and as `block` of the whole."""
        with _Account() as account:
            parts = {part: self._times(run, 3, KERNEL) for part, run in self.parts.items()}
        return {"parts": parts, **account.told}

    def warm(self) -> dict[str, Any]:
        """Run until two blocks in a row take the same; seconds of one run, and whether it came to that."""
        self.run()
        end, now = time.perf_counter() + WARM_SECONDS, median(self._times(self.run, 2, WARM_BLOCK))
        for _ in range(1, WARM_BLOCKS):
            before, now = now, median(self._times(self.run, 2, WARM_BLOCK))
            if (settled := abs(now - before) <= SETTLED * now) or time.perf_counter() > end:
                break
        time.sleep(REST)
        return {"seconds": now, "settled": settled}

    def block(self, runs: int, most: float) -> dict[str, Any]:
        """Seconds of each of so many runs, of the whole block, and of the processors' time that it took.

        It stops after `most` seconds: others may slow threads that wait for each other a hundredfold.
        """
        with _Account() as account:
            self._times(self.run, 1, LEAD)
            seconds = self._times(self.run, runs, most=most)
        return {"seconds": seconds, "peak_memory": _peak_memory(), **account.told}

    def profile(self, network: str, img_size: int, batch_size: int) -> dict[str, int]:
        """How often the network makes each operator call."""
        from backbones.build import build_on_meta
        from backbones.cost.calls import calls
        from backbones.factory import model_info

        variant = model_info(network)
        return calls(build_on_meta(variant, {}), (variant.input_size[0], img_size, img_size), batch_size)

    def probe(self, calls: list[str], seconds: float, processors: list[int], device: str) -> dict[str, Any]:
        """Seconds of each operator call, as far as there is time, and of calling a module."""
        from backbones.choose.probing import Prober, module_seconds

        _pin(processors)
        return {"seconds": Prober(device).times(calls, seconds, self._end_alone), "module": module_seconds()}

    def _end_alone(self) -> None:
        """Nobody waits for the answer of a process whose parent is gone."""
        if os.getppid() != self.parent:
            sys.exit()

    def _times(self, run: Run, least: int, seconds: float = 0.0, most: float = inf) -> list[float]:
        """Of one run after another: at least so many, for at least so long, but no longer than `most`."""
        times, begun = list[float](), time.perf_counter()
        while (past := time.perf_counter() - begun) < seconds or (len(times) < least and past < most):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
            self._end_alone()
        return times

    @staticmethod
    def _finished(run: Run, device: str) -> Run:
        """A run that ends when the device has computed."""
        import torch

        if device == "cpu":
            return run

        def finished() -> None:
            run()
            torch.accelerator.synchronize(device)

        return finished


class _Account:
    """Seconds that a `with` block took, by the clock and of the processors' time, until no thread is busy any more."""

    def __enter__(self) -> "_Account":
        self._wall, self._own = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(REST)
        self.told = {"wall": time.perf_counter() - self._wall, "own": time.process_time() - self._own}


def main() -> None:
    """Serve until the line ends. What others print goes to the error stream, so that the line stays clean."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.disable()
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(_answer(worker, json.loads(line))), file=answers, flush=True)


def _answer(worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {key: value for key, value in request.items() if key != "do"}
    try:
        import torch

        with torch.inference_mode():
            return getattr(worker, request["do"])(**arguments)
    except Exception as error:
        return {"error": _reason(error)}


def _reason(error: Exception) -> str:
    import torch

    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
    return f"out of memory ({text}); use a smaller batch or image" if full else text


def _filled(variant: "Variant", device: str) -> "Backbone":
    """The network with values that keep signals finite at any depth, made faster than by its paper's initialisation.

    He's weights keep the size of a signal, norms that damp it keep the sums of shortcuts from growing, and their
    biases keep it from fading. A network that computes its own buffers is built as it is.
    """
    import torch
    from torch import nn

    from backbones.build import build, build_on_meta

    model = build_on_meta(variant, {}).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if len(list(model.buffers())) != sum(len(list(norm.buffers())) for norm in norms):
        return build(variant, {}).eval().to(device)
    model = model.to_empty(device=device)
    pool = torch.randn(1 << 20).to(device)
    for tensor in model.parameters():
        scale = sqrt(2 / tensor[0].numel()) if tensor.ndim > 1 else 0.1
        for part in torch.split(tensor.view(-1), len(pool)):
            torch.mul(pool[: len(part)], scale, out=part)
    for norm in norms:
        norm.reset_running_stats()
        if norm.affine:
            norm.weight.fill_(0.3)
    return model


def _pin(processors: list[int]) -> None:
    """This thread and those that torch starts from now on stay on these processors."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors)
    torch.set_num_threads(len(processors))


def _peak_memory() -> int | None:
    """Bytes. Linux' `ru_maxrss` would count what the parent held when it started this process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    main()
