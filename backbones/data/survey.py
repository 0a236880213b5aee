"""Looking over a part before training on it: can it be read, and what are its colours?"""

import torch
from torch import Tensor

from backbones.data.decode import read_header
from backbones.data.parts import FilePart, Part

HEADERS = 10_000
"""most files whose header `check_part` reads"""
LISTED = 10
"""most unreadable files that an error lists"""


def check_part(part: Part, samples: int = 64) -> None:
    """Read the headers of up to 10,000 files and decode `samples` images, both evenly spread over the part.

    ValueError with a list of those that cannot be read. What is already in memory is not looked at.
    """
    if not isinstance(part, FilePart):
        return
    headers = spread(len(part), HEADERS)
    bad: dict[int, str] = {}
    for index in headers:
        try:
            read_header(part.where(index))
        except (ValueError, OSError) as error:
            bad[index] = str(error)
    decoded = spread(len(part), samples)
    for index in decoded:
        try:
            part.image(index)
        except (ValueError, OSError) as error:
            bad[index] = str(error)
    if bad:
        looked_at = len({*headers, *decoded})
        lines = [f"  {bad[index]}" for index in sorted(bad)[:LISTED]]
        more = [f"  and {len(bad) - LISTED:,} more"] if len(bad) > LISTED else []
        raise ValueError("\n".join([f"{len(bad):,} of {looked_at:,} images looked at cannot be used:", *lines, *more]))


def moments(part: Part, samples: int = 256) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of the colours in [0, 1], float64, from up to `samples` images.

    The images are evenly spread over the part, and each has the same weight, whatever its size.
    """
    means, squares = [], []
    for index in spread(len(part), samples):
        try:
            image = part.image(index)
        except ValueError:
            check_part(part)  # lists all that it finds, where the error of one image names only that one
            raise
        colours = image.flatten(1).double() / 255
        means.append(colours.mean(1))
        squares.append(colours @ colours.T / colours.shape[1])
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
