"""The same command as a job of Slurm, which is queued again where it ran out of time and goes on where it stood."""

import logging.config
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

with patch.object(logging.config, "dictConfig"):  # it would close the handlers of everybody, and with absl's, stderr
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

from backbones.records import Options
from backbones.train.folder import CHECKPOINTS
from backbones.train.store import holds_run

QUEUED_AGAIN = 1000
"""times at most"""


class Command:
    """What every task of the job does: `backbones train` with these arguments."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.arguments, self.folder = list(arguments), folder

    def __call__(self) -> None:
        sys.argv = ["backbones", "train", *self.arguments]
        runpy.run_module("backbones", run_name="__main__")

    def checkpoint(self) -> DelayedSubmission:
        """The job's time is nearly over: what to do when it is queued again. What is on the disk by then is whole."""
        begun = holds_run(self.folder / CHECKPOINTS)
        return DelayedSubmission(Command(["--resume", str(self.folder)] if begun else self.arguments, self.folder))


def submit(arguments: Sequence[str], folder: Path, options: Options, settings: Sequence[str]) -> str:
    """Queue the command on options.nodes machines, one task for each of options.devices. The number of the job.

    `settings` are Slurm's, such as partition=gpu or time=1-00:00:00. ValueError for what cannot be one.
    """
    if not options.devices.isdecimal():
        raise ValueError(f"--devices {options.devices}; --submit slurm needs the number of GPUs of each machine")
    told: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--slurm {setting}; give NAME=VALUE, such as partition=gpu")
        told[f"slurm_{key.replace('-', '_')}"] = value
    if "slurm_time" not in told:
        raise ValueError(
            "--submit slurm needs the time of a job, which is queued again when it is over: --slurm time=1440"
        )
    tasks = int(options.devices)
    try:
        executor = AutoExecutor(folder / "slurm", cluster="slurm", slurm_max_num_timeout=QUEUED_AGAIN)
    except RuntimeError as error:
        raise OSError(f"{error} --submit slurm works where srun is") from None
    executor.update_parameters(
        name=f"backbones-{folder.name}",
        nodes=options.nodes,
        tasks_per_node=tasks,
        gpus_per_node=tasks,
        **told,
    )
    return str(executor.submit(Command(arguments, folder)).job_id)
