"""ONNX Runtime, in float32."""

from io import BytesIO
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from backbones.infer.extras import need, quiet
from backbones.infer.source import Source

ONLY_ERRORS = 3


class ONNXRuntime:
    """A session on the model that torch.onnx writes, for any number of images where that holds for any."""

    def __init__(self, source: Source) -> None:
        onnxruntime = need("onnxruntime")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = source.threads
        settings.log_severity_level = ONLY_ERRORS
        self._session = onnxruntime.InferenceSession(_written(source), settings, providers=["CPUExecutionProvider"])
        self._inputs, self._spec = [told.name for told in self._session.get_inputs()], source.out_spec

    def __call__(self, *tensors: Tensor) -> Any:
        given = {name: x.detach().contiguous().numpy() for name, x in zip(self._inputs, tensors, strict=True)}
        return pytree.tree_unflatten([torch.from_numpy(y) for y in self._session.run(None, given)], self._spec)


def _written(source: Source) -> bytes:
    onnx = need("onnx", "onnxscript")
    file = BytesIO()
    with quiet():
        program = torch.onnx.export(source.program, dynamo=True, verbose=False)
        assert program is not None
        onnx.save(program.model_proto, file)
    return file.getvalue()
