"""Every picture becomes three files that can be read back, and draws what it was given."""

import base64
import csv
import html
import io
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbones.plots import confusion, confusion_rows, curves, filter_rows, filters, mistake_rows, mistakes, save


def history(epochs: int, *, validation: bool = True) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "train_loss": 2.3 / epoch, "train_top1": 99 - 80 / epoch, "lr": 0.1 / epoch}
        rows.append(row | ({"val_loss": 2.5 / epoch, "val_top1": 97.0 - 80 / epoch} if validation else {}))
    return rows


def saved(chart: Any, folder: Path, rows: list[dict[str, Any]]) -> tuple[Image.Image, str, list[dict[str, str]]]:
    """Save under a dotted name and read all three files back: picture, SVG text, rows."""
    save(chart, folder / "new" / "resnet50.tv", rows)
    assert sorted(p.name for p in (folder / "new").iterdir()) == [f"resnet50.tv.{s}" for s in ("csv", "png", "svg")]
    with (folder / "new/resnet50.tv.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    picture = Image.open(folder / "new/resnet50.tv.png").convert("RGB")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.convert("L").getextrema()[0] < 128, "nothing was drawn"
    svg = (folder / "new/resnet50.tv.svg").read_text(encoding="utf-8")
    return picture, html.unescape(svg), table


def inside(chart: Any) -> list[dict[str, Any]]:
    """All data that a chart carries, panel after panel."""
    spec = chart.to_dict()
    return [row for part in (spec, *spec.get("hconcat", [])) for row in part.get("data", {}).get("values", [])]


def embedded(chart: Any) -> list[np.ndarray[Any, Any]]:
    """The pictures inside a mosaic."""
    codes = [row["url"].removeprefix("data:image/png;base64,") for row in inside(chart)]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in codes]


def lines(chart: Any) -> Counter[str]:
    """Name of every line of `curves` -> how many finite values it has, over all panels."""
    return Counter(row["line"] for row in inside(chart) if row["value"] is not None)


@pytest.mark.parametrize("epochs", [1, 40])
def test_curves(tmp_path: Path, epochs: int) -> None:
    rows = history(epochs)
    picture, svg, table = saved(curves(rows), tmp_path, rows)
    assert picture.width > 1600
    assert all(words in svg for words in ("loss", "accuracy (%)", "learning rate", "epoch", "training", "validation"))
    assert [{name: float(value) for name, value in row.items()} for row in table] == rows
    assert lines(curves(rows)) == {"training": 2 * epochs, "validation": 2 * epochs, "rate": epochs}


def test_curves_without_validation_and_with_a_gap(tmp_path: Path) -> None:
    assert lines(curves(history(3, validation=False))) == {"training": 6, "rate": 3}
    rows = history(3)
    rows[0]["train_loss"] = math.nan
    del rows[1]["val_loss"]
    assert lines(curves(rows)) == {"training": 5, "validation": 5, "rate": 3}
    _, _, table = saved(curves(rows), tmp_path, rows)
    assert table[1]["val_loss"] == ""


def test_curves_show_steps_of_the_rate_on_a_logarithmic_axis() -> None:
    rows = [row | {"lr": 0.1 if row["epoch"] < 5 else 0.01} for row in history(8)]
    rate = curves(rows).to_dict()["hconcat"][2]
    assert rate["encoding"]["y"]["scale"] == {"type": "log"}
    assert rate["encoding"]["y"]["axis"]["values"] == [0.01, 0.1]


def test_curves_need_their_columns() -> None:
    with pytest.raises(ValueError, match=r"1 epochs lacks \['lr'\]"):
        curves([{"epoch": 1, "train_loss": 1.0, "train_top1": 10.0}])
    with pytest.raises(ValueError, match="0 epochs"):
        curves([])


