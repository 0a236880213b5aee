"""What a run leaves to be read: report.md and its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from backbones import plots
from backbones.backbone import Backbone
from backbones.data import Part
from backbones.evaluate import Collected, Metrics
from backbones.records import DataInfo
from backbones.train.folder import REPORT_FILE
from backbones.weights.file import in_place

WORST = 25  # mistakes shown
PARTS = {
    "test": "the test part",
    "val": "the validation part",
    "train": "the training part itself, for want of another",
}


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    folder: Path
    part: str
    """the part of the data it was tested on: test, val or train"""
    metrics: Metrics
    answers: Collected
    """logits and labels of that part, in order"""
    history: Sequence[Mapping[str, float]]
    seconds: float
    precision: str
    """in which the network was trained"""


def write_report(result: Result, model: Backbone, part: Part, info: DataInfo, notes: Sequence[str]) -> None:
    """report.md, and beside it each picture as SVG, PNG and the data it shows."""
    pictures = _draw(result, model, part, info) if find_spec("altair") else {}
    with in_place(result.folder / REPORT_FILE) as temporary:
        Path(temporary).write_text("\n".join(_text(result, model, info, notes, pictures)) + "\n")


def _text(
    result: Result, model: Backbone, info: DataInfo, notes: Sequence[str], pictures: Mapping[str, str]
) -> list[str]:
    metrics, recipe = result.metrics, model.checkpoint.recipe
    low, high = metrics.interval
    correct = round(metrics.top1 * metrics.images / 100)
    lines = [f"# {model.variant.name} on {info.name}", ""]
    lines += [
        f"**top-1 {metrics.top1:.2f} %** on {PARTS[result.part]}: {correct} of {metrics.images} images, one run, "
    ]
    lines += [f"one centre crop; 95 % interval {low:.2f} to {high:.2f} %.", "", "| figure | value |", "|---|---|"]
    rows = {
        "top-5": f"{metrics.top5:.2f} %" if metrics.top5 is not None else "five classes or fewer",
        "cross entropy": f"{metrics.loss:.4f}",
        "calibration error": f"{metrics.calibration_error:.2f} %, 15 bins",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "epoch kept": f"{model.checkpoint.metrics['epoch']:g}",
        "time": f"{result.seconds:.0f} s",
        "precision": result.precision,
        "data": info.split,
    }
    lines += [f"| {figure} | {value} |" for figure, value in rows.items()]
    lines += ["", "## Classes", "", "| class | images | correct |", "|---|---|---|"]
    for name, row, share in zip(info.classes, metrics.confusion, metrics.per_class, strict=True):
        escaped = name.replace("|", "\\|")
        lines.append(f"| {escaped} | {sum(row)} | {'none here' if share is None else f'{share:.1f} %'} |")
    for title, file in pictures.items():
        lines += ["", f"## {title}", "", f"![{title}]({file})"]
    if not pictures:
        lines += ["", "No pictures: `pip install 'backbones[plots]'` draws them."]
    lines += [
        "",
        "## Recipe",
        "",
        f"Source: {recipe.source if recipe else 'unknown'}. All its values are in recipe.json.",
        "",
    ]
    return lines + [f"- {note}" for note in notes]


def _draw(result: Result, model: Backbone, part: Part, info: DataInfo) -> dict[str, str]:
    """Title -> file of each picture."""
    logits, labels = result.answers
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:WORST].tolist()
    images = [part.image(i).permute(1, 2, 0).squeeze(2).numpy() for i in worst]
    captions = [(info.classes[int(labels[i])], info.classes[int(predicted[i])], float(confidence[i])) for i in worst]
    weight = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.detach().cpu().numpy()
    drawn = {
        "Learning curves": ("curves", plots.curves(result.history), result.history),
        "Confusion matrix": (
            "confusion",
            plots.confusion(result.metrics.confusion, info.classes),
            plots.confusion_rows(result.metrics.confusion, info.classes),
        ),
        "Worst mistakes": ("mistakes", plots.mistakes(images, captions), plots.mistake_rows(captions)),
        "First-layer filters": ("filters", plots.filters(weight), plots.filter_rows(weight)),
    }
    for file, chart, rows in drawn.values():
        plots.save(chart, result.folder / file, rows)
    return {title: f"{file}.svg" for title, (file, _, _) in drawn.items()}
