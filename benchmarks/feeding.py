"""Whether training waits for its images: steps fed from a folder of JPEGs beside steps fed from memory, in one run.

    python -m benchmarks.feeding resnet18 --workers 2

Blocks of both kinds take turns. The images are 500x375, quality 90, as `benchmarks/loader.py` has them; the transform
is the random crop, mirroring and normalising of most recipes.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from backbones import create_model
from backbones.data import make_loader, open_data, preprocessing_for, train_transform
from backbones.train.loaders import computing_threads, threads_beside
from backbones.train.loss import training_loss
from backbones.train.optimise import make_optimiser
from benchmarks.loader import RECIPE, photos


def main(
    network: Positional[str] = "resnet18", /, size: int = 224, batch: int = 16, workers: int = 2, rounds: int = 5
) -> None:
    """Print images per second both ways, and the share of the time that training waits.

    Args:
        network: a name
        size: side of the network's input
        batch: images per step
        workers: processes that read images
        rounds: of two blocks each
    """
    recipe = replace(RECIPE, opt="sgd", lr=1e-3)
    model = create_model(network, num_classes=2).train()
    optimiser = make_optimiser(model, recipe)
    steps = 8
    with tempfile.TemporaryDirectory() as folder, computing_threads(threads_beside(workers)):
        photos(Path(folder), steps * batch)
        data = open_data(f"folder:{folder}", whole=True)
        transform = train_transform(preprocessing_for(data.info, (size, size), 3), recipe, data.info)
        loader = make_loader(data.train, transform, batch_size=batch, train=True, seed=0, workers=workers)
        held = list(islice(loader, steps))
        waits: list[float] = []

        def block(batches: object) -> float:
            start, waited, feed = time.perf_counter(), 0.0, iter(batches)  # type: ignore[call-overload]
            for _ in range(steps):
                begin = time.perf_counter()
                images, labels = next(feed)
                waited += time.perf_counter() - begin
                torch.autograd.backward(training_loss(model(images), labels, recipe))
                optimiser.step()
                optimiser.zero_grad()
            waits.append(waited / (time.perf_counter() - start))
            return steps * batch / (time.perf_counter() - start)

        block(held)
        memory, fed = [], []
        waits.clear()
        for _ in range(rounds):
            memory.append(block(held))
            fed.append(block(loader))
        threads = torch.get_num_threads()
    waited = waits[1::2]
    print(
        f"| `{network}`, {size} px, batch {batch}, {threads} computing threads, {workers} workers | images/s | waits |"
    )
    print("|---|---|---|")
    for name, values in (("from memory", memory), ("from the folder", fed)):
        share = f"{100 * statistics.median(waited):.1f} %" if values is fed else ""
        print(f"| {name} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) | {share} |")


if __name__ == "__main__":
    tyro.cli(main)
