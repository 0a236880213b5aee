"""backbones eval and predict: what a trained network is worth, and what it says of an image."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from backbones.cli.show import Json
from backbones.cli.source import network_in
from backbones.cli.train import RUN_FILE
from backbones.records import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backbones.backbone import Backbone
    from backbones.data import Part
    from backbones.evaluate import Member, Metrics, Views

log = logging.getLogger("backbones")

BATCH, COMPARED = 16, 256
"""images that `predict` looks at together; those on which a fast network's answers are compared"""


def evaluate(
    sources: Positional[tuple[str, ...]],
    /,
    data: str,
    weights: tuple[str, ...] = (),
    protocol: Literal["single", "10-crop", "144-crop", "dense", "multi-scale"] = "single",
    size: int | None = None,
    crop: float | None = None,
    scales: tuple[int, ...] = (),
    part: Literal["test", "val", "train"] | None = None,
    val_split: float = 0.0,
    batch_size: int = 64,
    workers: int | None = None,
    fast: bool = False,
    csv: Path | None = None,
    json_: Json = False,
) -> None:
    """Test a trained network, or several together: top-1, top-5, loss, calibration error, accuracy per class.

    Several sources are an ensemble: the mean of their probabilities. Processes of torchrun share the images.

    Args:
        sources: run folders, or .safetensors files that backbones wrote; names of networks, with --weights
        data: as in training, such as folder:PATH
        weights: one for each name: anybody's file, or published ones such as tv:IMAGENET1K_V2
        protocol: which views of an image count, as docs/evaluation.md tells
        size: side of the crop in pixels; the network's own by default
        crop: side of the crop over the shorter side of the image; the network's own by default
        scales: shorter sides of the image in pixels, in place of the protocol's
        part: test if the data has one, else val
        val_split: as in training, to test on the same validation part; a run knows its own
        batch_size: views at a time
        workers: processes that load images; as many as help by default
        fast: search for the fastest way to compute it here, checked on 256 of the images; remembered
        csv: add a row to this file, in timm's columns
        json_: print the figures as JSON
    """
    from backbones.data import open_data
    from backbones.evaluate import Member, answers_together, columns, measure, prepare, processes, results

    if csv:
        results.check_file(csv)
    with processes() as place:
        loaded = _networks(sources, weights)
        channels = {model.in_channels for model, _ in loaded}
        if len(channels) != 1:
            raise ValueError(f"{len(loaded)} networks for {sorted(channels)} channels; give some that read the same")
        splits = _splits(sources, data) | ({"--val-split": val_split} if val_split else {})
        share = max(splits.values(), default=0.0)
        opened = open_data(data, channels=channels.pop(), val_split=share, whole=not share)
        classes = opened.info.classes
        name = part or ("test" if opened.test else "val" if opened.val else "train")
        images = getattr(opened, name)
        if images is None:
            raise ValueError(f"{data} has no {name} part ({opened.info.split}); give another --part")
        if name != "test" and len(set(splits.values())) > 1:
            shares = ", ".join(f"{who} {split:g}" for who, split in splits.items())
            raise ValueError(f"{name} means other images for each: they held out {shares} of {data}; test each alone")
        if images is opened.train:
            log.warning("these are all training images of %s: a network that learned them looks too good", data)
        members = []
        for source, (model, told) in zip(sources, loaded, strict=True):
            views = prepare(protocol, told, size=size, crop=crop, scales=scales)
            order = columns(model.checkpoint.classes, classes, source, by_place=not Path(source).exists())
            if fast and (int(os.environ.get("WORLD_SIZE", 1)) > 1 or views.protocol.dense):
                raise ValueError("--fast is for one process, and for protocols whose crops are of one size")
            model.to(place.device)
            members.append(Member(_fast(model, images, views, batch_size) if fast else model, views, order))
        if members[0].views.protocol.mirrors and not opened.info.mirror:
            log.warning("%s looks at mirror images too, which are other classes in %s", protocol, data)
        found = answers_together(members, images, batch_size, workers)
    if found is None:
        return
    metrics, networks = measure(*found, len(classes)), [model.variant.name for model, _ in loaded]
    if csv:
        results.append(csv, results.row(networks, members, metrics))
    if json_:
        looked = [
            {"source": s, "network": n, **m.views.told(), **_how(m.model)}
            for s, n, m in zip(sources, networks, members, strict=True)
        ]
        figures = {**metrics.summary(), "interval": metrics.interval, "protocol": protocol, "networks": looked}
        per_class = dict(zip(classes, metrics.per_class, strict=True))
        print(json.dumps({"data": data, "part": name, **figures, "classes": per_class}))
        return
    title = f"{' + '.join(dict.fromkeys(networks))} on {data}, {name} part"
    _print(title, sources, members, metrics, classes)


