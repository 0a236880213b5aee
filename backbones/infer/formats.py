"""The formats of `export`: how each is written, and computed by its own runtime."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.infer.extras import need, quiet
from backbones.infer.openvino import core

OPSET = 20
PROPERTY = "backbones"
"""under which name the artefact's metadata holds what is told of it, as JSON"""

Compute = Callable[[Tensor], list[Tensor]]
"""images -> outputs, as a runtime computes them"""


@dataclass(frozen=True)
class Draft:
    """What is to be written."""

    network: nn.Module
    """float32 images -> outputs"""
    example: Tensor
    """of `network`'s input, two images"""
    outputs: tuple[str, ...]
    fit: nn.Module | None = None
    """uint8 (N, H, W, C) -> `network`'s input, where the artefact prepares its images itself"""
    calibration: tuple[Tensor, ...] = ()
    """batches of `network`'s input; its values become int8"""


@dataclass(frozen=True)
class Format:
    """One format."""

    suffix: str
    needs: tuple[str, ...]
    """libraries"""
    write: Callable[[Draft, Mapping[str, Any], Path], None]
    """what is told of it goes into the file too"""
    open: Callable[[Path], Compute]
    version: Callable[[], str]


def _program(module: nn.Module, example: Tensor, *dynamic: int) -> torch.export.ExportedProgram:
    """Traced for any number of images, and where given for any size of these axes too."""
    with torch.no_grad():
        shapes = dict.fromkeys((0, *dynamic), torch.export.Dim.DYNAMIC)
        return torch.export.export(module.eval(), (example,), dynamic_shapes=(shapes,))


def _whole(draft: Draft) -> torch.export.ExportedProgram:
    if draft.fit is None:
        return _program(draft.network, draft.example)
    return _program(_Chain(draft.fit, draft.network), _pictures(draft), 1, 2)


class _Chain(nn.Module):
    def __init__(self, fit: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.fit, self.network = fit, network

    def forward(self, input: Tensor) -> Any:
        return self.network(self.fit(input))


def _pictures(draft: Draft) -> Tensor:
    return torch.zeros(2, 90, 70, draft.example.shape[1], dtype=torch.uint8)


def _write_onnx(draft: Draft, told: Mapping[str, Any], path: Path) -> None:
    dynamic = {0: "batch"} if draft.fit is None else {0: "batch", 1: "height", 2: "width"}
    with quiet():
        program = torch.onnx.export(
            _whole(draft),
            input_names=["input"],
            output_names=list(draft.outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        program.model.metadata_props[PROPERTY] = json.dumps(told)
        program.save(path, external_data=False)


def _open_onnx(path: Path) -> Compute:
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {"input": images.numpy()})]


def _write_openvino(draft: Draft, told: Mapping[str, Any], path: Path) -> None:
    openvino = need("openvino")
    with quiet():
        model = openvino.convert_model(_program(draft.network, draft.example))
        if draft.calibration:
            nncf = need("nncf")
            core()  # before nncf's own
            batches = nncf.Dataset([batch.numpy() for batch in draft.calibration])
            model = nncf.quantize(model, batches, subset_size=len(draft.calibration))
        if draft.fit is not None:
            fit = openvino.convert_model(_program(draft.fit, _pictures(draft), 1, 2))
            model.input(0).replace(fit.output(0).get_node().input_value(0))
            model = openvino.Model(model.get_results(), fit.get_parameters(), "backbones")
            model.validate_nodes_and_infer_types()
        model.input(0).set_names({"input"})
        model.input(0).get_node().set_friendly_name("input")
        for output, name in zip(model.outputs, draft.outputs, strict=True):
            output.set_names({name})
        model.set_rt_info(json.dumps(told), PROPERTY)
        openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path) -> Compute:
    compiled = core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: [torch.from_numpy(out.copy()) for out in compiled(images.numpy()).values()]


def _write_pt2(draft: Draft, told: Mapping[str, Any], path: Path) -> None:
    with quiet():
        torch.export.save(_whole(draft), path, extra_files={f"{PROPERTY}.json": json.dumps(told)})


def _open_pt2(path: Path) -> Compute:
    with quiet():
        module = torch.export.load(path).module()

    def compute(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(images)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return compute


FORMATS = {
    "onnx": Format(".onnx", ("onnxruntime", "onnx", "onnxscript"), _write_onnx, _open_onnx, lambda: f"opset {OPSET}"),
    "openvino": Format(".xml", ("openvino",), _write_openvino, _open_openvino, lambda: "IR 11"),
    "pt2": Format(".pt2", (), _write_pt2, _open_pt2, lambda: f"torch.export of torch {torch.__version__}"),
}
"""name -> format; our own safetensors file is `factory.save`'s"""
