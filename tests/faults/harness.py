"""Kill runs at random moments, go on, and compare what comes out with the run that was never disturbed.

    python tests/faults/harness.py --kills 300

Every run is of several lives. A life is a forked process (or two, which train together) that starts or resumes the run
and is ended at a random moment, up to four times, until one is left to the end: most by SIGKILL, some by SIGTERM or
SIGINT, which must save, or by a SIGKILL to one process of two, which must end the other. After each death the
checkpoints are read: a *lost* one is one that was committed before and is gone or damaged. At the end the weights, the
optimiser, the moving average and the history must be those of the undisturbed run to the last bit; else the run
*differed*.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: its threads do not survive a fork

import torch
from rich.console import Console

from backbones import create_model, load, train
from backbones.data import Data, open_data
from backbones.recipes import MODERN
from backbones.records import Options, Recipe
from backbones.train.folder import CHECKPOINTS
from backbones.train.store import Store, holds_run
from backbones.train.watch import RETRY

PLAIN = replace(MODERN, epochs=6, batch_size=16, warmup_epochs=0.5, model_ema_decay=0.9, mixup=0.2)


SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGINT)
FINE = (0, -signal.SIGKILL, -signal.SIGTERM, 130, 143, RETRY)
"""how a process may end that was struck: before it heeds signals, after a checkpoint, or because the other was"""
COUNTS = ("runs", "kills", "stops", "lost", "differed", "unwilling")
"""unwilling: lives with a process that ended otherwise, such as one struck, or left alone, while it starts"""


@dataclass(frozen=True)
class Case:
    """One way of training, and how often it writes a checkpoint."""

    workers: int
    processes: int = 1
    network: str = "lenet5.modern"
    recipe: Recipe = PLAIN
    every: int | None = 1
    accumulate: int = 1
    strategy: Literal["auto", "fsdp"] = "auto"

    def __str__(self) -> str:
        how = f"{self.network}, {self.recipe.opt}, {self.recipe.sched}"
        shared = " in pieces" if self.strategy == "fsdp" else ""
        return f"{how}, {self.processes} processes{shared} x {self.workers} workers, every {self.every} steps"


SGD = replace(PLAIN, opt="sgd", lr=0.02, sched="plateau", warmup_epochs=0.0, model_ema=False, patience_epochs=0)
RMS = replace(PLAIN, opt="rmsprop", lr=0.01, sched="exponential", warmup_epochs=0.0, drop_rate=0.3)
PATHS = replace(SGD, epochs=2, sched="cosine", drop_path_rate=0.5, drop_path_ramp=True)
CASES = (
    Case(0),
    Case(1, recipe=SGD, every=2),
    Case(2, recipe=RMS),
    Case(4, every=3),
    Case(0, network="resnet20_cifar", recipe=PATHS, accumulate=2),
    Case(0, processes=2, recipe=SGD),
    Case(1, processes=2, every=2),
    Case(0, processes=2, every=2, network="resnet20_cifar", recipe=replace(PLAIN, epochs=2), strategy="fsdp"),
)


def data_of() -> Data:
    """The first digits: 160 to train, 40 to validate, 40 to test on."""
    whole = open_data("digits", val_split=0.1)
    small = {
        "train": whole.train.take(range(160)),
        "val": whole.val.take(range(40)),
        "test": whole.test.take(range(40)),
    }
    return Data(replace(whole.info, images={name: len(part) for name, part in small.items()}), **small)


def live(case: Case, data: Data, folder: Path) -> list[int]:
    """Start or resume the run in processes of its own; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(case.processes):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            if case.processes > 1:
                told = {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                    "TORCHELASTIC_RUN_ID": "faults",
                    "GROUP_RANK": 0,
                }
                world = {"WORLD_SIZE": case.processes, "LOCAL_WORLD_SIZE": case.processes}
                for key, value in {**told, **world, "RANK": rank, "LOCAL_RANK": rank}.items():
                    os.environ[key] = str(value)
            options = Options(
                output=str(folder),
                workers=case.workers,
                checkpoint_every_steps=case.every,
                accumulate=case.accumulate,
                strategy=case.strategy,
            )
            recipe = case.recipe
            rates = {"drop_rate": recipe.drop_rate, "drop_path_rate": recipe.drop_path_rate}
            model = create_model(case.network, num_classes=10, in_chans=1, seed=0, **rates)
            resume = holds_run(folder / CHECKPOINTS)
            train.fit(model, data, recipe, options, resume=resume, console=Console(quiet=True))
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            with open(folder / "error.txt", "a") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(code)
    return pids


