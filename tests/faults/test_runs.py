"""Runs under faults: killed, told to stop, with a process that dies, stands still or fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "harness.py"
TRAIN = (sys.executable, "-m", "backbones", "train", "resnet20_cifar", "--data", "digits")
FLAGS = ("--devices", "2", "--workers", "0", "--batch-size", "64", "--epochs", "200", "--val-split", "0.1")
FAILING = """
import sys, time
from backbones.train import loop
from backbones.__main__ import main

step = loop.Loop._train_step

def train_step(self, batches):
    if self.fabric.global_rank == 1 and self.step == 4:
        print("the end is near", flush=True)
        {what}
    return step(self, batches)

loop.Loop._train_step = train_step
sys.argv[0] = "backbones"
main()
"""


@pytest.mark.parametrize("kills", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_runs_end_as_if_nothing_had_happened(kills: int) -> None:
    cases = ("--cases", "0", "5") if kills < 100 else ()
    command = [sys.executable, str(HARNESS), "--kills", str(kills), *cases]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= kills
    assert (told["lost"], told["differed"]) == (0, 0), done.stdout + done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run of two processes, some steps on."""
    command = [*TRAIN, *FLAGS, "--output", str(tmp_path / "run"), "--checkpoint-every-steps", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        checkpoints = tmp_path / "run" / "checkpoints"
        for _ in range(1200):
            if len(list(checkpoints.glob("step-00000000[1-9].safetensors"))) > 1 or process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
        yield process
    finally:
        process.kill()
        process.communicate()


def rank(process: "subprocess.Popen[str]", number: int) -> int:
    """The id of this process of the run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = dict(line.split("=", 1) for line in (entry / "environ").read_text().split("\0") if "=" in line)
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == process.pid and told.get("RANK") == str(number):
            return int(entry.name)
    raise AssertionError(f"no process {number}")


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_one_process_dies(run: "subprocess.Popen[str]", how: signal.Signals) -> None:
    """The other says which, shows the end of its log, and ends; then so does the command. All within a minute."""
    other = rank(run, 0)
    os.kill(rank(run, 1), how)
    told = run.communicate(timeout=60)[0]
    assert run.returncode not in (0, 2), told
    assert re.search(r"process 1 of 2 \(pid \d+ on .*\) (is gone|gave no sign of life)", told), told
    assert "go on with --resume" in told
    assert not Path(f"/proc/{other}").exists()


def test_a_run_of_two_processes_stops_when_asked(run: "subprocess.Popen[str]", tmp_path: Path) -> None:
    run.send_signal(signal.SIGTERM)
    told = run.communicate(timeout=60)[0]
    assert run.returncode == 143, told
    assert f"--resume {tmp_path / 'run'}" in told.replace("\n", "")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise RuntimeError('out of luck')", "failed: RuntimeError: out of luck"),
        pytest.param("time.sleep(1000)", "has not gone on", marks=pytest.mark.slow),
    ],
)
def test_one_process_fails_or_hangs(tmp_path: Path, what: str, said: str) -> None:
    """Which one it was, and what it wrote last, stands on the console of the first."""
    script = tmp_path / "script.py"
    script.write_text(FAILING.format(what=what))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    flags = [*FLAGS[2:], "--output", str(tmp_path / "run"), "--hang-seconds", "5"]
    done = subprocess.run([*torchrun, *TRAIN[3:], *flags], capture_output=True, text=True, timeout=100)
    told = done.stdout + done.stderr
    assert done.returncode != 0
    assert re.search(rf"process 1 of 2 \(pid \d+ on .*\) {said}", told), told
    assert "the end is near" in told
