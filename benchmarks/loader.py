"""Images per second from a JPEG folder to batches at 224 pixels: the table of RESULTS.md.

    python benchmarks/loader.py [--images 256] [--rounds 5] [--workers 0 1 2]

Photos of 500 x 375 pixels, quality 90, are made in a temporary folder. Reading (`read_image`) and the transforms are
timed alone on one core; then the loader with each number of workers, from the folder and from shards of it, beside
torchvision's ImageFolder with its first transforms on PIL images, which make the same crops and mirrors. All take turns
within a round; the first round warms up.
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from backbones.data import Data, make_loader, open_data, pack, preprocessing_for, read_image, set_epoch, train_transform
from backbones.recipes import MODERN

SIZE, BATCH = 224, 32
WIDTH, HEIGHT, QUALITY = 500, 375, 90
RECIPE = replace(MODERN, crop="area", scale=(0.08, 1.0), hflip=0.5, rotate=0, translate=0, zoom=0, shear=0, reprob=0)


def photos(folder: Path, count: int) -> None:
    """Pictures with the spectrum of photos, amplitude 1 over frequency, and grain: about 60 kB each."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]) + 1 / WIDTH
    for i in range(count):
        chance = np.random.default_rng(i)
        waves = chance.standard_normal((3, *frequency.shape)) + 1j * chance.standard_normal((3, *frequency.shape))
        waves[1:] = 0.8 * waves[:1] + 0.2 * waves[1:]  # colours go together
        planes = np.fft.irfft2(waves / frequency**1.2, (HEIGHT, WIDTH))
        planes = 128 + 60 * planes / planes.std() + chance.normal(0, 4, planes.shape)
        file = folder / "train" / f"class{i % 2}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, quality=QUALITY)


def ours(data: Data, workers: int) -> Iterable[object]:
    """The loader that training uses."""
    transform = train_transform(preprocessing_for(data.info, (SIZE, SIZE), 3), RECIPE, data.info)
    loader = make_loader(data.train, transform, batch_size=BATCH, train=True, seed=0, workers=workers)
    set_epoch(loader, 0)
    return loader


def theirs(folder: Path, data: Data, workers: int) -> Iterable[object]:
    """torchvision's folder and transforms, as its first training script had them."""
    changes = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(data.info.mean, data.info.std),
    ]
    made = datasets.ImageFolder(str(folder / "train"), transforms.Compose(changes))
    return DataLoader(made, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def all_of(loader: Iterable[object]) -> None:
    for _ in loader:
        pass


def ways(folder: Path, workers: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """What is timed -> a function that does it to every image once."""
    data = open_data(f"folder:{folder}")
    pack(folder, folder.parent / "shards", 2**24)
    shards = open_data(f"wds:{folder.parent / 'shards'}", whole=True)
    paths = [data.train.where(i) for i in range(len(data.train))]
    pixels = [read_image(path, 3) for path in paths[:BATCH]]
    transform = train_transform(preprocessing_for(data.info, (SIZE, SIZE), 3), RECIPE, data.info)
    found: dict[str, Callable[[], object]] = {
        "`read_image` alone, one core": lambda: [read_image(path, 3) for path in paths],
        "transforms alone, one core": lambda: [transform(pixels[i % BATCH]) for i in range(len(paths))],
    }
    for n in workers:
        with_n = f"{n} worker{'s' * (n != 1)}"
        loaders = {"folder": ours(data, n), "shards": ours(shards, n), "torchvision v1": theirs(folder, data, n)}
        found |= {f"{name}, {with_n}": lambda loader=loader: all_of(loader) for name, loader in loaders.items()}
    return found


def main(images: int = 256, rounds: int = 5, workers: tuple[int, ...] = (0, 1, 2)) -> None:
    """Time all ways in turns and print a Markdown table.

    Args:
        images: made and read per round
        rounds: after one that warms up
        workers: numbers of processes to load with
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores are asked for
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        photos(folder, images)
        size = statistics.mean(path.stat().st_size for path in folder.rglob("*.jpg"))
        timed = ways(folder, workers)
        speeds: dict[str, list[float]] = {way: [] for way in timed}
        for number in range(rounds + 1):
            for way, run in timed.items():
                start = time.perf_counter()
                run()
                if number:
                    speeds[way].append(images / (time.perf_counter() - start))
    print(f"{images} JPEGs of {WIDTH}x{HEIGHT}, {size / 1000:.0f} kB, {os.cpu_count()} processors, {rounds} rounds\n")
    print("| | images/s, median (min to max) | ms per image |\n|---|---|---|")
    for way, found in speeds.items():
        middle = statistics.median(found)
        print(f"| {way} | {middle:.0f} ({min(found):.0f} to {max(found):.0f}) | {1000 / middle:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
