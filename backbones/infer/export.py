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
from backbones.data import eval_transform
from backbones.factory import load, save
from backbones.infer.extras import need
from backbones.infer.formats import FORMATS, Compute, Draft
from backbones.infer.preprocess import Answer, Fit, Plain
from backbones.records import Preprocessing
from backbones.weights.file import in_place

To = Literal["onnx", "openvino", "pt2", "safetensors"]
BATCHES = (1, 3)
"""images at a time that are compared"""
FACTS = ("recipe", "metrics", "data")
"""of a checkpoint, that its copy keeps"""
SIDES = ((1.0, 1.0), (1.5, 1.13), (0.8, 1.31), (2.9, 2.17))
"""height and width over the input's, of the pictures that are compared where the artefact prepares them itself"""


@dataclass(frozen=True)
class Parity:
    """How far the artefact's first output is from the network's here, for the same images."""

    against: str
    """what computed the other side"""
    images: tuple[int, ...]
    largest: float
    relative: float
    """the largest over the range of the network's output"""
    top1: float
    """share of the images with the same class on top"""


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
    agreement: float | None = None
    """int8: share of the calibration images with the class on top that the network in fp32 gives them"""

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
        calibration: batches like `example`, prepared; openvino then computes in int8
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
    if class_names and len(class_names) != logits.shape[1]:
        raise ValueError(f"{len(class_names)} class names for {logits.shape[1]} classes")
    inside = preprocess == "inside"
    taken, given = _io(inside, example, logits.shape[1])
    told = Exported(
        path=str(path),
        to=to,
        format=FORMATS[to].version() if to in FORMATS else "backbones 1",
        network=network.variant.name if isinstance(network, Backbone) else type(module).__name__,
        weights=weights or (network.checkpoint.source if hasattr(network, "checkpoint") else ""),
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
        prepared = tuple(_prepared(batch, ready) for batch in pictures)
        if calibration is not None and not prepared:
            raise ValueError("no images to calibrate with; give some hundred, like those that the network will see")
        compute = _write(network, example, made, told, prepared)
        found = tuple(_compared(network, example, compute, ready))
        if prepared:
            same = [_top(compute(b)[0]) == _top(network(x)) for b, x in zip(pictures, prepared, strict=True)]
            told = replace(told, agreement=float(torch.cat(same).float().mean()))
        told = replace(told, parity=found)
        Path(folder, f"{path.name}.json").write_text(json.dumps(asdict(told), indent=1) + "\n")
        for file in sorted(Path(folder).iterdir(), key=lambda f: (f.name == f"{path.name}.json", f.suffix)):
            with in_place(path.parent / file.name) as temporary:
                os.replace(file, temporary)
    return told


def _write(
    network: nn.Module, example: Tensor, path: Path, told: Exported, calibration: tuple[Tensor, ...]
) -> Compute:
    """Written, and opened again as its users will."""
    if told.to == "safetensors":
        if not isinstance(network, Backbone):
            raise TypeError("safetensors is for networks of backbones; use safetensors.torch.save_model for others")
        facts = {key: getattr(network.checkpoint, key) for key in FACTS} if hasattr(network, "checkpoint") else {}
        save(network, path, classes=told.classes, preprocessing=told.preprocessing, **facts)
        again = load(path)
        return lambda images: [again(images)]
    two = torch.cat([example, example])[:2]
    if told.preprocess == "inside" and told.preprocessing is not None:
        draft = Draft(Answer(network), two, tuple(told.outputs), Fit(told.preprocessing), calibration)
    else:
        draft = Draft(Plain(network), two, tuple(told.outputs), None, calibration)
    FORMATS[told.to].write(draft, {**asdict(told), "path": path.name}, path)
    return FORMATS[told.to].open(path)


def _compared(
    network: nn.Module, example: Tensor, compute: Compute, preprocessing: Preprocessing | None
) -> Iterator[Parity]:
    """With the network here; and where the artefact prepares its images, with all that `predict` does to them."""
    draw = torch.Generator().manual_seed(0)
    if preprocessing is None:
        for batch in BATCHES:
            images = torch.randn(batch, *example.shape[1:], generator=draw)
            yield _apart("the network in torch", images, compute(images)[0], network(images))
        return
    inside, answer = Fit(preprocessing), Answer(network)
    for batch in BATCHES:
        for across, down in SIDES:
            height, width = round(across * preprocessing.size[0]), round(down * preprocessing.size[1])
            images = pictures(batch, height, width, preprocessing.channels, draw)
            got = compute(images)[0]
            yield _apart("the same preprocessing and network in torch", images, got, answer(inside(images))[0])
            yield _apart("predict's preprocessing and network", images, got, answer(_prepared(images, preprocessing))[0])


def pictures(batch: int, height: int, width: int, channels: int, draw: torch.Generator) -> Tensor:
    """uint8 (N, H, W, C): waves under a little noise, which resize as photographs do."""
    down, across = torch.linspace(0, 1, height)[:, None, None], torch.linspace(0, 1, width)[:, None]
    places = torch.rand(4, batch, 1, 1, channels, generator=draw) * 12
    waves = torch.sin(places[0] * down + places[1]) * torch.cos(places[2] * across + places[3])
    noise = torch.randn(batch, height, width, channels, generator=draw)
    return (128 + 100 * waves + 16 * noise).clamp(0, 255).to(torch.uint8)


def _apart(against: str, images: Tensor, got: Tensor, expected: Tensor) -> Parity:
    if got.shape != expected.shape:
        raise RuntimeError(f"the artefact returns {tuple(got.shape)} where the network returns {tuple(expected.shape)}")
    largest = float((got - expected).abs().max())
    span = float(expected.max() - expected.min())
    same = float((_top(got) == _top(expected)).float().mean())
    return Parity(against, tuple(images.shape), largest, largest / span if span else largest, same)


def _prepared(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """The artefact's input -> the network's, as `predict` prepares it."""
    if preprocessing is None:
        return images
    return torch.stack([eval_transform(preprocessing)(image) for image in images.permute(0, 3, 1, 2)])


def _top(outputs: Tensor) -> Tensor:
    return outputs.argmax(1)


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
            f"example is {example.dtype} {tuple(example.shape)}; give float32 images (N, C, H, W), such as torch.randn(1, 3, 224, 224)"
        )
    if others := {p.dtype for p in module.parameters()} - {torch.float32}:
        raise ValueError(f"the network has weights of {sorted(map(str, others))}; export module.float()")
    if preprocess == "inside":
        if to == "safetensors":
            raise ValueError("a safetensors file holds weights and no operators; leave out preprocess, or choose onnx, openvino or pt2")
        if preprocessing is None:
            raise ValueError("preprocess='inside' needs preprocessing: size, mean and deviation of the images")
        if (preprocessing.channels, *preprocessing.size) != tuple(example.shape[1:]):
            raise ValueError(
                f"preprocessing makes images of {(preprocessing.channels, *preprocessing.size)}, example is {tuple(example.shape[1:])}; give the same"
            )
    if int8 and to != "openvino":
        raise ValueError(f"int8 is offered for openvino, not for {to}; choose openvino, or leave out the calibration")


def _io(inside: bool, example: Tensor, classes: int) -> tuple[dict[str, str], dict[str, str]]:
    """Names of inputs and outputs -> type and shape."""
    _, channels, height, width = example.shape
    if inside:
        outputs = {"probabilities": f"float32 (N, {classes})", "label": "int64 (N,)"}
        return {"input": f"uint8 (N, H, W, {channels})"}, outputs
    return {"input": f"float32 (N, {channels}, {height}, {width})"}, {"logits": f"float32 (N, {classes})"}