def _print(
    title: str, sources: Sequence[str], members: "Sequence[Member]", metrics: "Metrics", classes: Sequence[str]
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    protocol, (low, high) = members[0].views.protocol, metrics.interval
    table = Table("figure", "value", box=None, title=escape(title), title_justify="left")
    for source in sources:
        table.add_row("source", escape(source))
    for member in members:
        if how := _how(member.model):
            table.add_row("computed by", "; ".join([how["computed_by"], *how["notes"]]))
    for views in dict.fromkeys(str(member.views) for member in members):
        table.add_row("protocol", views)
    table.add_row("as in", protocol.source)
    table.add_row("mean of", protocol.averaged + (f", of {len(members)} networks" if len(members) > 1 else ""))
    table.add_row("images", f"{metrics.images:,}")
    table.add_row("top-1", f"{metrics.top1:.2f} %  (95 % interval {low:.2f} to {high:.2f} %)")
    if metrics.top5 is not None:
        table.add_row("top-5", f"{metrics.top5:.2f} %")
    table.add_row("cross entropy", f"{metrics.loss:.4f}")
    table.add_row("calibration error", f"{metrics.calibration_error:.2f} %")
    for label, accuracy in zip(classes, metrics.per_class, strict=True):
        table.add_row(escape(f"class {label}"), "no images" if accuracy is None else f"{accuracy:.1f} %")
    Console().print(table)


def predict(
    source: Positional[Path],
    images: Positional[tuple[Path, ...]],
    /,
    top: int = 5,
    fast: bool = False,
    json_: Json = False,
) -> None:
    """Say what is in images: the most probable classes of each.

    Args:
        source: a run folder, or a .safetensors file that backbones wrote
        images: image files
        top: how many classes to name
        fast: for many images: search for the fastest way to compute it here, checked on the first; remembered
        json_: print a list of {"path", "top": [{"class", "probability"}, ...]}
    """
    import torch

    from backbones.data import eval_transform, read_image

    if not images:
        raise ValueError(f"no images; give some, as in: backbones predict {source} photo.jpg")
    if top < 1:
        raise ValueError(f"--top {top}; give how many classes to name, 1 or more")
    model, preprocessing = _load(source)
    told = model.checkpoint
    transform, results, unread = eval_transform(preprocessing), list[dict[str, Any]](), list[str]()
    compute: Any = model
    for start in range(0, len(images), BATCH):
        read: list[tuple[Path, Tensor]] = []
        for path in images[start : start + BATCH]:
            try:
                read.append((path, transform(read_image(path, model.in_channels))))
            except (ValueError, OSError) as error:
                unread.append(str(error))
        if not read:
            continue
        batch = torch.stack([image for _, image in read])
        if fast and compute is model:
            from backbones import optimize

            compute = optimize(model, batch, calibration=batch)
            log.warning("computed by %s; %s", compute.report.chosen, "; ".join(compute.report.notes))
        with torch.inference_mode():
            answers = compute(batch).softmax(1)
        for (path, _), probabilities in zip(read, answers, strict=True):
            best = zip(*(v.tolist() for v in probabilities.topk(min(top, len(told.classes)))), strict=True)
            results.append({"path": str(path), "top": [{"class": told.classes[i], "probability": p} for p, i in best]})
    if json_:
        print(json.dumps(results))
    else:
        for result in results:
            print(f"{result['path']}  " + "  ".join(f"{t['class']} {t['probability']:.1%}" for t in result["top"]))
    if unread:
        print("\n".join(unread), file=sys.stderr)
        sys.exit(2)


def _how(model: "nn.Module") -> dict[str, Any]:
    """What computes, where that was searched for."""
    report: Any = getattr(model, "report", None)
    return {"computed_by": report.chosen, "notes": report.notes} if report else {}


def _fast(model: "Backbone", part: "Part", views: "Views", batch_size: int) -> "nn.Module":
    """The network made fast for batches of such views; its answers are compared on images from all over the part."""
    import torch

    from backbones import optimize
    from backbones.evaluate.run import device_of

    count = min(len(part), COMPARED)
    seen = torch.stack([next(views(part[i * len(part) // count][0])) for i in range(count)]).to(device_of(model))
    together = max(1, batch_size // len(views)) * len(views)  # views of a few images, as they will come
    return optimize(model, seen[: min(together, batch_size)], calibration=seen)


def _splits(sources: Sequence[str], data: str) -> dict[str, float]:
    """The share that each run held out to validate on, of those that were trained on this data."""
    splits = {}
    for source in filter(os.path.exists, sources):
        file = (Path(source) if Path(source).is_dir() else Path(source).parent) / RUN_FILE
        if not file.is_file():
            continue
        try:
            told = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not what a run wrote ({error}); move it away") from None
        if _resolved(told.get("data", "")) == _resolved(data):
            splits[source] = float(told.get("val_split", 0.0))
    return splits


def _resolved(data: str) -> tuple[str, str]:
    """The same for all ways to write the path in it."""
    kind, _, rest = data.partition(":")
    return kind, os.path.realpath(os.path.expanduser(rest))


def _networks(sources: Sequence[str], weights: Sequence[str]) -> "list[tuple[Backbone, Preprocessing]]":
    """The networks that runs, files and names with weights stand for."""
    from backbones import create_model, list_models
    from backbones.evaluate import usual_preprocessing

    names = [source for source in sources if not Path(source).exists() and source in list_models()]
    if not sources or len(names) != len(weights):
        raise ValueError(
            f"{len(sources)} sources, {len(names)} of them names of networks, and {len(weights)} --weights; "
            "give runs, files or names, and for each name --weights"
        )
    left, loaded = iter(weights), []
    for source in sources:
        if source not in names:
            loaded.append(_load(Path(source)))
            continue
        model = create_model(source, weights=next(left)).eval()
        loaded.append((model, model.checkpoint.preprocessing or usual_preprocessing(model)))
    return loaded


def _load(source: Path) -> "tuple[Backbone, Preprocessing]":
    """The network of a run folder or file, with what it takes to use it on images."""
    model = network_in(source)
    preprocessing = model.checkpoint.preprocessing
    if preprocessing is None or not model.checkpoint.classes:
        raise ValueError(f"{source} does not say its classes and preprocessing; save it with both")
    return model, preprocessing
