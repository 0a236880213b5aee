"""The charts of the networks: what stands in them, that no two words collide, and that the page needs nothing else."""

import csv
import html
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageColor

from backbones import catalog, plots, protocols
from backbones.pareto import pareto
from backbones.plots import DARK, LIGHT, Picture
from backbones.plots.growth import exponent
from backbones.plots.labels import CHARACTER, LINE

ENTRIES = list(catalog.load().values())
READ_BY_HAND = {  # what the catalog says of an accuracy on ImageNet -> where it may stand
    "one-crop": [
        "1 crop, one network",
        "one centre crop",
        "one crop",
        "one crop; at least this",
        "one crop, trained for 120 epochs",
        "one crop, trained for 90 epochs",
        "one 320x320 crop, trained with scale and aspect ratio augmentation",
        "one 320x320 crop, trained with scale augmentation",
        "one view",
        "one view; first version of the paper",
        "one view; latest version of the paper, early stopping",
        "single centre crop",
        "single centre crop, trained at 320",
    ],
    "one-crop-subset": ["single crop", "one crop, one network"],
    "10-crops": ["10 crops", "10 crops, one network"],
    "12-crops": ["12 crops"],
    "144-crops": ["144 crops", "144 crops, one network"],
}


def sweep(power: float) -> list[dict[str, Any]]:
    points = [
        {"width": w, "params": 7 * w**power, "madds": 3.0 * w, "activations": 5.0, "memory": w} for w in (1, 2, 4)
    ]
    return plots.scaling_rows("tiny", points)


def all_pictures() -> list[Picture]:
    stages = {name: catalog.find(name)["measured"]["stages"] for name in ("vgg16", "resnet50")}
    accuracy, publisher = (plots.accuracy_rows(ENTRIES, p) for p in ("one-crop", "publisher"))
    errors, shares, growth = plots.timeline_rows(ENTRIES), plots.stage_rows(stages), sweep(2)
    return [
        Picture("accuracy", "Accuracy", accuracy, lambda theme: plots.accuracy(accuracy, "one-crop", theme)),
        Picture("publisher", "Published", publisher, lambda theme: plots.accuracy(publisher, "publisher", theme)),
        Picture("timeline", "Errors", errors, lambda theme: plots.timeline(errors, theme)),
        Picture("stages", "Stages", shares, lambda theme: plots.stages(shares, theme)),
        Picture("scaling", "Growth", growth, lambda theme: plots.scaling(growth, theme)),
    ]


PICTURES = all_pictures()


def test_pareto_front_is_what_nobody_beats() -> None:
    draw = random.Random(0)
    for _ in range(200):
        rows = [{"madds": draw.randint(1, 8), "top1": draw.randint(1, 8)} for _ in range(draw.randint(1, 12))]
        beaten = {
            i
            for i, a in enumerate(rows)
            for b in rows
            if b["madds"] <= a["madds"] and b["top1"] >= a["top1"] and a != b
        }
        assert pareto(rows) == set(range(len(rows))) - beaten


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_a_chart_has_one_protocol(protocol: str) -> None:
    rows = plots.accuracy_rows(ENTRIES, protocol)
    assert len(rows) >= 3
    assert len({row["network"] for row in rows}) == len(rows)
    for row in rows:
        entry = catalog.find(row["network"])
        own = entry["input_size"][1] == row["input_size"]
        assert row["source"]
        assert row["madds"] == entry["measured"]["madds"] if own else row["madds"] != entry["measured"]["madds"]
        if protocol == "publisher":
            assert row["tag"] == "publisher"
            assert row["top1"] in [w["top1"] for w in entry["published"]]
            continue
        assert row["tag"] == ("publisher" if "release" in row["source"] or "README" in row["source"] else "paper")
        assert row["protocol"] in READ_BY_HAND[protocol]
        (claim,) = {
            c["data"]
            for c in entry["reported"]
            if c["top1"] == pytest.approx(row["top1"])
            and (c["protocol"], c["source"]) == (row["protocol"], row["source"])
        }
        assert ("blacklisted" in claim) == protocol.endswith("subset")


def test_every_protocol_was_read() -> None:
    for entry in ENTRIES:
        for claim in entry["reported"]:
            subset = "blacklisted" in claim["data"]
            names = [
                n for n, words in READ_BY_HAND.items() if claim["protocol"] in words and n.endswith("subset") == subset
            ]
            expected = names[0] if names and claim["data"].startswith("ImageNet-1k validation") else None
            assert protocols.protocol_of(claim) == expected, claim


