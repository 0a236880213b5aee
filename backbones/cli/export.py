"""backbones export: a network as a file for another program."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from backbones.cli.show import Json
from backbones.cli.source import opened
from backbones.records import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from backbones.infer.export import Exported

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2", "safetensors": ".safetensors"}
MOST = 300
"""images to calibrate with; more change nothing that counts"""


def export(
    source: Positional[str],
    /,
    to: Literal["onnx", "openvino", "pt2", "safetensors"],
    output: Path | None = None,
    weights: str | None = None,
    img_size: int | None = None,
    preprocess: Literal["inside", "outside"] = "outside",
    int8: bool = False,
    calibration: Path | None = None,
    json_: Json = False,
) -> None:
    """Write a network for another program, and compare what it computes there; FILE.json tells of both.

    Args:
        source: a run folder, or a .safetensors file that backbones wrote; the name of a network, with --weights
        to: ONNX, OpenVINO (.xml and .bin), torch.export, or our own file; all take any number of images at a time
        output: the file; the network's name in this folder by default
        weights: for a name: anybody's file, published ones such as tv:IMAGENET1K_V2, or random: untrained
        img_size: side of the network's input; its own by default
        preprocess: inside: the file takes uint8 images (N, H, W, C) of any size and gives probabilities
        int8: whole numbers of 8 bits, with --calibration; openvino only
        calibration: folder of images like those that the network will see; up to 300 are taken, labels are not needed
        json_: print what FILE.json holds
    """
    if int8 != (calibration is not None):
        raise ValueError("--int8 and --calibration FOLDER go together: a folder of images like those it will see")
    if img_size is not None and img_size < 1:
        raise ValueError(f"--img-size {img_size}; give 1 or more")
    import torch

    from backbones.infer.export import export as write

    model, preprocessing, whose = opened(source, weights, preprocess == "inside" or int8)
    height, width = preprocessing.size if preprocessing else model.variant.input_size[1:]
    if img_size is not None:
        height = width = img_size
    if preprocessing:
        preprocessing = replace(preprocessing, size=(height, width))
    path = output or Path(f"{model.variant.name}{SUFFIXES[to]}")
    over_itself = path.exists() and Path(source).is_file() and path.samefile(source)
    if over_itself or (output is None and path.exists()):
        raise ValueError(f"{path} exists already; name another file with --output")
    made = write(
        model,
        torch.zeros(1, model.in_channels, height, width),
        path,
        to=to,
        preprocess=preprocess,
        preprocessing=preprocessing,
        class_names=model.checkpoint.classes if hasattr(model, "checkpoint") else (),
        calibration=Images(calibration, preprocessing, preprocess == "inside")
        if calibration and preprocessing
        else None,
        weights=whose,
    )
    if json_:
        print(json.dumps(asdict(made)))
    else:
        _print(made)


class Images:
    """Images of a folder, evenly spread over it: decoded anew each time they are asked for, one by one."""

    def __init__(self, folder: Path, preprocessing: Preprocessing, raw: bool) -> None:
        from backbones.data.decode import EXTENSIONS

        if not folder.is_dir():
            raise FileNotFoundError(f"--calibration {folder} is no folder; give one with images in it, at any depth")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not files:
            raise ValueError(
                f"--calibration {folder} has no images in it ({', '.join(EXTENSIONS)}); give another folder"
            )
        self.files = [files[i * len(files) // MOST] for i in range(MOST)] if len(files) > MOST else files
        self.preprocessing, self.raw = preprocessing, raw

    def __iter__(self) -> "Iterator[Tensor]":
        from backbones.data import eval_transform, read_image

        transform = eval_transform(self.preprocessing)
        for file in self.files:
            image = read_image(file, self.preprocessing.channels)
            yield (image.permute(1, 2, 0) if self.raw else transform(image))[None]


def _print(made: "Exported") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, title=escape(made.path), title_justify="left")
    table.add_row("network", escape(f"{made.network}, weights: {made.weights}"))
    table.add_row("format", f"{made.to}, {made.format}, {made.precision}")
    for word, ends in (("takes", made.input), ("gives", made.outputs)):
        table.add_row(word, escape(", ".join(f"{name}: {shape}" for name, shape in ends.items())))
    for against in dict.fromkeys(p.against for p in made.parity):
        found = [p for p in made.parity if p.against == against]
        worst, top1 = max(p.relative for p in found), min(p.top1 for p in found)
        said = f"{worst:.1e} of the output's range at most, same class for {top1:.1%}"
        table.add_row("differs from", f"{against}: {said}")
    table.add_row("all of this", escape(f"{made.path}.json"))
    Console().print(table)
