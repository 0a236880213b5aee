"""Why a loss is not a number: the first module that put out what is not finite."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

EXPLODED = 1000.0
"""a loss so many times the first one (or 1, if that was less) will not come back"""


def diagnosis(value: float, first: float, model: nn.Module | None, images: Tensor) -> str | None:
    """Why a training has failed, where it has: a loss that is not finite, or has exploded since the `first`.

    With the module that began it; without a `model`, which may be in pieces, nothing is said of that.
    """
    if math.isfinite(value) and value <= EXPLODED * max(first, 1.0):
        return None
    what = f"the loss is {value:g}" + (f", from {first:g} at first" if math.isfinite(value) else "")
    if model is None:
        return what
    return f"{what}; {first_bad(model, images) or 'all modules put out finite values'}"


def first_bad(model: nn.Module, images: Tensor) -> str | None:
    """Which module is the first to put out values that are not finite, in one forward pass of a copy."""
    if not torch.isfinite(images).all():
        return "the images themselves have values that are not finite"
    found: list[str] = []
    trial = copy.deepcopy(model).train()
    with _watched(trial, found), torch.no_grad():
        trial(images)
    if not found:
        return None
    module = dict(model.named_modules())[found[0]]
    bad = [name for name, p in module.named_parameters() if not torch.isfinite(p).all()]
    why = f"its {' and '.join(bad)} is not finite" if bad else "its own weights are finite"
    return f"{found[0] or 'the network'} ({type(module).__name__}) is the first to put out values that are not ({why})"


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Put the names of the innermost modules with bad outputs into `found`, in the order of the forward pass."""

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
