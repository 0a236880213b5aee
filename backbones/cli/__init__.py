"""One thin function per command. No torch here: a command imports it when it runs."""

import logging
import os
import select as system_select
import stat
import sys
from collections.abc import Callable
from typing import Any

import tyro

from backbones.cli import (
    bench,
    compare,
    convert,
    cost,
    data,
    export,
    finetune,
    optimize,
    plot,
    select,
    show,
    train,
    use,
    weights,
)

DESCRIPTION = "The classic CNN image backbones, exactly as their papers have them: facts, training, use."
MISTAKES = (
    ValueError,
    LookupError,
    TypeError,
    NotImplementedError,
    OSError,
    MemoryError,
    ArithmeticError,
    ImportError,
)


def main() -> None:
    """Run the command of sys.argv. Exit code 2 for a user's mistake, 130 after Ctrl-C."""
    args = sys.argv[1:] or ["--help"]
    commands: dict[str, Callable[..., Any]] = {
        "train": train.arguments(args),
        "finetune": finetune.arguments(args),
        "eval": use.evaluate,
        "predict": use.predict,
        "list": show.list_networks,
        "info": show.info,
        "explain": show.explain,
        "recipe": show.recipe,
        "cost": cost.cost,
        "scale": cost.scale,
        "select": select.select,
        "plot": plot.plot,
        "compare": compare.compare,
        "diff": compare.diff,
        "bench": bench.bench,
        "weights": weights.list_weights,
        "convert": convert.convert,
        "parity": convert.parity,
        "export": export.export,
        "optimize": optimize.optimize,
        "data": data.data,
    }
    logging.basicConfig(format="%(message)s")
    others = os.environ.get("RANK", "0") != "0"  # of a run of several processes: the first one says it
    logging.getLogger("backbones").setLevel(logging.ERROR if others else logging.INFO)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    try:
        command: Any = tyro.extras.subcommand_cli_from_dict(
            commands, prog="backbones", description=DESCRIPTION, args=args, config=config
        )
        if isinstance(command, train.Train | finetune.Finetune):
            command.run()
    except KeyboardInterrupt:
        sys.exit(130)
    except MISTAKES as error:
        if isinstance(error, KeyError | IndexError):
            raise
        if isinstance(error, BrokenPipeError) and _unread():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be flushed goes nowhere
            sys.exit(141)  # as the shell tells it
        if not others or stat.S_ISREG(os.fstat(2).st_mode):  # the first process says it; another one to its log only
            print(f"backbones: {error}", file=sys.stderr)
        sys.exit(2)


def _unread() -> bool:
    """Has the reader of what we print, such as head, gone? A broken pipe may also be one to a process of ours."""
    look = system_select.poll()
    look.register(1, 0)
    return any(event & system_select.POLLERR for _, event in look.poll(0))