def test_the_default_is_what_most_networks_have() -> None:
    assert protocols.most(ENTRIES) == "one-crop"
    assert protocols.most([catalog.find("alexnet"), catalog.find("zfnet")]) == "10-crops"


def test_timeline_keeps_ensembles_apart() -> None:
    rows = plots.timeline_rows(ENTRIES)
    assert all(row["source"] and row["protocol"] for row in rows)
    one, several = ([r for r in rows if r["kind"] == kind] for kind in ("one network", "several networks"))
    assert not any("networks" in row["protocol"] for row in one)
    assert all("networks" in row["protocol"] for row in several)
    released = {row["network"] for row in rows if row["tag"] == "publisher"}
    assert released == {row["network"] for row in rows if "authors'" in row["source"]} >= {"mobilenet_v2_x1_4"}
    printed = {(row["network"], row["top5_error"]) for row in several}
    assert {("alexnet", 15.4), ("googlenet", 6.67), ("resnet152", 3.57), ("senet154", 2.251)} <= printed
    assert {("alexnet", 18.2), ("vgg19", 7.1), ("resnet152", 4.49)} <= {(r["network"], r["top5_error"]) for r in one}
    for series in (one, several):
        best = [row["top5_error"] for row in series if row["best"]]
        assert best == sorted(best, reverse=True)
        assert best[-1] == min(row["top5_error"] for row in series)
        assert [row["month"] for row in series] == sorted(row["month"] for row in series)


def test_stages_are_the_whole() -> None:
    for name in ("alexnet", "googlenet", "densenet121"):
        measured = catalog.find(name)["measured"]
        rows = plots.stage_rows({name: measured["stages"]})
        assert sum(row["madds"] for row in rows) == measured["madds"]
        for what in ("params", "madds", "activations"):
            assert sum(row[f"{what}_share"] for row in rows) == pytest.approx(100)


