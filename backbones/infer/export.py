"""A network as a file for another program, computed by that program's own library and compared before it is kept."""

import copy
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.factory import load, save
from backbones.infer.differences import Parity, apart, compared, first, prepared
from backbones.infer.extras import need
from backbones.infer.formats import FORMATS, Compute, Draft
from backbones.infer.preprocess import Answer, Fit, Plain
from backbones.records import Preprocessing
from backbones.weights.file import in_place

To = Literal["onnx", "openvino", "pt2", "safetensors"]
FACTS = ("recipe", "metrics", "data")
"""of a checkpoint, that its copy keeps"""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares; FILE.json holds the same."""

    path: str
    to: To
    format: str
    network: str
    weights: str
    """whose"""
    precision: Literal["fp32", "int8"]
    input: dict[str, str]
    """name -> type and shape"""
    outputs: dict[str, str]
    preprocess: Literal["inside", "outside"]
    preprocessing: Preprocessing | None
    classes: tuple[str, ...]
    versions: dict[str, str]
    parity: tuple[Parity, ...] = ()
    """in int8 of the calibration images, whose top-1 agreement it tells; else of drawn ones"""

    @property
    def relative(self) -> float:
        """The largest difference from the network in fp32, over the range of its output."""
        return max(p.relative for p in self.parity)


def export(
    module: nn.Module,
    example: Tensor,
    path: str | PathLike[str],
    *,
    to: To = "onnx",
    preprocess: Literal["inside", "outside"] = "outside",
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] = (),
    calibration: Iterable[Tensor] | None = None,
    weights: str = "",
) -> Exported:
    """Write a network for another program, compare it there, and tell of it in `path`.json. Whole or not at all.

    The file takes `input` and gives `logits`, any number of images at a time. With `preprocess="inside"` it takes
    uint8 (N, H, W, C) of any size and gives `probabilities` and `label`, the place of the largest.

    Args:
        module: float32 images (N, C, H, W) -> logits (N, classes)
        example: such images; their height and width are the artefact's
        path: the file
        to: onnx, openvino, pt2 (torch.export) or safetensors (`backbones.load` reads it)
        preprocess: inside resizes, crops and normalises in the artefact, as `preprocessing` tells
        preprocessing: of the images; told in the file also where it is outside
        class_names: in the order of the logits
        calibration: batches of the file's input, some hundred images in all; openvino then computes in int8
        weights: whose they are, to be told

    Raises:
        ImportError: a library is not installed
        ValueError: what does not go together
        OSError: the file cannot be written
    """
    path = Path(path)
    _check(module, example, path, to, preprocess, preprocessing, calibration is not None)
    network, example = _alone(module), example.cpu()
    libraries = [*(FORMATS[to].needs if to in FORMATS else ()), *([] if calibration is None else ["nncf"])]
    need(*libraries)
    with torch.no_grad():
        logits = network(example[:1])
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {what}; wrap it so that it returns one tensor, (N, classes)")
    if not logits.isfinite().all():
        raise ValueError("the network returns NaN or infinity for the example; give one that was trained to the end")
    if class_names and len(class_names) != logits.shape[1]:
        raise ValueError(f"{len(class_names)} class names for {logits.shape[1]} classes")
    inside = preprocess == "inside"
    taken, given = _io(inside, example, logits.shape[1])
    if isinstance(network, Backbone) and hasattr(network, "checkpoint"):
        weights = weights or network.checkpoint.source
    told = Exported(
        path=str(path),
        to=to,
        format=FORMATS[to].version() if to in FORMATS else "backbones 1",
        network=network.variant.name if isinstance(network, Backbone) else type(module).__name__,
        weights=weights,
        precision="fp32" if calibration is None else "int8",
        input=taken,
        outputs=given,
        preprocess=preprocess,
        preprocessing=preprocessing,
        classes=tuple(class_names),
        versions={name: version(name) for name in ("backbones", "torch", *libraries)},
    )
    pictures = list(calibration) if isinstance(calibration, Iterator) else calibration or ()
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder, torch.no_grad():
        made, ready = Path(folder, path.name), preprocessing if inside else None
        batches = tuple(prepared(batch, ready) for batch in pictures)
        if calibration is not None and not batches:
            raise ValueError("no images to calibrate with; give some hundred, like those that the network will see")
        compute = _write(network, example, made, told, batches)
        function = Answer(network) if inside else Plain(network)
        if batches:
            expected = torch.cat([first(function(batch)) for batch in batches])
            got, told_as = torch.cat([compute(batch)[0] for batch in pictures]), "the calibration images in fp32"
            found = [apart(told_as, (len(expected), *example.shape[1:]), got, expected)]
        else:
            found = list(compared(function, example, compute, ready))
        told = replace(told, parity=tuple(found))
        Path(folder, f"{path.name}.json").write_text(json.dumps(asdict(told), indent=1) + "\n")
        if to == "openvino":  # two files: rather none than the old one beside the new one's weights
            path.unlink(missing_ok=True)
        for file in sorted(Path(folder).iterdir(), key=lambda f: (f.name == f"{path.name}.json", f.suffix)):
            with in_place(path.parent / file.name) as temporary:
                os.replace(file, temporary)
    return told


def _write(network: nn.Module, example: Tensor, path: Path, told: Exported, calibration: tuple[Tensor, ...]) -> Compute:
    """Written, and opened again as its users will."""
    if told.to == "safetensors":
        if not isinstance(network, Backbone):
            raise TypeError("safetensors is for networks of backbones; use safetensors.torch.save_model for others")
        facts = {key: getattr(network.checkpoint, key) for key in FACTS} if hasattr(network, "checkpoint") else {}
        save(network, path, classes=told.classes, preprocessing=told.preprocessing, **facts)
        again = load(path)
        return lambda images: [again(images)]
    two = torch.cat([example, example])[:2]
    fit = Fit(told.preprocessing) if told.preprocess == "inside" and told.preprocessing else None
    draft = Draft(Answer(network) if fit else Plain(network), two, tuple(told.outputs), fit, calibration)
    FORMATS[told.to].write(draft, {**asdict(told), "path": path.name}, path)
    return FORMATS[told.to].open(path)


def _alone(module: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, without auxiliary heads."""
    network = copy.deepcopy(module).cpu().eval()
    if isinstance(network, Backbone) and network.aux:
        network.aux, network.settings = nn.ModuleDict(), {**network.settings, "aux": False}
    return network


