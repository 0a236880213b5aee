"""Before the first step: everything that could fail later is tried now, on a copy."""

import copy
import math
import shutil
import time
from pathlib import Path

import torch
from torch import nn

from backbones.backbone import Backbone
from backbones.data import Data, check_part
from backbones.records import Recipe
from backbones.train.loss import training_loss


def check_data(data: Data) -> None:
    """Decode samples of every part. ValueError that names the files that cannot be read."""
    for part in (data.train, data.val, data.test):
        if part is not None:
            check_part(part)


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


def check_step(model: Backbone, size: tuple[int, int], recipe: Recipe, images: int, precision: str) -> float:
    """Seconds of one forward and backward pass of the full batch, on a copy. MemoryError if it does not fit."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = min(recipe.batch_size, images)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    try:
        trial = copy.deepcopy(model).to(device).train()
        x = torch.randn(batch, model.in_channels, *size, device=device)
        labels = torch.arange(batch, device=device) % model.num_classes
        for _ in range(2):  # the first pass warms up
            start = time.perf_counter()
            with torch.autocast(device, dtype, enabled=dtype is not None):
                loss = training_loss(trial(x), labels, recipe)
            torch.autograd.backward(loss)
            value = loss.item()
    except RuntimeError as error:  # torch's allocators raise it, and on a GPU a subclass
        if "memory" not in str(error):
            raise
        told = f"a batch of {batch} images of {size[0]}x{size[1]} does not fit into memory"
        raise MemoryError(f"{told}; give a smaller --batch-size or --img-size") from None
    if not math.isfinite(value):
        raise FloatingPointError(f"the first loss is {value}; use --amp-dtype bfloat16, or no --amp")
    return time.perf_counter() - start
