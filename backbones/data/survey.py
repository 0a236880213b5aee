"""Looking over a part before training on it: can it be read, and what are its colours?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbones.data.checked import Checked
from backbones.data.decode import read_header
from backbones.data.parts import Data, FilePart, Part, StoredPart

HEADERS = 10_000
"""most files whose header `check_part` reads"""
LISTED = 10
"""most unreadable files that an error lists"""
BATCH = 32
"""images that one process decodes at a time in `check_all`"""


@dataclass(frozen=True)
class Bad:
    """An image that cannot be used."""

    where: str
    """as the part tells it: a path, or a shard and a name in it"""
    reason: str
    """and what to do"""


def check_all(part: Part, processes: int = 0, done: Callable[[int], None] = lambda count: None) -> list[Bad]:
    """Decode every image, in so many worker processes; those that cannot be used, in the order of the part.

    What was good and has the same size and time of change since is not decoded again; what was bad is. Images in
    memory and drawn ones are not looked at. `done` is told how many more images have been dealt with.
    """
    if processes < 0:
        raise ValueError(f"workers={processes}; give a number of processes, 0 for none but this one")
    if not isinstance(part, StoredPart):
        done(len(part))
        return []
    stamps = [part.stamp(i) for i in range(len(part))]
    checked = Checked(stamp for stamp in stamps if stamp)
    open_ones = [i for i, stamp in enumerate(stamps) if stamp not in checked]
    done(len(part) - len(open_ones))
    bad: list[Bad] = []
    loader: Iterable[list[Bad | None]] = DataLoader(
        _Findings(part, open_ones), BATCH, num_workers=processes, collate_fn=list, generator=torch.Generator()
    )
    indices = iter(open_ones)
    try:
        for findings in loader:
            for found, index in zip(findings, indices, strict=False):
                if found:
                    bad.append(found)
                elif stamp := stamps[index]:
                    checked.add(stamp)
            done(len(findings))
    finally:  # whoever stops it goes on from there
        checked.save()
    return bad


def check_data(data: Data, processes: int, console: Console) -> tuple[dict[str, int], dict[str, list[Bad]]]:
    """How many images each part has, and `check_all` of it; a part that stands for another is looked at once."""
    parts = {name: part for name, part in data.parts.items() if name == "train" or part is not data.train}
    images = {name: len(part) for name, part in parts.items()}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("looking at every image", total=sum(images.values()))
        found = {name: check_all(part, processes, lambda n: bar.advance(task, n)) for name, part in parts.items()}
    return images, found


def leave_out(data: Data, bad: Sequence[Bad]) -> Data:
    """The data without these images. ValueError where that leaves a part, or a class of the training part, empty."""
    if not bad:
        return data
    names = {one.where for one in bad}
    parts = {name: _without(part, name, names) for name, part in data.parts.items()}
    if lost := sorted(set(data.train.labels) - set(parts["train"].labels)):
        classes = ", ".join(repr(data.info.classes[i]) for i in lost[:LISTED])
        raise ValueError(f"no training image of {classes} can be read; repair some or remove the class")
    images = {name: len(part) for name, part in parts.items()}
    gone = sum(data.info.images.values()) - sum(images.values())
    info = replace(data.info, images=images, split=f"{data.info.split}; {gone:,} images that cannot be used left out")
    return Data(info, **parts)


def _without(part: Part, name: str, names: set[str]) -> Part:
    kept = [i for i in range(len(part)) if part.where(i) not in names]
    if not kept:
        raise ValueError(f"none of the {len(part):,} images of {name} can be used; repair them or copy them again")
    return part.take(kept)


class _Findings(Dataset["Bad | None"]):
    """What is wrong with each of these images of a part."""

    def __init__(self, part: StoredPart, indices: Sequence[int]) -> None:
        self.part, self.indices = part, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Bad | None:
        return _finding(lambda i: self.part.image(i), self.part, self.indices[number])


def _finding(look: Callable[[int], object], part: Part, index: int) -> Bad | None:
    """What goes wrong when this image is looked at."""
    where = part.where(index)
    try:
        look(index)
    except FileNotFoundError:
        return Bad(where, "there is no such file; a link may lead nowhere")
    except ValueError as error:  # not OSError: a server that is away says nothing of the image
        return Bad(where, str(error).removeprefix(f"cannot read {where}: "))
    return None


def check_part(part: Part, samples: int = 64) -> None:
    """Decode `samples` images, and read the headers of up to 10,000 files, both evenly spread over the part.

    ValueError with a list of those that cannot be used. Images in memory and drawn ones are not looked at.
    """
    if not isinstance(part, StoredPart):
        return
    decoded, headers = spread(len(part), samples), spread(len(part), HEADERS) if isinstance(part, FilePart) else []
    bad: dict[int, Bad] = {}
    for look, indices in ((lambda i: read_header(part.source(i)), headers), (part.image, decoded)):
        bad |= {i: found for i in indices if i not in bad and (found := _finding(look, part, i))}
    if bad:
        raise ValueError(told([bad[i] for i in sorted(bad)], len({*headers, *decoded})))


def told(bad: Sequence[Bad], looked_at: int) -> str:
    """The first few in words, for an error."""
    lines = [f"  {one.where}: {one.reason}" for one in bad[:LISTED]]
    more = [f"  and {len(bad) - LISTED:,} more"] if len(bad) > LISTED else []
    return "\n".join([f"{len(bad):,} of {looked_at:,} images looked at cannot be used:", *lines, *more])


def moments(part: Part, samples: int = 256) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of the colours in [0, 1], float64, from up to `samples` images.

    The images are evenly spread over the part, and each has the same weight, whatever its size. Those that cannot be
    read are passed over; ValueError where none can.
    """
    means, squares = [], []
    for index in spread(len(part), samples):
        try:
            image = part.image(index)
        except (ValueError, FileNotFoundError):
            continue
        colours = image.flatten(1).double() / 255
        means.append(colours.mean(1))
        squares.append(colours @ colours.T / colours.shape[1])
    if not means:
        check_part(part, samples)  # says why
    mean = torch.stack(means).mean(0)
    return mean, torch.stack(squares).mean(0) - torch.outer(mean, mean)


def colours_of(part: Part, samples: int = 256) -> tuple[Tensor, Tensor]:
    """Eigenvalues (C,) and eigenvectors (C, C), in columns, of the covariance of the colours in [0, 1]; for `Lighting`.

    Largest first; the sign of a vector is such that its largest component is positive.
    """
    values, vectors = torch.linalg.eigh(moments(part, samples)[1])
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values.float(), (vectors * largest.sign()).float()


def spread(length: int, most: int) -> list[int]:
    """At most `most` numbers from 0 to length - 1, evenly spread."""
    count = min(length, most)
    return [i * length // count for i in range(count)]
