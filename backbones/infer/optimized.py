"""A network that was made fast."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from backbones.infer.candidates import AS_IT_IS
from backbones.infer.report import Report
from backbones.infer.source import Run, Source

Kind = tuple[torch.Size, torch.dtype, torch.device]


class Optimized(nn.Module):
    """A network as `optimize` made it: tensors in, tensors out, from any number of threads at a time.

    It computes with the weights that the module had then, and cannot be trained. Batches of the example's size are
    what it was measured for; others are computed too, where the engine can.
    """

    def __init__(self, run: Run, source: Source, report: Report) -> None:
        super().__init__()
        self._compute = (run,)  # not a part: its weights are not to be moved, saved or trained
        self._shapes = [(x.shape, x.dtype, x.device) for x in source.example]
        self._any = source.any_batch if report.taken.candidate != AS_IT_IS else True
        self.report = report
        self.register_buffer("where", torch.empty(0, device=source.example[0].device), persistent=False)
        self.eval()

    def forward(self, *tensors: Tensor) -> Any:
        """What the module returns. (N, ...) for each tensor as in the example.

        Raises:
            ValueError: images of another size, kind or device than those it was optimized for
        """
        given = [(x.shape, x.dtype, x.device) for x in tensors if isinstance(x, Tensor)]
        if given != self._shapes and not (len(given) == len(tensors) and self._fits(given)):
            raise ValueError(
                f"this was optimized for {_told(self._shapes, self._any)} and got {_told(given, False)}; "
                "call optimize again with an example of that kind"
            )
        with torch.no_grad():
            return self._compute[0](*tensors)

    def map(self, batches: Iterable[Tensor]) -> Iterator[Any]:
        """The results of one batch after another, as many computed at a time as was found best."""
        streams = self.report.taken.candidate.streams
        if self.report.taken.candidate.parts > 1 or streams == 1:
            yield from (self(batch) for batch in batches)
            return
        with ThreadPoolExecutor(streams) as pool:
            rest = iter(batches)
            begun = [pool.submit(self, batch) for batch in islice(rest, 2 * streams)]
            for batch in chain(rest, [None] * len(begun)):
                yield begun.pop(0).result()
                if batch is not None:
                    begun.append(pool.submit(self, batch))

    def train(self, mode: bool = True) -> "Optimized":
        if mode:
            raise ValueError("an optimized network cannot be trained; train the module, and optimize it again")
        return super().train(False)

    def _apply(self, *_: Any, **__: Any) -> "Optimized":
        raise ValueError(
            "an optimized network stays where it is, as it is; optimize the module again, moved or converted"
        )

    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise ValueError("an optimized network has no weights to save; save the module, or write a file with export")

    def __deepcopy__(self, _: Any) -> "Optimized":
        raise ValueError("an optimized network cannot be copied; it may be called from many threads")

    def _fits(self, given: Sequence[Kind]) -> bool:
        kinds = [(shape[1:], *rest) for shape, *rest in given] == [(shape[1:], *rest) for shape, *rest in self._shapes]
        return self._any and kinds and len({shape[0] for shape, *_ in given}) == 1


def _told(kinds: Sequence[Kind], any_batch: bool) -> str:
    shapes = [(("N", *shape[1:]) if any_batch else tuple(shape), dtype, device) for shape, dtype, device in kinds]
    return " and ".join(
        f"({', '.join(map(str, shape))}) {str(dtype).removeprefix('torch.')} on {device}"
        for shape, dtype, device in shapes
    )
