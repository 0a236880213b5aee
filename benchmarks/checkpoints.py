"""What a checkpoint costs the training that goes on beside it.

    python benchmarks/checkpoints.py resnet18 --rounds 5

Blocks of steps without a checkpoint and with one after the first step take turns, in one process; the difference of
their times is what one checkpoint costs, whether the training waits for it or computes more slowly meanwhile.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from backbones import create_model
from backbones.recipes import MODERN
from backbones.train.loss import training_loss
from backbones.train.optimise import make_optimiser
from backbones.train.store import Store


def main(
    network: Positional[str] = "resnet18", /, size: int = 64, batch: int = 32, steps: int = 20, rounds: int = 5
) -> None:
    """Print what a checkpoint of this network costs, and how often one costs 2 % of the time.

    Args:
        network: a name
        size: side of the images
        batch: images per step
        steps: per block; the block must last longer than the writing
        rounds: of two blocks each
    """
    recipe = replace(MODERN, opt="sgd", lr=1e-3)
    model = create_model(network, num_classes=10).train()
    optimiser = make_optimiser(model, recipe)
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 10

    def step() -> None:
        torch.autograd.backward(training_loss(model(images), labels, recipe))
        optimiser.step()
        optimiser.zero_grad()

    def block(store: Store | None) -> float:
        start = time.perf_counter()
        for number in range(steps):
            step()
            if store and number == 0:
                begin = time.perf_counter()
                store.save(0, {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
                waits.append(time.perf_counter() - begin)
        if store:
            assert not store._pending or store._pending.done(), "the block is too short; give more --steps"
            store.wait()
            writes.append(store.seconds)
        return time.perf_counter() - start

    waits: list[float] = []
    writes: list[float] = []
    costs, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        block(store)
        for _ in range(rounds):
            plain.append(block(None))
            costs.append(block(store) - plain[-1])
        written = next(Path(folder).iterdir()).stat().st_size
    cost = statistics.median(costs)
    what = f"`{network}`, {size} px, batch {batch}, {statistics.median(plain) / steps:.2f} s a step"
    one = f"{cost:.2f} s ({min(costs):.2f} to {max(costs):.2f})"
    held = f"{written / 1e6:.0f} MB | {_spread(waits[1:])} | {_spread(writes[1:])}"
    print("| network | checkpoint | training waits | written in | one costs | 2 % where one is made every |")
    print("|---|---|---|---|---|---|")
    print(f"| {what} | {held} | {one} | {max(cost, 0) / 0.02:.0f} s |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    tyro.cli(main)
