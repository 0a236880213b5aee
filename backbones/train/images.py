"""Before a run: every image is decoded once, so that none stops it in the middle of the night."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from backbones.data import Bad, Data, check_data, workers_by_default
from backbones.records import Options
from backbones.train.folder import BAD_IMAGES
from backbones.weights.file import in_place

MOST = 0.1
"""share of unusable images from which on something else is wrong than a few files"""


def unusable(data: Data, options: Options, console: Console) -> dict[tuple[str, int], Bad]:
    """The images that a run is to leave out, by part and number in the list of that part.

    ValueError that lists all of them, where the run is not to leave any out, or where they are more than a tenth.
    """
    processes = workers_by_default() if options.workers is None else options.workers
    images, found = check_data(data, processes, console)
    total = sum(images.values())
    bad = {(name, i): one for name, ones in found.items() for i, one in enumerate(ones)}
    listed = "\n".join(f"  {one.where}: {one.reason}" for one in bad.values())
    how = f"{len(bad):,} of {total:,} images cannot be used"
    if bad and options.on_bad_image == "error":
        raise ValueError(f"{how}; repair or remove them, or leave them out with --on-bad-image skip:\n{listed}")
    if len(bad) > MOST * total:
        raise ValueError(f"{how}, more than {MOST:.0%}: too many to leave out; look at where they come from:\n{listed}")
    return bad


def write_list(bad: Mapping[tuple[str, int], Bad], folder: Path) -> None:
    """bad_images.csv; what cannot be read any more in the course of the run is added by the process that meets it."""
    _write([(part, one.where, one.reason) for (part, _), one in bad.items()], folder / BAD_IMAGES)


def each_once(folder: Path) -> None:
    """Several processes may have noted the same image in bad_images.csv."""
    if (file := folder / BAD_IMAGES).exists():
        with open(file, newline="") as opened:
            (_, *rows) = csv.reader(opened)
        _write(list({tuple(row[:2]): tuple(row) for row in reversed(rows)}.values())[::-1], file)


def _write(rows: Sequence[Sequence[str]], file: Path) -> None:
    with in_place(file) as temporary, open(temporary, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("part", "image", "reason"))
        writer.writerows(rows)
