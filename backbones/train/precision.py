"""In what a run computes: what it asks for, or what its processor is good at, kept for all of the run."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import distributed

from backbones.bf16 import has_bf16
from backbones.records import Options
from backbones.train.folder import SETTINGS_FILE


def precision_of(options: Options, resumed: Path | None = None) -> str:
    """The precision by its name, never "auto"; of a run that goes on, with which it began.

    bf16-mixed where the processor multiplies in bf16, for there it is faster for every network that was timed; else
    32-true.
    """
    if options.precision != "auto":
        return options.precision
    if resumed:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a file that is not a run's is told of later
            return str(json.loads((resumed / SETTINGS_FILE).read_text())["options"]["precision"])
    return "bf16-mixed" if has_bf16("cuda" if torch.cuda.is_available() else "cpu") else "32-true"


def check_same(precision: str) -> None:
    """ValueError, in every process of the run, where `auto` is not the same on all their machines."""
    told: list[str] = [precision] * distributed.get_world_size()
    distributed.all_gather_object(told, precision)
    if len(set(told)) > 1:
        raise ValueError(
            f"--precision auto is {' and '.join(sorted(set(told)))} on the machines of this run; give the one you want"
        )
