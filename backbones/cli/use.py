"""backbones eval and predict: what a trained network is worth, and what it says of an image."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from backbones.cli.show import Json
from backbones.records import Preprocessing

if TYPE_CHECKING:
    from backbones.backbone import Backbone


def evaluate(
    source: Positional[Path],
    /,
    data: str,
    part: Literal["test", "val", "train"] | None = None,
    val_split: float = 0.0,
    batch_size: int = 64,
    workers: int | None = None,
    json_: Json = False,
) -> None:
    """Test a trained network: top-1, top-5, loss, calibration error, accuracy per class.

    Args:
        source: a run folder, or a .safetensors file that backbones wrote
        data: digits, folder:PATH or tv:NAME@ROOT, as in training
        part: test if the data has one, else val
        val_split: as in training, to test on the same validation part
        batch_size: images at a time
        workers: processes that load images; as many as help by default
        json_: print the figures as JSON
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from backbones.data import open_data
    from backbones.evaluate import measure
    from backbones.train import answers

    model, preprocessing = _load(source)
    told = model.checkpoint
    opened = open_data(data, channels=model.in_channels, val_split=val_split, whole=not val_split)
    if opened.info.classes != told.classes:
        raise ValueError(f"{source} knows the classes {_some(told.classes)}, {data} has {_some(opened.info.classes)}")
    name = part or ("test" if opened.test else "val" if opened.val else "train")
    images = getattr(opened, name)
    if images is None:
        raise ValueError(f"{data} has no {name} part ({opened.info.split}); give another --part")
    metrics = measure(*answers(model, images, preprocessing, batch_size, workers), len(told.classes))
    low, high = metrics.interval
    if json_:
        classes = dict(zip(told.classes, metrics.per_class, strict=True))
        print(
            json.dumps({"data": data, "part": name, **metrics.summary(), "interval": [low, high], "classes": classes})
        )
        return
    table = Table(
        "figure", "value", box=None, title=escape(f"{told.network} on {data}, {name} part"), title_justify="left"
    )
    table.add_row("images", f"{metrics.images:,}")
    table.add_row("top-1", f"{metrics.top1:.2f} %  (95 % interval {low:.2f} to {high:.2f} %)")
    if metrics.top5 is not None:
        table.add_row("top-5", f"{metrics.top5:.2f} %")
    table.add_row("cross entropy", f"{metrics.loss:.4f}")
    table.add_row("calibration error", f"{metrics.calibration_error:.2f} %")
    for label, accuracy in zip(told.classes, metrics.per_class, strict=True):
        table.add_row(escape(f"class {label}"), "no images" if accuracy is None else f"{accuracy:.1f} %")
    Console().print(table)


def predict(
    source: Positional[Path], images: Positional[tuple[Path, ...]], /, top: int = 5, json_: Json = False
) -> None:
    """Say what is in images: the most probable classes of each.

    Args:
        source: a run folder, or a .safetensors file that backbones wrote
        images: image files
        top: how many classes to name
        json_: print a list of {"path", "top": [{"class", "probability"}, ...]}
    """
    import torch

    from backbones.data import eval_transform, read_image

    if top < 1 or not images:
        raise ValueError("give at least one image, and --top 1 or more")
    model, preprocessing = _load(source)
    told = model.checkpoint
    transform, results, unread = eval_transform(preprocessing), list[dict[str, Any]](), list[str]()
    for path in images:
        try:
            image = transform(read_image(path, model.in_channels))
        except (ValueError, OSError) as error:
            unread.append(str(error))
            continue
        with torch.inference_mode():
            probabilities = model(image[None]).softmax(1)[0]
        best = probabilities.topk(min(top, len(told.classes)))
        named = [{"class": told.classes[i], "probability": p} for p, i in zip(*(v.tolist() for v in best), strict=True)]
        results.append({"path": str(path), "top": named})
    if json_:
        print(json.dumps(results))
    else:
        for result in results:
            print(f"{result['path']}  " + "  ".join(f"{t['class']} {t['probability']:.1%}" for t in result["top"]))
    if unread:
        print("\n".join(unread), file=sys.stderr)
        sys.exit(2)


def _load(source: Path) -> "tuple[Backbone, Preprocessing]":
    """The network of a run folder or file, with what it takes to use it on images."""
    from backbones import load
    from backbones.train import BEST, LAST

    file = source
    if source.is_dir():
        kept = [source / name for name in (BEST, LAST) if (source / name).exists()]
        if not kept:
            raise FileNotFoundError(f"{source} has no {BEST}; give the folder of a run, or a .safetensors file")
        file = kept[0]
        if file.name == LAST:
            print(f"{source} was stopped before it had a best network; this is its last", file=sys.stderr)
    model = load(file)
    preprocessing = model.checkpoint.preprocessing
    if preprocessing is None or not model.checkpoint.classes:
        raise ValueError(f"{file} does not say its classes and preprocessing; save it with both")
    return model, preprocessing


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:8]) + (f", ... ({len(classes)})" if len(classes) > 8 else "")
