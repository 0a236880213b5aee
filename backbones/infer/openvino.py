"""OpenVINO: in float32, bfloat16 or int8, as one computation on all threads or several beside each other."""

from collections.abc import Sequence
from functools import cache, cached_property
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from backbones.infer.extras import need, quiet
from backbones.infer.source import Candidate, Source, batches

MOST_CALIBRATED = 300
"""images that ranges of numbers are estimated from"""


@cache
def core() -> Any:
    """OpenVINO, once for the life of the process.

    Each Core gives its thread a stack for signals and puts the one before back when it goes. Of two that go in the
    order in which they came, the second puts a freed stack back, and the next signal, such as a child's end, crashes.
    """
    core = need("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # the stack is set now, before any Core of other libraries sets one
    return core


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def model(source: Source, precision: str) -> Any:
    """OpenVINO's model, made once: one for float32 and bfloat16, and one for int8."""
    made = source.converted
    if "float" not in made:
        made["float"] = _converted(source)
    if precision != "int8":
        return made["float"]
    if "int8" not in made:
        made["int8"] = _quantized(made["float"], source)
    return made["int8"]


def _converted(source: Source) -> Any:
    """OpenVINO's model of what torch.export sees, for any number of images where that holds for any."""
    openvino = need("openvino")
    with quiet():
        model = openvino.convert_model(source.program)
    model.reshape({place: _shape(x, -1 if source.any_batch else len(x)) for place, x in enumerate(source.example)})
    return model


def _quantized(model: Any, source: Source) -> Any:
    """The model with int8 convolutions and matrix products, ranges taken from the calibration images."""
    nncf = need("nncf", "openvino")
    core()  # before nncf's own
    assert source.calibration is not None
    images = batches(source.calibration[:MOST_CALIBRATED], 1 if source.any_batch else source.batch)
    with quiet():
        dataset = nncf.Dataset([image.numpy() for image in images])
        return nncf.quantize(model, dataset, subset_size=len(images))


def _shape(tensor: Tensor, batch: int) -> list[int]:
    return [batch, *tensor.shape[1:]]


class OpenVINO:
    """A model compiled for batches of the example's size, and when others come, once more for any."""

    def __init__(self, model: Any, source: Source, candidate: Candidate) -> None:
        self._model, self._parts, self._streams = model, candidate.parts, candidate.streams
        self._example, self._any, self._spec = source.example, source.any_batch, source.out_spec
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in (candidate.precision, candidate.how) else "f32",
            "PERFORMANCE_HINT": "LATENCY" if candidate.streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(candidate.streams),
            "INFERENCE_NUM_THREADS": str(source.threads),
        }
        self._bound = self._compile(source.batch // candidate.parts)

    def __call__(self, *tensors: Tensor) -> Any:
        requests = self._bound if len(tensors[0]) == len(self._example[0]) else self._unbound
        if self._parts == 1 or requests is not self._bound:
            return pytree.tree_unflatten(requests(tensors), self._spec)
        begun = [requests.begin(part) for part in zip(*(x.chunk(self._parts) for x in tensors), strict=True)]
        columns = zip(*map(requests.end, begun), strict=True)
        return pytree.tree_unflatten([torch.cat(column) for column in columns], self._spec)

    @cached_property
    def _unbound(self) -> "_Requests":
        return self._compile(-1)

    def _compile(self, batch: int) -> "_Requests":
        model = self._model
        if self._any:
            model = model.clone()
            model.reshape({place: _shape(x, batch) for place, x in enumerate(self._example)})
        return _Requests(core().compile_model(model, "CPU", self._settings), at_once=self._streams == 1)


class _Requests:
    """Of a compiled model: as many as are under way at a time, used again."""

    def __init__(self, compiled: Any, at_once: bool) -> None:
        self._compiled, self._at_once = compiled, at_once
        self._tensor = need("openvino").Tensor
        self._static = not any(output.partial_shape.is_dynamic for output in compiled.outputs)
        self._idle = SimpleQueue[_Request]()
        self._idle.put(self._made())

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One computation; where nothing is computed beside it, in the caller's thread, which spares two hand-overs."""
        if not self._at_once:
            return self.end(self.begin(tensors))
        given = self._given(tensors)
        given[0].infer.infer(share_outputs=True)
        return self._results(given)

    def begin(self, tensors: Sequence[Tensor]) -> "_Given":
        """Start to compute; the images are read in place until the end."""
        given = self._given(tensors)
        given[0].infer.start_async()
        return given

    def end(self, begun: "_Given") -> list[Tensor]:
        """Wait, and copy the results out: the request writes over them when it is used again."""
        begun[0].infer.wait()
        return self._results(begun)

    def _made(self) -> "_Request":
        request = self._compiled.create_infer_request()
        return _Request(request, _seen(request) if self._static else None)

    def _given(self, tensors: Sequence[Tensor]) -> "_Given":
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._made()
        kept = [x.detach().contiguous() for x in tensors]
        for place, x in enumerate(kept):
            request.infer.set_input_tensor(place, self._tensor(x.numpy(), shared_memory=True))
        return request, kept

    def _results(self, given: "_Given") -> list[Tensor]:
        request, _ = given
        results = [tensor.clone() for tensor in request.outputs or _seen(request.infer)]
        self._idle.put(request)
        return results


class _Request(NamedTuple):
    infer: Any
    outputs: list[Tensor] | None
    """where it writes them, if that is the same place every time"""


_Given = tuple[_Request, list[Tensor]]
"""a request and the images that it reads"""


def _seen(request: Any) -> list[Tensor]:
    return [torch.from_numpy(tensor.data) for tensor in request.output_tensors]
