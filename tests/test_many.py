"""One run on many processes: the same images in the same order, and the weights that one process comes to."""

import csv
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backbones
from backbones import train
from backbones.data import EpochSampler

TRAIN = ("-m", "backbones", "train", "lenet5.modern", "--data", "digits", "--val-split", "0.1", "--workers", "0")
FLAGS = ("--epochs", "1", "--batch-size", "64", "--lr", "0.01", "--opt", "sgd", "--precision", "32-true")


SLOW_VALIDATION = """
import sys, time
from torch.nn import functional
from backbones.__main__ import main

entropy = functional.cross_entropy

def slow(*args, **kwargs):
    if kwargs.get("reduction") == "sum":
        time.sleep(2.2)
    return entropy(*args, **kwargs)

functional.cross_entropy = slow
sys.argv[0] = "backbones"
main()
"""
STOPPING = """
import os, signal, sys
from backbones.__main__ import main
from backbones.train.loop import Loop

step = Loop._train_step

def train_step(self, batches):
    if self.step == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, batches)

Loop._train_step = train_step
sys.argv[0] = "backbones"
main()
"""
LEAVING = """
import atexit, os, sys
from pathlib import Path
from backbones.__main__ import main
from backbones.train.loop import Loop

def threads(when):
    names = [(thread / "comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    Path(sys.argv[-1] + f".{when}.{os.environ['RANK']}").write_text("".join(names))

atexit.register(threads, "end")  # the first to be registered is the last to be called
run = Loop.run
Loop.run = lambda self: (threads("run"), run(self))
sys.argv[0] = "backbones"
main()
"""


def weights(folder: Path, name: str = train.LAST) -> torch.Tensor:
    return torch.cat([p.flatten() for p in backbones.load(folder / name).parameters()])


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """What one process comes to."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(*TRAIN, *FLAGS, "--output", str(folder))
    return weights(folder)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_number_of_processes_sees_the_same_batches(world_size: int) -> None:
    """Together, the n-th batches of all processes are images 12 n to 12 n + 11 of the epoch's order."""
    whole = list(EpochSampler(100, seed=3, shuffle=True))
    parts = [list(EpochSampler(100, 3, True, rank, world_size)) for rank in range(world_size)]
    share = 12 // world_size
    for n in range(8):
        together = sorted(i for part in parts for i in part[n * share : (n + 1) * share])
        assert together == sorted(whole[12 * n : 12 * (n + 1)])


@pytest.mark.parametrize("flags", [("--devices", "2"), ("--devices", "2", "--strategy", "fsdp"), ("--accumulate", "4")])
def test_shared_batches_give_the_same_weights(alone: torch.Tensor, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """This network has no batch norm, so that a step depends on the images together only, but for rounding."""
    told = run(*TRAIN, *FLAGS, *flags, "--output", str(tmp_path / "run"))
    assert told.count("test accuracy") == told.count("parameters") == 1
    torch.testing.assert_close(weights(tmp_path / "run"), alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_one_process_goes_on_with_two(alone: torch.Tensor, tmp_path: Path, strategy: str) -> None:
    folder = str(tmp_path / "run")
    command = [sys.executable, "-c", STOPPING, *TRAIN[2:], *FLAGS, "--strategy", strategy, "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 143, done.stdout + done.stderr
    run("-m", "backbones", "train", "--resume", folder, "--devices", "2")
    torch.testing.assert_close(weights(tmp_path / "run"), alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_validation_counts_every_image_once(tmp_path: Path, strategy: str) -> None:
    """143 images are 72 and 71, two batches and one; and it may last longer than a process may stand still."""
    script = tmp_path / "script.py"
    script.write_text(SLOW_VALIDATION)
    flags = ("--val-split", "0.11", "--batch-size", "142", "--epochs", "1", "--devices", "2", "--strategy", strategy)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    run(*launcher, *TRAIN[2:6], "--workers", "0", *flags, "--hang-seconds", "3", "--output", str(tmp_path / "run"))
    (row,) = csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())
    right = float(row["val_top1"]) * 143 / 100
    assert right == pytest.approx(round(right), abs=1e-6)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have their names in Linux")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_threads_of_gloo_end_before_python(tmp_path: Path, strategy: str) -> None:
    """One that lets go of its last tensor while Python ends is ended by it, and the process aborts, seldom."""
    script = tmp_path / "script.py"
    script.write_text(LEAVING)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    run(*launcher, *TRAIN[2:], *FLAGS, "--strategy", strategy, "--output", str(tmp_path / "run"))
    for rank in range(2):
        assert "gloo" in (tmp_path / f"run.run.{rank}").read_text()
        assert "gloo" not in (tmp_path / f"run.end.{rank}").read_text()


@pytest.mark.parametrize("per_node", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_machines(alone: torch.Tensor, tmp_path: Path, per_node: int) -> None:
    """Two launchers that meet at a port, as on two machines that share a disk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", str(per_node), *meet]
    flags = ("--nodes", "2", "--devices", str(per_node), "--output", str(tmp_path / "run"))
    nodes = [
        subprocess.Popen(
            [*command, *TRAIN, *FLAGS, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    told = "".join(node.communicate(timeout=240)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], told
    assert told.count("test accuracy") == 1
    torch.testing.assert_close(weights(tmp_path / "run"), alone, atol=2e-5, rtol=1e-4)


def test_several_machines_need_a_launcher_each() -> None:
    done = subprocess.run([sys.executable, *TRAIN, "--nodes", "2"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "torchrun --nnodes 2" in done.stderr
    done = subprocess.run([sys.executable, *TRAIN, *FLAGS, "--accumulate", "3"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "give --batch-size 63" in done.stderr
