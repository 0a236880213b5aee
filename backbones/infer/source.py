"""What is made fast, and in which ways it may be computed."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from backbones.infer import graph
from backbones.infer.fold import fold

Run = Callable[..., Any]
"""tensors in, what the module returns out"""


@dataclass(frozen=True)
class Candidate:
    """One way to compute a network: it is built, checked, measured, and taken or not."""

    engine: str
    """torch, openvino or onnxruntime"""
    precision: str
    """of the numbers inside: fp32, bf16, or int8"""
    how: str = ""
    """what else tells it from its like"""
    parts: int = 1
    """into which a batch is cut"""
    streams: int = 1
    """how many are computed at a time, each with its share of the threads"""

    @property
    def name(self) -> str:
        cut = f"in {self.parts} parts" if self.parts > 1 else ""
        beside = f"{self.streams} at a time" if self.streams > 1 else ""
        how = f"beside {self.how}" if self.precision == "int8" and self.how else self.how
        return " ".join(word for word in (self.engine, self.precision, how, cut, beside) if word)


class Source:
    """A module and an example of what it takes. What engines build from is made once, when the first needs it."""

    def __init__(
        self, module: nn.Module, example: Sequence[Tensor], threads: int, calibration: Tensor | None = None
    ) -> None:
        self.module = deepcopy(module).eval().requires_grad_(False)
        self.example, self.threads, self.calibration = tuple(example), threads, calibration

    @property
    def batch(self) -> int:
        return len(self.example[0])

    @cached_property
    def program(self) -> ExportedProgram:
        """What torch.export sees."""
        return graph.export(self.module, self.example)

    @cached_property
    def converted(self) -> dict[str, Any]:
        """Models of other engines, made before, by what they are."""
        return {}

    @cached_property
    def out_spec(self) -> Any:
        """How the results are put together."""
        return self.program.call_spec.out_spec

    @cached_property
    def any_batch(self) -> bool:
        """Whether what torch.export sees holds for any number of images."""
        try:
            program = self.program
        except Exception:  # it is told where an engine is built from it
            return False
        given = program.graph_signature.user_inputs
        return all(
            not isinstance(node.meta["val"].shape[0], int)
            for node in program.graph.find_nodes(op="placeholder")
            if node.name in given
        )

    def folded(self) -> GraphModule:
        """A graph of its own for whoever asks, norms folded."""
        return fold(graph.graph_of(self.program))


def batches(images: Tensor, size: int) -> list[Tensor]:
    """So many images each; the last may have fewer."""
    return [images[start : start + size] for start in range(0, len(images), size)]
