"""Latency on this machine: the arithmetic, the order of the blocks, what is remembered, and one real measurement."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones import catalog, cli, create_model, machine, model_info
from backbones.choose import Failure, Latency, group, latency, measure, measuring
from backbones.choose.cache import Cache
from backbones.choose.process import Failed, Worker
from backbones.choose.worker import _filled
from backbones.machine import Machine

HERE = Machine("a processor", 4, 1 << 34, "a system", "")
VERSIONS = {"python": "3.11", "torch": "2.15", "backbones": "0.1"}
SETTING = latency.Setting("resnet18", 224, 1, 1, "cpu")
KNOWN = Latency(
    SETTING, 20.0, 21.0, 25.0, 30, 10**8, 0.01, {"memory": 2.0}, 0.5, 0.0, ("?",), "2026-01-01", HERE, VERSIONS
)
KERNEL = {"parts": {"product": [0.008, 0.009, 0.001], "memory": [0.003]}, "wall": 1.0, "own": 0.1}


class Fake:
    """A worker that computes nothing and answers by `says`; `asked` keeps what all of them were asked."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012
    open = 0
    says: Callable[[str, str], dict[str, Any]]

    def __init__(self, threads: int) -> None:
        self.network = "kernel"
        Fake.open += 1

    def send(self, do: str, **arguments: Any) -> None:
        self.network, self.do = arguments.get("network", self.network), do
        Fake.asked.append((self.network, do))

    def receive(self) -> dict[str, Any]:
        return Fake.says(self.network, self.do)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.receive()

    def close(self) -> None:
        Fake.open -= 1


def answer(network: str, do: str) -> dict[str, Any]:
    """One that finds nothing to complain of: 10 ms for each of six runs."""
    block = {"seconds": [0.01] * 6, "wall": 1.0, "own": 0.1, "peak_memory": 10**8}
    return {"calibrate": KERNEL, "warm": {"seconds": 0.02, "settled": True}, "block": block}.get(do, {})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Fake]]:
    """No processes, an own cache, and a machine on which nobody else computes."""
    Fake.asked, Fake.open, Fake.says = [], 0, staticmethod(answer)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (measuring, group):
        monkeypatch.setattr(module, "Worker", Fake)
    monkeypatch.setattr(machine, "crowded", lambda threads: False)
    monkeypatch.setattr(machine, "busy", lambda which: 0.0)
    yield Fake
    assert Fake.open <= 0, "a worker is left"


def test_percentiles_are_numpys() -> None:
    for count in (1, 2, 7, 30, 100):
        values = np.random.default_rng(count).exponential(size=count)
        for percent in (0, 50, 90, 99, 100):
            assert latency.percentile(list(values), percent) == pytest.approx(np.percentile(values, percent), rel=1e-12)


def test_networks_take_turns_between_two_passes_of_the_kernel(fake: type[Fake]) -> None:
    a, b = "resnet18", "vgg16"
    found = measure([a, b], threads=1)
    start = [("kernel", "load_kernel"), (a, "load"), (b, "load"), (a, "warm"), (b, "warm"), ("kernel", "calibrate")]
    assert fake.asked == start + [(a, "block"), (b, "block")] * group.ROUNDS + [("kernel", "calibrate")]
    told = found[a]
    assert isinstance(told, Latency)
    assert (told.p50, told.runs, told.flags, told.others) == (10.0, 30, (), 0.0)
    assert told.throughput == 100.0
    assert list(found) == [a, b]


