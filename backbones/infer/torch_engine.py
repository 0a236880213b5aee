"""torch alone: as the module is, folded and packed, or compiled with its weights frozen in."""

import shutil
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from backbones.infer.extras import quiet
from backbones.infer.graph import finished
from backbones.infer.packed import available, convert, pack
from backbones.infer.source import Candidate, Run, Source

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build(source: Source, candidate: Candidate) -> Run:
    """A function that computes the source so."""
    if candidate.how == "as it is":
        return source.module
    build = {"folded": _folded, "compiled": _compiled}[candidate.how]
    return build(source, DTYPES[candidate.precision])


def has_compiler() -> bool:
    """Whether torch.compile finds what it writes programs for."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def _folded(source: Source, dtype: torch.dtype) -> Run:
    if source.example[0].device.type == "cpu" and available(dtype):
        return pack(source.folded(), source.example, dtype)
    return _converted(source, dtype)


def _converted(source: Source, dtype: torch.dtype) -> GraphModule:
    graph = source.folded()
    convert(graph, dtype)
    return finished(graph).to(memory_format=torch.channels_last)


def _compiled(source: Source, dtype: torch.dtype) -> Run:
    """Inductor's program for batches of the example's size; others are computed folded.

    Its option "freezing" is not enough: weights become part of the program by the global setting alone. What calls the
    kernels of a processor is C++ too: in Python that took a tenth of the time of ResNet-50 on one image in bfloat16.
    """
    from torch._inductor import config, freezing

    graph, bound = _converted(source, dtype), [x.shape for x in source.example]
    if source.example[0].device.type == "cuda":
        compiled = torch.compile(graph, dynamic=False, mode="reduce-overhead")

        alone = Lock()

        def replayed(*tensors: Tensor) -> Any:
            if [x.shape for x in tensors] != bound:
                return graph(*tensors)
            with alone, torch.inference_mode(False), torch.no_grad():
                results = compiled(*_laid_out(tensors, source.example))
                return pytree.tree_map(torch.clone, results)  # the next replay writes over them

        replayed(*source.example)
        return replayed
    compiled = torch.compile(graph, dynamic=False)
    watched = patch.object(freezing, "freeze", wraps=freezing.freeze)
    with quiet(), config.patch(freezing=True, cpp_wrapper=True), torch.no_grad(), watched as frozen:
        compiled(*source.example)
    if not frozen.called:
        raise RuntimeError("torch.compile did not freeze the weights; this version of torch has another setting for it")

    def run(*tensors: Tensor) -> Any:
        if [x.shape for x in tensors] != bound:
            return graph(*tensors)
        with torch.inference_mode(False), torch.no_grad():
            return compiled(*_laid_out(tensors, source.example))

    return run


def _laid_out(tensors: Sequence[Tensor], example: Sequence[Tensor]) -> Iterator[Tensor]:
    """The tensors as the program was compiled for: for others it would be compiled anew, without frozen weights."""
    for x, e in zip(tensors, example, strict=True):
        if x.is_inference() or x.stride() != e.stride():
            yield torch.empty_strided(e.shape, e.stride(), dtype=x.dtype, device=x.device).copy_(x)
        else:
            yield x.detach()
