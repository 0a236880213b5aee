"""What `backbones.optimize` costs in accuracy, on four networks trained here: the table of RESULTS.md.

    python -m benchmarks.accuracy --output trained [--batch 32]

The networks are trained once, each by `backbones train` into a folder of its own under --output, and taken from there
later. Each is then tested as it is (eager, fp32) and as `optimize` gives it back in each precision, on images that
neither the training nor the calibration has seen. A changed prediction is an image whose first class is another one;
agreement is the share of the rest.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

import backbones
from backbones import machine
from backbones.data import eval_transform, make_loader, open_data

PLAIN = ("--crop", "centre", "--auto-augment", "", "--rotate", "0", "--zoom", "0", "--shear", "0")
SHAPES = ("--img-size", "64", "--precision", "bf16-mixed", "--lr", "0.002", *PLAIN)
NETWORKS = {
    "lenet5": ("digits", ("--epochs", "40")),
    "resnet20_cifar": ("digits", ("--epochs", "15")),
    "mobilenet_v2": ("shapes:64,val=0,test=2000", (*SHAPES, "--epochs", "15")),
    "resnet18": ("shapes:64,val=0,test=2000", (*SHAPES, "--epochs", "8")),
}
"""what each is trained and tested on, and how it is trained"""
TARGETS = {"exact": 0.0, "bf16": 0.1, "int8": 0.5}
"""largest loss, in points; `exact` may change no prediction at all"""
CALIBRATION = 256
"""training images, with their labels"""

Precision = Literal["exact", "bf16", "int8"]


def main(
    output: Path,
    batch: int = 32,
    precisions: tuple[Precision, ...] = ("exact", "bf16", "int8"),
    train_only: bool = False,
) -> None:
    """Train what is not trained yet, then print a Markdown table.

    Args:
        output: folder of the trained networks
        batch: images at once
        precisions: of `optimize`
        train_only: stop after the training
    """
    for name, (data, how) in NETWORKS.items():
        if not (output / name / "best.safetensors").exists():
            command = [sys.executable, "-m", "backbones", "train", name, "--data", data, "--output", str(output / name)]
            subprocess.run([*command, *how], check=True)
    if train_only:
        return
    print(f"{machine.this('cpu').cpu}, {torch.get_num_threads()} threads; {machine.versions()}\n")
    print(
        "| network | data | images | fp32, % | precision | engine | then, % | loss, points | changed | agreement, % | |"
    )
    print("|---|---|---:|---:|---|---|---:|---:|---:|---:|---|", flush=True)
    for name in NETWORKS:
        _report(name, output, batch, precisions)


def _report(name: str, output: Path, batch: int, precisions: tuple[Precision, ...]) -> None:
    model = backbones.load(output / name / "best.safetensors")
    data = open_data(NETWORKS[name][0], channels=model.in_channels)
    transform = eval_transform(model.checkpoint.preprocessing)
    loader = make_loader(data.test, transform, batch_size=batch, train=False, seed=0, workers=0)
    tested = [(images, labels) for images, labels in loader]
    labels = torch.cat([labels for _, labels in tested])
    step = max(len(data.train) // CALIBRATION, 1)
    known = data.train.take(range(0, step * CALIBRATION, step))
    calibration = list(make_loader(known, transform, batch_size=batch, train=False, seed=0, workers=0))
    plain = _answers(model, tested)
    top1 = _percent(plain == labels)
    for precision in precisions:
        fast = backbones.optimize(model, tested[0][0], precision=precision, calibration=calibration)
        answers = _answers(fast, tested)
        then, changed = _percent(answers == labels), int((answers != plain).sum())
        kept = changed == 0 if precision == "exact" else top1 - then <= TARGETS[precision]
        row = (f"`{name}`", NETWORKS[name][0].partition(",")[0], len(labels), f"{top1:.2f}", precision)
        row += (fast.report.chosen, f"{then:.2f}", f"{top1 - then:+.2f}", changed)
        print(f"| {' | '.join(map(str, row))} | {_percent(answers == plain):.2f} | {'kept' if kept else 'MISSED'} |")


def _answers(model: Callable[[Tensor], Tensor], batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The first class of every image."""
    with torch.inference_mode():
        return torch.cat([model(images).argmax(1) for images, _ in batches])


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


if __name__ == "__main__":
    tyro.cli(main)
