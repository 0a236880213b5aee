"""Gradients by other means beside torch's own: `python -m benchmarks.gradients [--images 16]`.

Forward and backward pass of single layers in bfloat16 and channels_last as a run computes them, with and without
`train.gradients`, in turns: depthwise convolutions of MobileNet v2, EfficientNet-B0 and a dilated Xception, and a
squeeze-and-excitation block.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import tyro
from torch import nn

from backbones.allocator import keep_freed_memory
from backbones.models.senet import excitation
from backbones.timing import interleaved
from backbones.train.gradients import QuickGradients
from benchmarks.shown import heading, ratio

WINDOWS = {  # channels, side, kernel size, stride, padding, dilation
    "stride 2": (96, 113, 3, 2, 0, 1),
    "stride 2, small": (576, 15, 3, 2, 0, 1),
    "5x5": (672, 14, 5, 1, 2, 1),
    "5x5, stride 2": (240, 29, 5, 2, 0, 1),
    "dilation 2": (728, 19, 3, 1, 2, 2),
}
EXCITED = (256, 56)
"""channels and side of the map that is gated"""


def passes(
    layer: nn.Module, channels: int, side: int, images: int, mode: AbstractContextManager[Any]
) -> Callable[[], object]:
    x = torch.randn(images, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        slope = torch.randn_like(layer(x))

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16), mode:
            y = layer(x)
        return torch.autograd.grad(y, (x, *layer.parameters()), slope)

    return run


def main(images: int = 16, rounds: int = 5) -> None:
    """Print a Markdown table.

    Args:
        images: at a time
        rounds: undisturbed blocks of each
    """
    keep_freed_memory()
    layers: dict[str, tuple[nn.Module, int, int]] = {}
    for name, (channels, side, *window) in WINDOWS.items():
        layers[f"depthwise, {name}"] = (
            nn.Conv2d(channels, channels, *window, groups=channels, bias=False),
            channels,
            side,
        )
    layers["squeeze-and-excitation"] = excitation(EXCITED[0], 16), *EXCITED
    print(f"{heading('cpu')}\n\n| layer | channels, side | torch, ms | ours, times as fast |\n|---|---|---|---|")
    for name, (layer, channels, side) in layers.items():
        layer.to(memory_format=torch.channels_last)
        runs = {
            way: passes(layer, channels, side, images, mode)
            for way, mode in (("torch", nullcontext()), ("ours", QuickGradients()))
        }
        for run in runs.values():
            run()
        times = interleaved(runs, rounds=rounds)
        gain = ratio(times["torch"], times["ours"])
        print(f"| {name} | {channels}, {side} | {1000 * times['torch'].median:.1f} | {gain} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
