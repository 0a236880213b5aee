"""backbones optimize: which way to compute a network is fastest on this machine."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from backbones.cli.source import opened
from backbones.cli.tables import Format, show

if TYPE_CHECKING:
    from torch import Tensor

    from backbones.backbone import Backbone
    from backbones.records import Preprocessing

CALIBRATED = 256
"""images of a folder that answers are compared on"""


def optimize(
    source: Positional[str],
    /,
    weights: str | None = None,
    precision: Literal["auto", "exact", "bf16", "int8"] = "auto",
    goal: Literal["latency", "throughput"] = "latency",
    engine: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto",
    calibration: str | None = None,
    tolerance: float | None = None,
    batch_size: int = 1,
    img_size: int | None = None,
    threads: int | None = None,
    budget: float = 60.0,
    fresh: bool = False,
    format: Format = "table",
) -> None:
    """Try every way to compute a network that is installed here, check its answers, time it beside the others.

    Args:
        source: a run folder, or a .safetensors file that backbones wrote; or the name of a network
        weights: for a name: anybody's file, or published ones; without, random ones, whose times are the same
        precision: exact is float32; auto takes less where the answers stay the same
        goal: latency of one batch after another, or throughput of several callers
        engine: one alone
        calibration: data as in training, such as folder:PATH; first answers are compared on 256 of its images
        tolerance: share of those whose first answer may change; 0.005 by default
        batch_size: images at a time
        img_size: side of the images; the network's own by default
        threads: of computation; as many as there are cores by default
        budget: seconds after which nothing new is tried
        fresh: search again what is known
        format: table, csv, json with all that is known, or md
    """
    import torch

    from backbones.infer.optimize import optimize as make_fast
    from backbones.machine import cores

    for flag, value in (("batch-size", batch_size), ("img-size", img_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} {value}; give 1 or more")
    torch.set_num_threads(threads or cores())
    known = Path(source).exists()
    model, preprocessing, whose = opened(source, weights or (None if known else "random"), calibration is not None)
    size = (img_size, img_size) if img_size else preprocessing.size if preprocessing else model.variant.input_size[1:]
    images = None
    if calibration and preprocessing:
        images = _images(calibration, model, replace(preprocessing, size=size))
    example = torch.randn(batch_size, model.in_channels, *size, generator=torch.Generator().manual_seed(0))
    fast = make_fast(
        model,
        example,
        precision=precision,
        goal=goal,
        engine=engine,
        calibration=images,
        tolerance=tolerance,
        budget_s=budget,
        fresh=fresh,
    )
    report = fast.report
    if format == "json":
        print(json.dumps({**asdict(report), "speedup": report.speedup}, indent=1))
        return
    rows = report.rows()
    show(rows, format, {key: key for key in rows[0]})
    if format == "table":
        title = f"{model.variant.name}, batch {batch_size}, {size[0]} x {size[1]} pixels, {report.threads} threads"
        said = ["known from an earlier search (--fresh makes another)"] if report.remembered else []
        print("\n".join([title, f"weights: {whose}", f"taken: {report.chosen}", *report.notes, *said]))


def _images(spec: str, model: "Backbone", preprocessing: "Preprocessing") -> "tuple[Tensor, Tensor] | Tensor":
    """Images spread evenly over the data; with their classes where these are the network's."""
    import torch

    from backbones.data import eval_transform, open_data

    data = open_data(spec, channels=model.in_channels, whole=True)
    part = data.test or data.val or data.train
    transform = eval_transform(preprocessing)
    count = min(len(part), CALIBRATED)
    taken = [part[i * len(part) // count] for i in range(count)]
    images, labels = torch.stack([transform(image) for image, _ in taken]), torch.tensor([label for _, label in taken])
    known = hasattr(model, "checkpoint") and tuple(model.checkpoint.classes) == tuple(data.info.classes)
    return (images, labels) if known else images
