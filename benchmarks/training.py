"""Training steps by default settings beside plain torch: `python -m benchmarks.training [--networks resnet18]`.

Ours is the step of a run, `Loop._train_step`, with the options as they are by default. The base is torchvision's
network in eager float32, contiguous, with the same optimiser, loss and images; `resnet20_cifar`, which it lacks,
is ours in plain torch. Each computes in a process of its own, since ours keeps freed memory; their steps take turns.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from backbones import create_model
from backbones.allocator import keep_freed_memory
from backbones.cost import measure_cost
from backbones.recipes import MODERN
from backbones.records import Options
from backbones.timing import interleaved
from benchmarks.remote import Remote
from benchmarks.shown import heading, peak, ratio

RECIPE = replace(
    MODERN, opt="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, model_ema=False, clip_grad=None, mixup=0.0
)
RECIPE = replace(RECIPE, cutmix=0.0, smoothing=0.0, nesterov=False)
CASES = {  # network -> side, batch
    "resnet20_cifar": (32, 128),
    "resnet18": (224, 16),
    "densenet121": (224, 8),
    "mobilenet_v2": (224, 16),
}
CLASSES = 10
Step = Callable[[], object]


def batch(side: int, images: int) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 3, side, side, generator=torch.manual_seed(0)), torch.arange(images) % CLASSES


def plain(network: str, side: int, images: int) -> Step:
    """A step as a tutorial has it."""
    from torchvision.models import get_model, list_models

    theirs = network in list_models()
    make = get_model if theirs else create_model
    model = cast(Any, make)(network, num_classes=CLASSES).train()
    optimiser = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum, weight_decay=RECIPE.weight_decay)
    pixels, labels = batch(side, images)

    def step() -> None:
        loss = F.cross_entropy(model(pixels), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        loss.item()

    return step


def ours(network: str, side: int, images: int, compiled: bool = False) -> Step:
    """A step of `backbones train`."""
    from backbones.train import launch
    from backbones.train.loop import Loop
    from backbones.train.precision import precision_of

    keep_freed_memory()
    options = Options(compile=compiled)
    options = replace(options, precision=cast(Any, precision_of(options)))
    model = create_model(network, num_classes=CLASSES, seed=0)
    loaders = SimpleNamespace(steps=100, val=None, finish=lambda pixels: pixels)
    watch = SimpleNamespace(at=lambda *_: None)
    fabric = launch.connect(model, options)
    recipe = replace(RECIPE, batch_size=images)
    parts = cast(Any, (loaders, None, SimpleNamespace(), None, watch, None))
    loop = Loop(fabric, model, recipe, options, *parts)
    model.train()
    pixels, labels = batch(side, images)
    part = pixels.to(fabric.device), labels.to(fabric.device)
    return lambda: loop._train_step([part])


def main(networks: tuple[str, ...] = tuple(CASES), rounds: int = 5, quick: bool = False, compile: bool = False) -> None:
    """Print a Markdown table of ratios.

    Args:
        networks: of those that are known here
        rounds: undisturbed blocks of each
        quick: small images and batches, to see that it works
        compile: also with --compile, where there is a compiler
    """
    print(f"{heading('cpu', 'torchvision', 'lightning')}\n")
    peaks = [peak(dtype, "cpu") for dtype in (torch.float32, torch.bfloat16)]
    print("| network | base, images/s | ours, times as fast | of the peak, base and ours | memory, MiB |")
    print("|---|---|---|---|---|")
    for network in networks:
        side, images = (32, 4) if quick else CASES[network]
        runs = {"base": Remote(plain, network, side, images), "ours": Remote(ours, network, side, images)}
        if compile:
            runs["compiled"] = Remote(ours, network, side, images, True)
        for run in runs.values():
            for _ in range(2):
                run()
        times = interleaved(runs, rounds=rounds, block=0.0 if quick else 0.5)
        madds = 3 * images * measure_cost(create_model(network, num_classes=CLASSES), (3, side, side)).madds
        shares = [madds / times[name].median / most for name, most in zip(("base", "ours"), peaks, strict=True)]
        gains = ", compiled ".join(ratio(times["base"], times[name]) for name in list(runs)[1:])
        memory = " and ".join(f"{run.memory:.0f}" for run in runs.values())
        what = f"`{network}`, {side} px, batch {images}"
        peaked = f"{shares[0]:.0%} of fp32, {shares[1]:.0%} of bf16"
        print(f"| {what} | {images / times['base'].median:.1f} | {gains} | {peaked} | {memory} |", flush=True)
        for run in runs.values():
            run.close()
    print(f"\npeaks: {peaks[0] / 1e9:.0f} and {peaks[1] / 1e9:.0f} G multiply-adds/s in fp32 and bf16")


if __name__ == "__main__":
    tyro.cli(main)