def test_scaling_finds_the_power() -> None:
    rows = sweep(1.5)
    assert exponent([r["value"] for r in rows], [r["params"] for r in rows]) == pytest.approx(1.5)
    spec = json.dumps(plots.scaling(rows).to_dict())
    assert all(words in spec for words in ("parameters x^1.50", "multiply-adds x^1.00", "activations constant"))
    both = [{"width": w, "batch": b, "params": w, "madds": w * b} for w in (1, 2) for b in (1, 8)]
    lines = {(r["setting"], r["value"], r["madds"]) for r in plots.scaling_rows("tiny", both)}
    assert lines == {("width", 1, 1), ("width", 2, 2), ("batch", 1, 1), ("batch", 8, 8)}


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.accuracy_rows(ENTRIES, "dense"), "protocol='dense'; give one of one-crop, 10-crops"),
        (lambda: plots.accuracy([], "one-crop"), "no network has an accuracy under 'one-crop'"),
        (lambda: plots.timeline([]), "give other names"),
        (lambda: plots.stages([]), "give at least one"),
        (lambda: plots.scaling([]), "give at least two"),
        (
            lambda: plots.scaling([{"network": "tiny", "setting": "width", "value": 1, "params": 1}]),
            "one value of width",
        ),
    ],
)
def test_errors_say_what_to_do(draw: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw()


@pytest.mark.parametrize("number", range(3))
def test_no_two_words_collide(number: int) -> None:
    spec = PICTURES[number].draw(LIGHT).to_dict()
    x, y = ("time", "top5_error") if number == 2 else ("madds", "top1")
    encoding = next(layer["encoding"] for layer in spec["layer"] if x in layer["encoding"]["x"]["field"])
    words = {(row[x], row[y]): row for layer in spec["layer"] for row in layer["data"]["values"] if "text" in row}

    def pixel(value: float, axis: str, length: int) -> float:
        scale = encoding[axis]["scale"]
        low, high, value = (math.log(v) if scale.get("type") == "log" else v for v in (*scale["domain"], value))
        along = (value - low) / (high - low) * length
        return along if axis == "x" else length - along

    boxes = []
    for row in words.values():
        wide, high = CHARACTER * 12 * len(row["text"]), LINE * 12
        left = pixel(row[x], "x", spec["width"]) - wide * {"left": 0, "center": 0.5, "right": 1}[row["align"]]
        top = pixel(row[y], "y", spec["height"]) - high / 2
        boxes.append((left, top, left + wide, top + high))
    for a, b in combinations(boxes, 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    named = [row["text"] for row in words.values()]
    if number == 2:
        assert len(named) == len(PICTURES[2].rows)
    else:
        assert {row["label"] for row in PICTURES[number].rows if row["pareto"]} <= set(named)


@pytest.mark.parametrize(("picture", "theme"), list(zip(PICTURES, (LIGHT, DARK, LIGHT, DARK, DARK), strict=True)))
def test_pictures_become_files(picture: Picture, theme: plots.Theme, tmp_path: Path) -> None:
    plots.save(picture.draw(theme), tmp_path / picture.name, picture.rows)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".png", ".svg"]
    image = Image.open(tmp_path / f"{picture.name}.png").convert("RGB")
    assert image.getpixel((0, 0)) == ImageColor.getrgb(theme.ground)
    assert len(image.getcolors(1 << 22) or ()) > 50, "nothing was drawn"
    svg = html.unescape((tmp_path / f"{picture.name}.svg").read_text())
    assert theme.ink.lower() in svg.lower()
    with (tmp_path / f"{picture.name}.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(picture.rows)


def test_a_drawing_of_ones_own_becomes_files(tmp_path: Path) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="3"><rect width="4" height="3" fill="#D55E00"/></svg>'
    )
    plots.save(svg, tmp_path / "block", [])
    assert (tmp_path / "block.svg").read_text() == svg
    image = Image.open(tmp_path / "block.png").convert("RGB")
    assert (image.size, image.getpixel((1, 1))) == ((8, 6), ImageColor.getrgb("#D55E00"))


class Reader(HTMLParser):
    """What a browser would fetch, and what stands on the page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        told = dict(attrs)
        self.links += [told[key] or "" for key in ("src", "href", "data", "srcset", "action") if key in told]
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"] or ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.tags[-1] if self.tags else "", []).append(data)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    svg = Picture("block", "A block", [{"a": "<b>"}], lambda theme: f"<svg><!-- {theme.ground} --></svg>")
    page = plots.page([*PICTURES, svg])
    reader = Reader()
    reader.feed(page)
    assert reader.links == [f"#{picture.name}" for picture in (*PICTURES, svg)]
    assert not {"link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert reader.policy.startswith("default-src 'none'")
    assert "http" not in reader.policy
    style = "".join(reader.texts["style"])
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert reader.tags.count("table") == reader.tags.count("svg") / 2 + len(PICTURES) == len(PICTURES) + 1
    assert reader.tags.count("tr") == sum(1 + len(picture.rows) for picture in (*PICTURES, svg))
    assert "&lt;b&gt;" in page
    charts = json.loads(page.split('id="charts">')[1].split("</script>")[0])
    assert list(charts) == [picture.name for picture in PICTURES]
    for specs in charts.values():
        assert specs["light"]["config"]["background"] == LIGHT.ground
        assert specs["dark"]["config"]["background"] == DARK.ground
        assert "http" not in json.dumps(specs)
        assert '"tooltip"' in json.dumps(specs)


def test_command(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = run(
        "plot", "accuracy", "*resnet*", "alexnet", "--protocol", "10-crops", "--output", str(tmp_path / "a.svg")
    )
    assert (code, out) == (0, f"{tmp_path}/a.svg, .png and .csv\n")
    with (tmp_path / "a.csv").open(newline="") as file:
        names = {row["network"] for row in csv.DictReader(file)}
    assert {"alexnet", "resnet50", "plain34"} - names == {"plain34"}
    run("plot", "stages", "alexnet", "resnet50.tv", "--output", str(tmp_path / "new"), "--dark")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {f"stages-dark.{s}" for s in ("svg", "png", "csv")}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["accuracy", "resnex", "--protocol", "one-crop"], "no network matches 'resnex'"),
        (["accuracy", "--protocol", "dense"], "give one of one-crop"),
        (["accuracy", "lenet*"], "give another protocol, or other names"),
        (["timeline", "*cifar"], "give other names"),
        (["stages", "resnet5O"], "Did you mean"),
        (["scaling", "resnet50"], "give both networks and values"),
        (["scaling", "resnet50", "--depth", "50"], "at least two"),
    ],
)
def test_mistakes_are_told(run: Callable[..., tuple[int, str, str]], args: list[str], words: str) -> None:
    code, _, err = run("plot", *args)
    assert code == 2
    assert words in err


def test_charts_of_the_catalog_need_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from backbones.cli import main
for what in ("accuracy", "timeline", "stages"):
    sys.argv = ["backbones", "plot", what, "--output", {str(tmp_path)!r}]
    main()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert len(list(tmp_path.iterdir())) == 9
