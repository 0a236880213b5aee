"""Before the first step: everything that could fail later is tried now, on a copy."""

import copy
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from backbones.backbone import Backbone
from backbones.cost import largest_batch, training_memory
from backbones.cost.memory import Optimizer, Precision
from backbones.layers import RandomPath
from backbones.records import Options, Recipe
from backbones.train.gradients import quick_gradients
from backbones.train.loss import training_loss

LEAST = {
    "accumulate": 1,
    "workers": 0,
    "nodes": 1,
    "early_stop": 1,
    "checkpoint_every_steps": 1,
    "checkpoint_every_minutes": 0,
    "snapshot_epochs": 1,
    "hang_seconds": 1,
}
"""the smallest value of each option"""
CGROUP = Path("/sys/fs/cgroup")


def check_options(options: Options) -> None:
    """ValueError for options that cannot be followed."""
    for name, least in LEAST.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}; give {least} or more")


def check_compile(model: nn.Module) -> None:
    """ValueError for a network that cannot be compiled once for all steps."""
    if any(module.rate for module in model.modules() if isinstance(module, RandomPath)):
        raise ValueError(
            "--compile, but this network drops paths anew in every step, and each step would be compiled anew; "
            "leave out --compile, or give --drop-path-rate 0"
        )


def check_disk(folder: Path, model: nn.Module) -> None:
    """OSError unless the folder can be written and has room for the run's files."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    needed = 10 * size + 2**24  # two files, one checkpoint of weights, momenta and average, each written beside the old
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free, a run needs {needed / 1e9:.1f}; give another --output")


def check_memory(model: Backbone, size: tuple[int, int], recipe: Recipe, options: Options, processes: int) -> None:
    """MemoryError, with what does fit, where the estimate of one step on this machine's processor is more than it has.

    A GPU says so itself; here the system would end the process without a word.
    """
    if torch.cuda.is_available():
        return
    batch, shape = recipe.batch_size // (processes * options.accumulate), (model.in_channels, *size)
    needed = training_memory(model, shape, batch_size=batch, optimizer=_kind(recipe), precision=_precision(options))
    if needed.peak > _free() // processes:
        raise does_not_fit(model, size, recipe, options, processes)


def does_not_fit(
    model: Backbone, size: tuple[int, int], recipe: Recipe, options: Options, processes: int
) -> MemoryError:
    """What to say of a batch that is too large: the largest that fits, by the estimate, and how to keep this one."""
    batch, shape = recipe.batch_size // (processes * options.accumulate), (model.in_channels, *size)
    told = f"{batch} images of {size[0]}x{size[1]} at a time do not fit into memory"
    room = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else _free() // processes
    try:
        fits = largest_batch(model, shape, room, optimizer=_kind(recipe), precision=_precision(options))
    except ValueError:
        return MemoryError(f"{told}, nor does one; give a smaller --img-size, or another network")
    fits = min(fits, max(1, batch - 1))
    share = recipe.batch_size // processes
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= fits)
    return MemoryError(
        f"{told}; by estimate {fits} do. Give --accumulate {parts}, which takes the batch of {recipe.batch_size} in "
        f"parts, or --batch-size {fits * processes}"
    )


def check_step(
    model: Backbone, size: tuple[int, int], recipe: Recipe, options: Options, images: int, processes: int
) -> float:
    """Seconds of one forward and backward pass of this process' share of a batch, on a copy."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = min(recipe.batch_size // (processes * options.accumulate), images)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(options.precision)
    trial = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if options.compile:
        trial.compile()
    x = torch.randn(batch, model.in_channels, *size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % model.num_classes
    for _ in range(2):  # the first pass warms up
        start = time.perf_counter()
        with _compiling(options):
            with torch.autocast(device, dtype, enabled=dtype is not None), quick_gradients(device, options):
                loss = training_loss(trial(x), labels, recipe)
            torch.autograd.backward(loss)
        value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the first loss is {value}; use --precision bf16-mixed, or 32-true")
    return (time.perf_counter() - start) * options.accumulate


@contextmanager
def _compiling(options: Options) -> Iterator[None]:
    """ValueError for what the compiler cannot do."""
    try:
        yield
    except Exception as error:
        if not options.compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = str(error).strip().splitlines()[0]
        raise ValueError(f"--compile: {why}; install a C++ compiler such as g++, or leave out --compile") from None


def is_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out: its allocators raise RuntimeError, and on a GPU a subclass."""
    return "memory" in str(error)


def _kind(recipe: Recipe) -> Optimizer:
    return ("momentum" if recipe.momentum else "sgd") if recipe.opt == "sgd" else recipe.opt


def _precision(options: Options) -> Precision:
    return "float32" if options.precision == "32-true" else "amp"


def _free() -> int:
    """Bytes that this machine, or the container it is, still has."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(row[1]) * 1024 for row in rows if row[0] == "MemAvailable:")
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free
