"""A few networks measured at once: their processes are idle but one, which runs a short block in its turn."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from math import ceil
from statistics import median
from types import TracebackType
from typing import Any, TypeVar

from backbones import machine
from backbones.choose.latency import Block, Failure, Latency, Setting, drift, flags, percentile, quietest
from backbones.choose.process import Failed, Worker

ROUNDS = 5  # blocks of each network that nobody disturbed
MOST_ROUNDS = 2 * ROUNDS  # where some were disturbed
BLOCK = 0.1  # seconds of runs in a block, at least
SLOW = 4.0  # times as long as when warm: such a block is cut short
PATIENCE = 30.0  # seconds in which others may finish, in all

Answer = dict[str, Any]
T = TypeVar("T")


class Group:
    """A context manager: leaving it ends the processes, whatever they do."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        self._settings = settings
        self._workers: dict[Setting, Worker] = {}
        self._failures: dict[Setting, Failure] = {}
        self._blocks: dict[Setting, list[Block]] = {setting: [] for setting in settings}
        self._peak: dict[Setting, int | None] = {}
        self._patience = PATIENCE
        self._stack = ExitStack()

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def measure(self, runs: int, kernel: Worker) -> list[Latency | Failure]:
        """At least so many runs of each, between two passes of the calibration kernel. In the order of the settings."""
        load, at = machine.load(), datetime.now(UTC)
        self._start()
        self._wait()
        warm = self._each(self._settings, partial(Worker.ask, do="warm"))
        before = self._calibrate(kernel)
        self._run(runs, {setting: told["seconds"] for setting, told in warm.items()})
        around = {
            "drift": drift(before, self._calibrate(kernel)),
            "calibration_ms": before,
            "load": load,
            "measured_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "machine": machine.this(self._settings[0].device),
            "versions": machine.versions(),
        }
        return [self._failures.get(s) or self._latency(s, runs, warm[s]["settled"], around) for s in self._settings]

    def _start(self) -> None:
        """All at once, for nothing is timed meanwhile."""
        for setting in self._settings:
            worker = self._workers[setting] = Worker(setting.threads)
            self._stack.callback(worker.close)
            asked = {"network": setting.network, "img_size": setting.img_size, "batch_size": setting.batch_size}
            worker.send("load", **asked, **place(setting))
        self._each(self._settings, Worker.receive)

    def _wait(self) -> None:
        """Until others leave us enough processors, as long as patience lasts."""
        start, threads = time.monotonic(), self._settings[0].threads
        while self._patience > time.monotonic() - start and machine.crowded(threads):
            pass
        self._patience -= time.monotonic() - start

    def _run(self, runs: int, seconds: Mapping[Setting, float]) -> None:
        """A block of each in turn, until each has enough that nobody disturbed, or there is no hope of that.

        Args:
            runs: of each network, over all blocks
            seconds: of one run, when warm
        """
        while turn := [setting for setting in self._workers if self._lacks(self._blocks[setting])]:
            for setting in turn:
                count = max(ceil(runs / ROUNDS), int(BLOCK / seconds[setting]))
                most = SLOW * count * seconds[setting] + BLOCK
                asked = partial(_watched, setting, do="block", runs=count, most=most)
                for told, block in self._each([setting], asked).values():
                    self._blocks[setting].append(block)
                    self._peak[setting] = told["peak_memory"]
                    if block.disturbed:
                        self._wait()

    def _calibrate(self, kernel: Worker) -> dict[str, float]:
        """Milliseconds of each part of the kernel, in a moment that nobody disturbs, if there is one."""
        seen = [_watched(self._settings[0], kernel, do="calibrate")]
        while seen[-1][1].disturbed and len(seen) < ROUNDS and self._patience > 0:
            self._wait()
            seen.append(_watched(self._settings[0], kernel, do="calibrate"))
        told, _ = min(seen, key=lambda one: one[1].others or 0.0)
        return {part: 1000 * median(times) for part, times in told["parts"].items()}

    def _lacks(self, blocks: Sequence[Block]) -> bool:
        """Whether another block would help."""
        quiet = sum(not block.disturbed for block in blocks)
        return len(blocks) < ROUNDS or (quiet < ROUNDS and len(blocks) < MOST_ROUNDS and self._patience > 0)

    def _each(self, settings: Iterable[Setting], ask: Callable[[Worker], T]) -> dict[Setting, T]:
        """The answers, one after another. Who cannot give one is told of and left out from then on."""
        answers = {}
        for setting in [s for s in settings if s in self._workers]:
            try:
                answers[setting] = ask(self._workers[setting])
            except Failed as error:
                self._failures[setting] = Failure(setting, str(error))
                self._workers.pop(setting).close()
        return answers

    def _latency(self, setting: Setting, runs: int, settled: bool, around: Mapping[str, Any]) -> Latency:
        blocks = quietest(self._blocks[setting], ROUNDS)
        ms = [1000 * seconds for block in blocks for seconds in block.seconds]
        shares = [block.others for block in blocks if block.others is not None]
        return Latency(
            setting,
            p50=percentile(ms, 50),
            p90=percentile(ms, 90),
            p99=percentile(ms, 99),
            runs=len(ms),
            peak_memory=self._peak[setting],
            others=sum(shares) / len(shares) if shares else None,
            flags=flags(around["drift"], blocks, runs, settled),
            **around,
        )


def place(setting: Setting) -> dict[str, Any]:
    """Where to compute, for a worker."""
    return {"processors": machine.processors()[: setting.threads], "device": setting.device}


def _watched(setting: Setting, worker: Worker, **asked: Any) -> tuple[Answer, Block]:
    """The answer, and what others did meanwhile on the processors of the setting."""
    ours = place(setting)["processors"]
    before = machine.busy(ours)
    told = worker.ask(**asked)
    after = machine.busy(ours)
    others = None if before is None or after is None else after - before - told["own"]
    return told, Block.seen(told.get("seconds", []), told["wall"], others, setting.threads)