@pytest.mark.parametrize("number", [2, 20, 21, 100])
def test_confusion(tmp_path: Path, number: int) -> None:
    generator = np.random.default_rng(0)
    matrix = (generator.integers(0, 3, (number, number)) + 40 * np.eye(number, dtype=int)).tolist()
    matrix[1] = [0] * number
    classes = [f"the {i}th 'class'" for i in range(number)]
    picture, svg, table = saved(confusion(matrix, classes), tmp_path, confusion_rows(matrix, classes))
    assert min(picture.size) > (160 if number == 2 else 1000)
    assert all(words in svg for words in ("true class", "predicted class", classes[-1]))
    assert (f">{matrix[0][0]}</text>" in svg) == (number <= 20)
    assert [int(row["count"]) for row in table] == [count for row in matrix for count in row]
    first = [float(row["percent"]) for row in table[:number]]
    assert first == pytest.approx([100 * count / sum(matrix[0]) for count in matrix[0]])
    assert {row["percent"] for row in table[number : 2 * number]} == {""}


def test_confusion_keeps_classes_of_one_name_apart() -> None:
    cells = inside(confusion([[3, 1], [0, 4]], ["crane", "crane"]))
    assert [(c["true"], c["predicted"], c["text"]) for c in cells] == [(0, 0, 3), (0, 1, 1), (1, 0, ""), (1, 1, 4)]


def test_confusion_needs_a_square() -> None:
    with pytest.raises(ValueError, match=r"2 rows of \[2\] counts for 3 classes"):
        confusion([[1, 2], [3, 4]], ["a", "b", "c"])


@pytest.mark.parametrize("shape", [(8, 8), (24, 32, 3)])
def test_mistakes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(30)]
    captions = [("3", "8", 0.97), *[("crocodile head", "automobile", 0.5)] * 29]
    picture, svg, table = saved(mistakes(images, captions), tmp_path, mistake_rows(captions))
    assert min(picture.size) > 1000
    assert svg.count("<image") == 25
    assert "3 taken for 8, 97\N{NO-BREAK SPACE}%" in svg
    assert (len(table), table[0]) == (30, {"true": "3", "predicted": "8", "probability": "0.97"})
    shown = embedded(mistakes(images, captions))[0]
    factor = shown.shape[0] // shape[0]
    assert factor > 1
    np.testing.assert_array_equal(shown[factor // 2 :: factor, factor // 2 :: factor], images[0])


def test_no_mistakes(tmp_path: Path) -> None:
    _, svg, table = saved(mistakes([], []), tmp_path, mistake_rows([]))
    assert "no mistakes" in svg
    assert table == []


def test_mistakes_need_captions() -> None:
    with pytest.raises(ValueError, match="1 images, but 0 captions"):
        mistakes([np.zeros((2, 2), np.uint8)], [])


@pytest.mark.parametrize(
    ("shape", "shown"), [((6, 1, 5, 5), (6, 1)), ((64, 16, 3, 3), (64, 1)), ((100, 3, 11, 11), (96, 3))]
)
def test_filters(tmp_path: Path, shape: tuple[int, ...], shown: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=shape)
    weight[1] = 0
    picture, svg, table = saved(filters(weight), tmp_path, filter_rows(weight))
    assert picture.width > 600
    assert svg.count("<image") == shown[0]
    part = weight[: shown[0], : shown[1]]
    np.testing.assert_array_equal([float(row["weight"]) for row in table], part.ravel())
    pictures = embedded(filters(weight))
    assert {p.ndim for p in pictures} == {3 if shown[1] == 3 else 2}
    assert (pictures[1] == 128).all(), "zero is mid-grey"
    brightest, darkest = pictures[0].max() - 128, 128 - pictures[0].min()
    assert max(brightest, darkest) == 127
    assert (brightest == 127) == (part[0].max() >= -part[0].min())


def test_filters_need_four_dimensions() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        filters(np.zeros((3, 4)))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r"pip install 'backbones\[plots\]'"):
        curves(history(1))


def test_a_failed_picture_leaves_no_file(tmp_path: Path) -> None:
    save(mistakes([], []), tmp_path / "kept", [{"a": 1}])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    class Broken:
        def save(self, path: str, **_: Any) -> None:
            Path(path).write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(Broken(), tmp_path / "kept", [])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
