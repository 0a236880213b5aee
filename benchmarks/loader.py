"""Images per second from JPEGs to batches at 224 pixels: `python -m benchmarks.loader [--images 256] [--workers 0 2]`.

Photos of 500 x 375 and of 2000 x 1500 pixels, quality 90, are made in a temporary folder. The loader of training, with
what is left to be done with its batches, exact and with `--decode scaled`, beside torchvision's ImageFolder with its
first transforms on PIL images, which make the same crops and mirrors. Each loads in a process of its own, since
training keeps freed memory; all take turns, and the table has ratios.
"""

import tempfile
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

from backbones.allocator import keep_freed_memory
from backbones.data import make_loader, open_data, pack, preprocessing_for, set_epoch, split, train_transform
from backbones.recipes import MODERN
from backbones.timing import interleaved
from benchmarks.remote import Remote
from benchmarks.shown import heading, ratio

SIZE, BATCH, QUALITY = 224, 32, 90
PHOTO, LARGE, FEWER = (500, 375), (2000, 1500), 8
"""sides of the photos, and how many times fewer large ones there are"""
RECIPE = replace(MODERN, crop="area", scale=(0.08, 1.0), hflip=0.5, rotate=0, translate=0, zoom=0, shear=0, reprob=0)


def photos(folder: Path, count: int, size: tuple[int, int] = PHOTO) -> None:
    """Pictures with the spectrum of photos, amplitude 1 over frequency, and grain: about 60 kB each at 500 x 375."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
    for i in range(count):
        chance = np.random.default_rng(i)
        waves = chance.standard_normal((3, *frequency.shape)) + 1j * chance.standard_normal((3, *frequency.shape))
        waves[1:] = 0.8 * waves[:1] + 0.2 * waves[1:]  # colours go together
        planes = np.fft.irfft2(waves / frequency**1.2, (height, width))
        planes = 128 + 60 * planes / planes.std() + chance.normal(0, 4, planes.shape)
        file = folder / "train" / f"class{i % 2}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, quality=QUALITY)


def ours(spec: str, workers: int, scaled: bool = False) -> Callable[[], object]:
    """An epoch as training reads it, to the normalised batch."""
    keep_freed_memory()
    data = open_data(spec, whole=True)
    each, finish = split(train_transform(preprocessing_for(data.info, (SIZE, SIZE), 3), RECIPE, data.info))
    loader = make_loader(data.train, each, batch_size=BATCH, train=True, seed=0, workers=workers, scaled=scaled)
    set_epoch(loader, 0)

    def epoch() -> None:
        for images, _ in loader:
            finish(images)

    return epoch


def theirs(folder: Path, workers: int) -> Callable[[], object]:
    """torchvision's folder and transforms, as its first training script had them."""
    info = open_data(f"folder:{folder}", whole=True).info
    changes = [
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(info.mean, info.std),
    ]
    made = datasets.ImageFolder(str(folder / "train"), transforms.Compose(changes))
    loader = DataLoader(made, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: all_of(loader)


def all_of(loader: Iterable[object]) -> None:
    for _ in loader:
        pass


def main(images: int = 128, rounds: int = 5, workers: tuple[int, ...] = (0, 2)) -> None:
    """Time all ways in turns and print a Markdown table.

    Args:
        images: of the small photos; an eighth as many of the large ones
        rounds: undisturbed epochs of each
        workers: numbers of processes to load with
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores are asked for
    print(f"{heading('cpu', 'torchvision', 'pillow')}\n")
    print("| photos | workers | torchvision v1 on PIL, images/s | folder | shards | scaled |")
    print("|---|---|---|---|---|---|")
    for size, count in ((PHOTO, images), (LARGE, max(8, images // FEWER))):
        with tempfile.TemporaryDirectory() as name:
            folder, shards = Path(name) / "photos", Path(name) / "shards"
            photos(folder, count, size)
            pack(folder, shards, 2**24)
            for n in workers:
                runs = {
                    "base": Remote(theirs, folder, n),
                    "folder": Remote(ours, f"folder:{folder}", n),
                    "shards": Remote(ours, f"wds:{shards}", n),
                    "scaled": Remote(ours, f"folder:{folder}", n, True),
                }
                for run in runs.values():
                    run()
                times = interleaved(runs, rounds=rounds)
                gains = " | ".join(ratio(times["base"], times[way]) for way in ("folder", "shards", "scaled"))
                print(f"| {size[0]} x {size[1]} | {n} | {count / times['base'].median:.0f} | {gains} |", flush=True)
                for run in runs.values():
                    run.close()


if __name__ == "__main__":
    tyro.cli(main)