def test_six_are_held_at_once_or_as_many_as_memory_holds(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(catalog.load())[:8]
    measure(names, threads=1)
    kernels = [i for i, (network, do) in enumerate(fake.asked) if do == "calibrate"]
    passes = zip(kernels[::2], kernels[1::2], strict=True)
    inside = [{network for network, _ in fake.asked[before : after + 1]} for before, after in passes]
    assert [len(networks) - 1 for networks in inside] == [6, 2]
    monkeypatch.setattr(machine, "free_memory", lambda: 1)
    fake.asked.clear()
    measure(names[:2], threads=1, fresh=True)
    assert [do for _, do in fake.asked].count("calibrate") == 4


def test_what_was_measured_needs_no_process(fake: type[Fake]) -> None:
    first = measure("resnet18", threads=1)
    fake.asked.clear()
    assert measure("resnet18", threads=1, runs=20) == first
    assert fake.asked == []
    for other in ({"threads": 2}, {"batch_size": 2}, {"img_size": 192}, {"runs": 31}, {"fresh": True}):
        if other.get("threads", 1) <= len(machine.processors()):
            measure("resnet18", **{"threads": 1, **other})  # type: ignore[arg-type]
            assert ("resnet18", "block") in fake.asked, other
            fake.asked.clear()


@pytest.mark.parametrize(
    ("here", "versions"),
    [
        (replace(HERE, cpu="another"), VERSIONS),
        (replace(HERE, processors=8), VERSIONS),
        (replace(HERE, memory=1), VERSIONS),
        (replace(HERE, system="another"), VERSIONS),
        (replace(HERE, accelerator="another"), VERSIONS),
        (HERE, {**VERSIONS, "torch": "2.16"}),
        (HERE, {**VERSIONS, "python": "3.12"}),
        (HERE, {**VERSIONS, "backbones": "0.2"}),
    ],
)
def test_another_machine_or_version_knows_nothing(
    here: Machine, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = Cache(HERE, VERSIONS)
    cache.write([KNOWN])
    assert Cache(HERE, VERSIONS).read([SETTING], 30) == {SETTING: KNOWN}
    assert Cache(here, versions).read([SETTING], 30) == {}


def test_another_definition_is_another_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = Cache(HERE, VERSIONS)
    cache.write([KNOWN])
    entry = catalog.load()["resnet18"]
    monkeypatch.setitem(catalog.load(), "resnet18", {**entry, "recipe": None, "aliases": ["another"]})  # type: ignore[arg-type]
    assert cache.read([SETTING], 30)
    changed = {**entry, "settings": {**entry["settings"], "stride_in": "3x3"}}
    monkeypatch.setitem(catalog.load(), "resnet18", changed)  # type: ignore[arg-type]
    assert not cache.read([SETTING], 30)


def test_a_spoilt_cache_is_written_anew(fake: type[Fake], tmp_path: Path) -> None:
    first = measure("resnet18", threads=1)
    (file,) = (tmp_path / "backbones").glob("*.json")
    file.write_text(file.read_text()[:100])
    assert measure("resnet18", threads=1)["resnet18"].setting == first["resnet18"].setting
    assert json.loads(file.read_text())["latency"]


def test_drift_is_flagged(fake: type[Fake]) -> None:
    passes = iter([KERNEL, {**KERNEL, "parts": {"product": [0.008], "memory": [0.0027]}}])
    fake.says = staticmethod(lambda network, do: next(passes) if do == "calibrate" else answer(network, do))
    told = measure("resnet18", threads=1)["resnet18"]
    assert isinstance(told, Latency)
    assert (told.drift, told.flags) == (pytest.approx(-0.1), ("the machine drifted by -10%",))


def test_a_disturbed_pass_of_the_kernel_is_repeated(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {**KERNEL, "parts": {"product": [0.02], "memory": [0.02]}}
    passes = iter([KERNEL, slow, KERNEL])
    fake.says = staticmethod(lambda network, do: next(passes) if do == "calibrate" else answer(network, do))
    readings = iter([0.0, 0.1] * (1 + group.ROUNDS) + [0.0, 0.9] + [0.0, 0.1])
    monkeypatch.setattr(machine, "busy", lambda which: next(readings))
    told = measure("resnet18", threads=1)["resnet18"]
    assert isinstance(told, Latency)
    assert (told.drift, told.flags) == (0.0, ())


def test_a_disturbed_block_is_repeated_but_not_for_ever(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    """Others use `used` seconds of every block's processor beside our own 0.1."""
    used = iter([0.5, 0.0, 0.0, 0.4] + [0.0] * 8)
    clock = 0.0

    def busy(which: list[int]) -> float:
        nonlocal clock
        if fake.asked[-1][1] == "block" and len(readings) % 2:
            clock += 0.1 + next(used)
        readings.append(clock)
        return clock

    readings: list[float] = []
    monkeypatch.setattr(machine, "busy", busy)
    told = measure("resnet18", threads=1)["resnet18"]
    assert isinstance(told, Latency)
    assert [do for _, do in fake.asked].count("block") == group.ROUNDS + 2
    assert told.flags == ()

    used = iter([0.5] * 100)
    readings.clear()
    fake.asked.clear()
    told = measure("resnet18", threads=1, fresh=True)["resnet18"]
    assert isinstance(told, Latency)
    assert [do for _, do in fake.asked].count("block") == group.MOST_ROUNDS
    assert told.flags == ("others used 50% of its processors in 5 of 5 blocks",)
    assert told.others == pytest.approx(0.5)


def test_who_fails_is_told_and_the_others_go_on(fake: type[Fake]) -> None:
    def says(network: str, do: str) -> dict[str, Any]:
        if (network, do) in (("vgg16", "load"), ("alexnet", "block")):
            raise Failed("out of memory")
        return answer(network, do)

    fake.says = staticmethod(says)
    found = measure(["vgg16", "resnet18", "alexnet"], threads=1)
    assert [type(one) for one in found.values()] == [Failure, Latency, Failure]
    assert found["vgg16"].reason == found["alexnet"].reason == "out of memory"  # type: ignore[union-attr]
    fake.asked.clear()
    measure(["vgg16", "resnet18"], threads=1)
    assert {network for network, _ in fake.asked} == {"kernel", "vgg16"}


def test_mistakes(fake: type[Fake]) -> None:
    with pytest.raises(LookupError, match="Did you mean 'resnet50'"):
        measure("resnet5O")
    with pytest.raises(ValueError, match="threads=0; this process may use"):
        measure("resnet50", threads=0)
    with pytest.raises(ValueError, match="batch_size=0; give a whole number, 1 or more"):
        measure("resnet50", batch_size=0)
    assert fake.asked == []


def test_what_was_measured_before_an_interruption_stays(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    def says(network: str, do: str) -> dict[str, Any]:
        if (network, do) == ("vgg16", "block"):
            raise KeyboardInterrupt
        return answer(network, do)

    monkeypatch.setattr(measuring, "MOST", 1)
    fake.says = staticmethod(says)
    with pytest.raises(KeyboardInterrupt):
        measure(["resnet18", "vgg16"], threads=1)
    fake.asked.clear()
    measure("resnet18", threads=1)
    assert fake.asked == []


SLEEPER = """
import json, os, sys, time
open(sys.argv[1] + f"/{os.getpid()}", "w")
for line in sys.stdin:
    if json.loads(line)["do"] == "warm":
        open(sys.argv[1] + "/warm", "w")
        time.sleep(60)
    print("{}", flush=True)
"""
PARENT = """
import sys
from backbones.choose import group, measure, process
group.PATIENCE = 0
process.COMMAND = sys.argv[1:]
measure(["lenet5", "lenet5.modern"], threads=1)
"""


def test_ctrl_c_leaves_no_child(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.executable, "-c", SLEEPER, str(pids)],
        stderr=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    try:
        end = time.monotonic() + 120
        while not (pids / "warm").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert (pids / "warm").exists()
        parent.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            parent.wait(20)
        parent.send_signal(signal.SIGINT)  # again: one that came just before Python waits, it sees after it has waited
        _, said = parent.communicate(timeout=30)  # the worker would sleep longer
    finally:
        parent.kill()
        parent.communicate()
    assert said.splitlines()[-1] == b"KeyboardInterrupt"
    children = [int(file.name) for file in pids.iterdir() if file.name != "warm"]
    assert len(children) == 3
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_values_made_fast_keep_signals_finite() -> None:
    for name in ("resnet110_cifar", "wrn_16_4", "densenet_40_12_cifar", "lenet5"):
        wanted = create_model(name).state_dict()
        with torch.inference_mode():
            model = _filled(model_info(name), "cpu")
            assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in wanted.items()}
            logits = model(torch.randn(2, *model_info(name).input_size))
        assert logits.isfinite().all()
        assert 1e-3 < logits.std() < 1e6


def test_a_worker_keeps_to_its_processors_and_ends_with_its_parent() -> None:
    here = machine.processors()[:1]
    with closing(Worker(1)) as worker:
        worker.ask("load", network="lenet5", img_size=8, batch_size=1, processors=here, device="cpu")
        with pytest.raises(Failed, match="images of 8x8, the smallest is 32x32"):
            worker.ask("warm")
        worker.ask("load", network="lenet5", img_size=32, batch_size=1, processors=here, device="cpu")
        told = worker.ask("block", runs=3, most=60.0)
        if hasattr(os, "sched_getaffinity"):
            assert os.sched_getaffinity(worker._process.pid) == set(here)
        worker._requests.close()
        assert worker._process.wait(60) == 0
    assert len(told["seconds"]) == 3
    assert told["peak_memory"] > 50e6


def test_a_real_measurement_and_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(group, "PATIENCE", 0.0)
    told = measure("lenet5", threads=1, runs=5)["lenet5"]
    assert isinstance(told, Latency)
    assert 0 < told.p50 <= told.p90 <= told.p99
    assert told.runs >= 5
    assert told.calibration_ms.keys() == {"product", "memory"}
    assert measure("lenet5", threads=1, runs=5) == {"lenet5": told}
    code = """
import sys
from backbones.cli import main
sys.argv = ["backbones", "bench", "lenet5", "--threads", "1", "--runs", "5"]
main()
print(sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lenet5" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", "a second question imports torch"


def test_bench_prints_timms_columns(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["backbones", "bench", *args, "--threads", "1"])
        cli.main()
        return capsys.readouterr().out

    rows = list(csv.DictReader(io.StringIO(run("resnet18*", "resnet18", "--batch-size", "4", "--format", "csv"))))
    infer = [f"infer_{what}" for what in ("img_size", "samples_per_sec", "step_time", "batch_size")]
    assert list(rows[0])[:8] == ["model", *infer, "param_count", "infer_gmacs", "infer_macts"]
    assert [row["model"] for row in rows] == ["resnet18", "resnet18.tv"]
    # timm's own file of resnet18 at 224 has 11.69, 1.82 and 2.48
    assert [rows[1][column] for column in ("param_count", "infer_gmacs", "infer_macts")] == ["11.69", "1.81", "2.48"]
    assert (rows[0]["infer_samples_per_sec"], rows[0]["infer_step_time"], rows[0]["p50"]) == ("400.0", "10.0", "10.0")
    smaller = next(csv.DictReader(io.StringIO(run("resnet18.tv", "--img-size", "160", "--format", "csv"))))
    assert (smaller["infer_img_size"], smaller["infer_gmacs"], smaller["infer_macts"]) == ("160", "0.93", "1.27")
    assert json.loads(run("resnet18", "--format", "json"))[0]["p50"] == 10.0
    assert "resnet18" in run("resnet18")


def test_bench_tells_failures(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(network: str, do: str) -> dict[str, Any]:
        if (network, do) == ("vgg16", "load"):
            raise Failed("out of memory")
        return answer(network, do)

    fake.says = staticmethod(says)
    monkeypatch.setattr(sys, "argv", ["backbones", "bench", "vgg16", "resnet18", "--threads", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert (stop.value.code, "vgg16: out of memory" in err, "resnet18" in out) == (2, True, True)
