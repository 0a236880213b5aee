"""The fastest way to compute a network on this machine, found by trying."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.allocator import keep_freed_memory
from backbones.infer import remembered
from backbones.infer.answers import Calibration
from backbones.infer.candidates import ENGINES, PRECISIONS
from backbones.infer.extras import need
from backbones.infer.optimized import Optimized
from backbones.infer.search import Search
from backbones.infer.source import Source

GOALS = ("latency", "throughput")


def optimize(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    precision: str = "auto",
    goal: str = "latency",
    engine: str = "auto",
    calibration: Any = None,
    tolerance: float | None = None,
    budget_s: float = 60.0,
    fresh: bool = False,
) -> Optimized:
    """Find the fastest way to compute a module on this machine, at the size of the example, and return it ready.

    Tries what is installed (torch folded and packed, OpenVINO, ONNX Runtime, torch.compile), checks the results of
    each against the module's own, and measures those that pass, in turns, on torch.get_num_threads() threads. The
    search is remembered: the next one for such a network only builds what was found. The process keeps freed memory
    from here on (`backbones.allocator`).

    Args:
        module: any that takes and returns tensors; it is left as it is
        example: what it will be given, (N, C, H, W), or several tensors
        precision: "exact" for float32, within 1e-4 of the range of the results; "bf16"; "int8", which needs
            calibration; "auto" for the fastest whose first answers are those of the module on 99.5 % of the
            calibration images. Without such images "auto" takes bfloat16 where the processor has it, and says that
            answers were not compared; int8 only with classes of the images or a tolerance
        goal: "latency" of one batch after another, or "throughput" of several callers, or of `.map`
        engine: "torch", "openvino" or "onnxruntime" instead of all
        calibration: images as the network will see them: a tensor, batches, or a dataset of (image, class)
        tolerance: share of the calibration images whose first answer may change, instead of 0.005
        budget_s: seconds after which nothing new is tried
        fresh: search again what is known

    Returns:
        a module for inference; its `.report` tells every try, and prints as a table

    Raises:
        TypeError: it is no module
        ValueError: an option that is not allowed; no way to compute it so, and why
        ImportError: the engine that was asked for is not installed
    """
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    _check(module, tensors, precision, goal, engine)
    if tolerance is not None and (calibration is None or not 0 <= tolerance <= 1):
        raise ValueError(f"tolerance={tolerance}; give a share from 0 to 1, of the images in calibration=")
    known = None if calibration is None else Calibration.of(calibration, tensors)
    if precision == "int8" and known is None:
        raise ValueError("int8 needs images to find its ranges: give calibration=, some hundred of them")
    keep_freed_memory()
    source = Source(module, tensors, torch.get_num_threads(), None if known is None else known.images)
    search = Search(source, precision, goal, engine, known, tolerance, budget_s)
    memory = remembered.Memory(source, precision, goal, engine, known is None, tolerance, search.int8)
    before = None if fresh else memory.read()
    if before is not None and (found := search.again(before)):
        return found
    found = search.run()
    spent = any("time was spent" in trial.verdict or "s are left" in trial.verdict for trial in found.report.trials)
    if found.report.taken.believed and not spent:
        memory.write(found.report)
    return found


def _check(module: nn.Module, tensors: Sequence[Tensor], precision: str, goal: str, engine: str) -> None:
    for name, given, allowed in (
        ("precision", precision, tuple(PRECISIONS)),
        ("goal", goal, GOALS),
        ("engine", engine, ENGINES),
    ):
        if given not in allowed:
            raise ValueError(f"{name}={given!r}; give one of {', '.join(allowed)}")
    can = {"torch": ("auto", "exact", "bf16"), "onnxruntime": ("auto", "exact")}.get(engine, tuple(PRECISIONS))
    if precision not in can:
        raise ValueError(f"{engine} does not compute in {precision} here; give it one of {', '.join(can)}")
    if not isinstance(module, nn.Module):
        raise TypeError(f"optimize takes a torch.nn.Module, not a {type(module).__name__}; create_model makes one")
    if not tensors or not all(isinstance(x, Tensor) and x.dim() for x in tensors):
        raise ValueError("example must be a tensor of images (N, C, H, W), or several tensors")
    other = {str(p.dtype) for p in module.parameters() if p.is_floating_point()} - {"torch.float32"}
    if other:
        raise ValueError(f"the module is in {', '.join(sorted(other))}; give it in float32, and choose the precision")
    if engine in ("openvino", "onnxruntime"):
        need(engine)
