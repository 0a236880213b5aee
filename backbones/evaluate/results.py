"""Results as timm tables them: one row of a CSV file per evaluation."""

import csv
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from backbones.evaluate.answers import Member
from backbones.evaluate.metrics import Metrics

COLUMNS = ("model", "img_size", "top1", "top1_err", "top5", "top5_err", "param_count", "crop_pct", "interpolation")


def row(names: Sequence[str], members: Sequence[Member], metrics: Metrics) -> dict[str, str]:
    """One evaluation in timm's columns: percents, millions of parameters, the crop's share of the image's side.

    The columns have no place for a protocol, so one that is not `single` stands beside the model's name, and the share
    is empty where there are several. Sizes and the like that differ within an ensemble are joined by +.
    """
    views = [member.views for member in members]
    protocol = views[0].protocol.name
    scales = _joined([" ".join(map(str, v.scales)) for v in views])
    told = [view.preprocessing for view in views]
    shares = [v.preprocessing.crop if not v.scales else v.preprocessing.size[0] / v.scales[0] for v in views]
    weights = [named for member in members for named in member.model.named_parameters()]
    params = sum(
        weight.numel() for name, weight in weights if not name.startswith("aux.")
    )  # which run in training only
    single = all(len(v.scales) < 2 for v in views) and not views[0].protocol.dense
    top5 = metrics.top5
    return {
        "model": " + ".join(names) + (f" ({protocol} at {scales})" if scales else ""),
        "img_size": _joined(["x".join(map(str, dict.fromkeys(one.size))) for one in told]),
        "top1": f"{metrics.top1:.3f}",
        "top1_err": f"{100 - metrics.top1:.3f}",
        "top5": "" if top5 is None else f"{top5:.3f}",
        "top5_err": "" if top5 is None else f"{100 - top5:.3f}",
        "param_count": f"{params / 1e6:.2f}",
        "crop_pct": _joined([f"{share:.3g}" for share in shares]) if single else "",
        "interpolation": _joined([one.interpolation for one in told]),
    }


def check_file(path: str | PathLike[str]) -> None:
    """Whether a row can be written to this file; before the work is done. ValueError for other columns."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for {path.name}; make it, or give another file")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file in it, such as {path / 'results.csv'}")
    if not path.exists() or not path.stat().st_size:
        return
    with path.open(newline="", encoding="utf-8") as file:
        found = next(csv.reader(file), [])
    if tuple(found) != COLUMNS:
        raise ValueError(f"{path} has the columns {','.join(found)[:200]}, not {','.join(COLUMNS)}; give another file")


def append(path: str | PathLike[str], result: dict[str, str]) -> None:
    """Write the row to the end of the file; a new one gets its header first."""
    check_file(path)
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with path.open("a", newline="", encoding="utf-8") as file:
        if before and not before.endswith("\n"):
            file.write("\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not before:
            writer.writeheader()
        writer.writerow(result)


def _joined(values: Sequence[str]) -> str:
    """The value that all have, or all of them."""
    return "+".join(values if len(set(values)) > 1 else values[:1])
