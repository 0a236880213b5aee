"""One process or many: which of them this one is, how they are started, and what Lightning makes of them."""

import atexit
import gc
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.strategy import Strategy
from torch import nn

from backbones.layers import RandomPath
from backbones.records import Options
from backbones.train.shard import ShardedStrategy
from backbones.train.stopping import PATIENCE

T = TypeVar("T")


def started() -> tuple[int, int] | None:
    """(processes, machines) of the run that this process was started for, by torchrun or Slurm; None by hand."""
    if torch.distributed.is_torchelastic_launched():
        processes = int(os.environ["WORLD_SIZE"])
        return processes, processes // int(os.environ["LOCAL_WORLD_SIZE"])
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
    return None


def start_others(options: Options, arguments: Sequence[str]) -> int | None:
    """Run this command once per device, as torchrun does. The exit code; None where this process is to do the work.

    ValueError where several machines are asked for: each needs a launcher of its own.
    """
    if started():
        return None
    devices = _devices(options.devices)
    if options.nodes > 1:
        raise ValueError(
            f"--nodes {options.nodes}: start the same command on each of the machines with "
            f"torchrun --nnodes {options.nodes} --nproc-per-node {len(devices)} --rdzv-backend c10d "
            "--rdzv-endpoint FIRST_MACHINE:29500 -m backbones train ..., or let Slurm do it with --submit slurm"
        )
    if len(devices) == 1:
        return None
    return _as_torchrun_does(devices, [sys.executable, "-m", "backbones", *arguments])


def connect(model: nn.Module, options: Options) -> Fabric:
    """Lightning's part of this process: its device, its precision, and the others."""
    processes, nodes = started() or (1, 1)
    devices, local, gpu = _devices(options.devices), processes // nodes, torch.cuda.is_available()
    if started():
        if options.nodes not in (1, nodes) or (options.devices != "auto" and len(devices) != local):
            raise ValueError(
                f"--devices {options.devices} --nodes {options.nodes}, but {processes} processes on {nodes} machines "
                "were started; leave the two out, or start as many"
            )
    elif len(devices) > 1 and options.devices != "auto":
        raise ValueError(
            f"--devices {options.devices} takes a process for each; start this script with "
            f"torchrun --nproc-per-node {len(devices)}, or use the command backbones train, which does"
        )
    if options.strategy == "fsdp":
        several: DDPStrategy = ShardedStrategy(timeout=PATIENCE)
    else:
        drops = any(module.rate for module in model.modules() if isinstance(module, RandomPath))
        several = DDPStrategy(find_unused_parameters=drops, timeout=PATIENCE)  # a dropped branch has no gradients
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the console says what there is to say
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on how else to start
        try:
            fabric = Fabric(
                accelerator="cuda" if gpu else "cpu",
                devices=local if started() or not gpu else devices[:1],
                num_nodes=nodes,
                strategy=several if processes > 1 else "auto",
                precision=options.precision,  # type: ignore[arg-type]  # settled: never auto
            )
        except RuntimeError as error:  # such as a job of several tasks that was not started by srun
            raise ValueError(str(error)) from None
        fabric.launch()
    return fabric


def disconnect_at_exit(fabric: Fabric) -> None:
    """All processes have come to an end, none waits for another: what connects them is to end before Python does."""
    if fabric.world_size > 1:
        atexit.register(_disconnect, fabric.strategy)


def _disconnect(strategy: Strategy) -> None:
    """Destroy the process groups, and with them gloo's threads: one that frees a tensor while Python ends aborts it.

    A group lives for as long as anything refers to it, also in a cycle.
    """
    if isinstance(strategy, ShardedStrategy):
        strategy.forget_mesh()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()


def by_first(fabric: Fabric, work: Callable[[], T]) -> T:
    """What the first process finds, for all of them. Its error ends them all."""
    found: Any = None
    error: BaseException | None = None
    if fabric.is_global_zero:
        try:
            found = work()
        except BaseException as raised:
            error = raised
    failed, found = fabric.broadcast((error is not None, found))
    if error:
        raise error
    if failed:
        disconnect_at_exit(fabric)
        raise SystemExit(2)
    return found


def _devices(asked: str) -> list[int]:
    """The numbers of the devices of this machine that are asked for; without a GPU, of processes."""
    gpus = torch.cuda.device_count()
    try:
        if "," in asked:
            found = [int(number) for number in asked.split(",")]
        else:
            found = list(range(max(gpus, 1) if asked == "auto" else int(asked)))
    except ValueError:
        raise ValueError(f"--devices {asked}; give auto, a number, or numbers such as 0,2") from None
    if not found or min(found) < 0 or len(set(found)) < len(found) or (gpus and max(found) >= gpus):
        here = f"this machine has {gpus} GPUs" if gpus else "without a GPU, give the number of processes, 1 or more"
        raise ValueError(f"--devices {asked}; {here}")
    return found


def _as_torchrun_does(devices: Sequence[int], command: Sequence[str]) -> int:
    """One process per device, supervised by torch's elastic agent; when one fails it ends the others."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices))))
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(devices),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=str(os.getpid()),
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode
            if code < 0:
                print(f"backbones: process {rank} was ended by {_signal(-code)}", file=sys.stderr)
            return code if code > 0 else 128 - code
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