def _check(
    module: nn.Module,
    example: Tensor,
    path: Path,
    to: str,
    preprocess: str,
    preprocessing: Preprocessing | None,
    int8: bool,
) -> None:
    """What does not go together, before anything is computed."""
    if to not in get_args(To):
        raise ValueError(f"to={to!r}; give one of {', '.join(get_args(To))}")
    suffix = FORMATS[to].suffix if to in FORMATS else ".safetensors"
    if path.suffix != suffix:
        raise ValueError(f"{path}: a file for {to} ends in {suffix}; name it so")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file")
    if preprocess not in ("inside", "outside"):
        raise ValueError(f"preprocess={preprocess!r}; give inside or outside")
    if example.ndim != 4 or example.dtype != torch.float32 or not len(example):
        raise ValueError(
            f"example is {example.dtype} {tuple(example.shape)}; give float32 images (N, C, H, W), "
            "such as torch.randn(1, 3, 224, 224)"
        )
    if others := {p.dtype for p in module.parameters()} - {torch.float32}:
        raise ValueError(f"the network has weights of {sorted(map(str, others))}; export module.float()")
    if preprocess == "inside":
        if to == "safetensors":
            raise ValueError(
                "a safetensors file holds weights and no operators; leave preprocess out, or choose another format"
            )
        if preprocessing is None:
            raise ValueError("preprocess='inside' needs preprocessing: size, mean and deviation of the images")
        makes, takes = (preprocessing.channels, *preprocessing.size), tuple(example.shape[1:])
        if makes != takes:
            raise ValueError(f"preprocessing makes images of {makes}, the example is of {takes}; give the same")
    if int8 and to != "openvino":
        raise ValueError(f"int8 is offered for openvino, not for {to}; choose openvino, or leave out the calibration")


def _io(inside: bool, example: Tensor, classes: int) -> tuple[dict[str, str], dict[str, str]]:
    """Names of inputs and outputs -> type and shape."""
    _, channels, height, width = example.shape
    if inside:
        outputs = {"probabilities": f"float32 (N, {classes})", "label": "int64 (N,)"}
        return {"input": f"uint8 (N, H, W, {channels})"}, outputs
    return {"input": f"float32 (N, {channels}, {height}, {width})"}, {"logits": f"float32 (N, {classes})"}