def wait(pids: list[int], seconds: float) -> list[int]:
    """The exit codes, once all have ended; the processes that take longer are killed."""
    codes, end = dict.fromkeys(pids, -1), time.monotonic() + seconds
    left = set(pids)
    while left:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all that a run ends with: weights, optimiser, average, history but for its seconds."""
    state, said = Store(folder / CHECKPOINTS).newest()
    state["rows"] = [{key: value for key, value in row.items() if key != "seconds"} for row in state["rows"]]
    kept = {name: load(folder / name).state_dict() for name in (train.BEST, train.LAST)}
    whole = {**state, **kept, "said": said}
    return {name: hashlib.sha256(b"".join(_pieces(part))).hexdigest() for name, part in whole.items()}


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()


def committed(folder: Path) -> int:
    """The step of the newest checkpoint, -1 before the first. ValueError if one is damaged."""
    if not holds_run(folder / CHECKPOINTS):
        return -1
    state, said = Store(folder / CHECKPOINTS).newest()
    if said:
        raise ValueError("; ".join(said))
    return int(state["step"])


def main(kills: int, seed: int, cases: tuple[Case, ...] = CASES) -> dict[str, Any]:
    """Until so many processes were killed. The counts, by case."""
    draw, start, data = random.Random(seed), time.monotonic(), data_of()
    rows: dict[str, dict[str, float]] = {}
    done = 0
    with tempfile.TemporaryDirectory() as root:
        references = {}
        for case in cases:
            folder, begin = Path(root) / f"reference-{len(references)}", time.monotonic()
            folder.mkdir()
            codes = wait(live(case, data, folder), 120)
            assert codes == [0] * case.processes, f"{case}: {codes}\n{_errors(folder)}"
            references[str(case)] = outcome(folder), time.monotonic() - begin
            rows[str(case)] = dict.fromkeys(COUNTS, 0)
        for number, case in enumerate(itertools.cycle(cases)):
            if done >= kills:
                break
            folder, row, seen = Path(root) / f"run-{number}", rows[str(case)], -1
            folder.mkdir()
            expected, seconds = references[str(case)]
            row["runs"] += 1
            told: list[str] = []
            for _ in range(draw.randint(1, 4)):
                pids = live(case, data, folder)
                time.sleep(draw.uniform(0.1, 0.9) * seconds)
                how = draw.choice(SIGNALS)
                struck = pids if draw.random() < 0.7 else draw.sample(pids, 1)
                for pid in struck:
                    os.kill(pid, how)  # a process that has ended waits here for us to ask for its code
                codes = wait(pids, 90)
                killed = codes.count(-signal.SIGKILL)
                row["kills"] += killed
                row["stops"] += sum(code in (130, 143) for code in codes)
                done += killed
                row["unwilling"] += any(code not in FINE for code in codes)
                try:
                    step = committed(folder)
                    row["lost"] += step < seen
                    seen = step
                    told.append(f"{how.name} {codes} at step {step}")
                except (ValueError, OSError) as error:
                    print(f"{case}: {error}", file=sys.stderr)
                    row["lost"] += 1
            codes = wait(live(case, data, folder), 180)
            found = outcome(folder) if codes == [0] * case.processes else {}
            if found != expected:
                other = [name for name in expected if found.get(name) != expected[name]]
                print(f"{case}: {codes}, {', '.join(other)} differ, {told} {_errors(folder)}", file=sys.stderr)
                row["differed"] += 1
            shutil.rmtree(folder)
    total = {key: sum(row[key] for row in rows.values()) for key in COUNTS}
    return {"cases": rows, **total, "seconds": round(time.monotonic() - start)}


def _errors(folder: Path) -> str:
    file = folder / "error.txt"
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    given = parser.parse_args()
    print(json.dumps(main(given.kills, given.seed, tuple(CASES[i] for i in given.cases)), indent=2))
