"""Which ways to compute a network are worth trying here, and how each is built."""

from importlib.util import find_spec

import torch

from backbones import bf16
from backbones.infer import torch_engine
from backbones.infer.source import Candidate, Run, Source

PRECISIONS = {"auto": ("fp32", "bf16", "int8"), "exact": ("fp32",), "bf16": ("bf16",), "int8": ("int8",)}
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
AS_IT_IS = Candidate("torch", "fp32", "as it is")
SMALL = (4, 2)
"""images of a small part of a batch"""
SECONDS_OF_A_LAYER = 0.25
"""that torch.compile takes for a convolution, norm or activation after folding, about"""


def plan(source: Source, precision: str, goal: str, engine: str) -> list[Candidate]:
    """All that could be tried, the most promising first. What compiles for long is last."""
    precisions = [p for p in PRECISIONS[precision] if p != "int8" or source.calibration is not None]
    device = source.example[0].device
    found = list[Candidate]()
    floats = [p for p in precisions if p != "int8"]
    if device.type == "cpu" and engine in ("auto", "openvino"):
        for p in precisions:
            for rest in ("", "bf16") if p == "int8" else ("",):  # what int8 does not compute; not every processor can
                found += [Candidate("openvino", p, rest, parts, streams) for parts, streams in _cuts(source, goal)]
    if engine in ("auto", "torch"):
        found += [Candidate("torch", p, "folded") for p in floats]
    if device.type == "cpu" and engine in ("auto", "onnxruntime") and "fp32" in floats:
        found += [Candidate("onnxruntime", "fp32")]
    if engine in ("auto", "torch"):
        found += [Candidate("torch", p, "compiled") for p in reversed(floats)]
    return found


def obstacle(candidate: Candidate, source: Source, done: list[Candidate], seconds: float) -> str:
    """Why it is not tried, if there is a reason: what is not installed, not in this processor, or too long to build.

    Args:
        done: what was built before
        seconds: that may still be spent
    """
    if candidate.engine != "torch" and not find_spec(candidate.engine):
        return f"{candidate.engine} is not installed: pip install 'backbones[infer]'"
    if candidate.precision == "int8" and not find_spec("nncf"):
        return "nncf is not installed: pip install 'backbones[infer]'"
    if "bf16" in (candidate.precision, candidate.how) and not has_bf16(candidate.engine, source.example[0].device):
        return "this processor has no bfloat16 arithmetic"
    if candidate.how == "compiled":
        if not torch_engine.has_compiler():
            return "no C++ compiler here"
        if any(other.engine != "torch" for other in done):
            return "not tried: takes long to build, and was never the fastest where another engine runs"
        need = SECONDS_OF_A_LAYER * sum(node.op == "call_function" for node in source.folded().graph.nodes)
        if need > seconds:
            return f"not tried: would take about {need:.0f} s to build, and {max(seconds, 0):.0f} s are left"
    return "" if seconds > 0 else "not tried: the time was spent"


def has_bf16(engine: str, device: torch.device) -> bool:
    """Whether the engine computes in bfloat16 on this device without emulating it."""
    if engine == "openvino":
        from backbones.infer import openvino

        return openvino.has_bf16()
    return bf16.has_bf16(device.type)


def build(source: Source, candidate: Candidate) -> Run:
    """A function that computes the source so, with what its engine needs loaded now."""
    if candidate.engine == "openvino":
        from backbones.infer import openvino

        return openvino.OpenVINO(openvino.model(source, candidate.precision), source, candidate)
    if candidate.engine == "onnxruntime":
        from backbones.infer import onnxruntime

        return onnxruntime.ONNXRuntime(source)
    return torch_engine.build(source, candidate)


def _cuts(source: Source, goal: str) -> list[tuple[int, int]]:
    """(parts, streams): the whole batch on all threads; or beside each other, parts of it, or whole batches.

    Of small parts there are more than streams: what each computes stays in the caches.
    """
    cuts = [(1, 1)]
    for streams in sorted({2, source.threads} - {1}) if source.threads > 1 else ():
        cuts.append((1 if goal == "throughput" else streams, streams))
        cuts += [(parts, streams) for size in SMALL if (parts := source.batch // size) > streams]
    return [(parts, streams) for parts, streams in cuts if parts == 1 or _divides(source, parts)]


def _divides(source: Source, parts: int) -> bool:
    return source.any_batch and source.batch >= parts and source.batch % parts == 0
