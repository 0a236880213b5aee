"""Every network against the tables of its own paper, row by row. The tables are in tests/paper/<family>.csv.

Columns: `variant`; `source`, the table or section; `part`, a module of our network or several joined by +, empty for
the whole network; `input`, side of the image where it is not the network's own; `side` and `channels` of the part's
map; `params` and `madds` as printed (159K and 1.8G are rounded, 163328 is exact); `gap`, why our count differs. A
`source` of "counted" is the exact count that a script of another author made from the paper's tables.
"""

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from networks import NAMES
from torch.utils.flop_counter import FlopCounterMode

from backbones import create_model, model_info
from backbones.cost import measure_cost
from backbones.geometry import watch

FOLDER = Path(__file__).parent / "paper"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "counted_from_tables.csv"
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
SLACK = 0.02


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return [{key: value or "" for key, value in row.items()} for row in csv.DictReader(lines)]


ROWS: dict[str, list[dict[str, str]]] = defaultdict(list)
for table in sorted(FOLDER.glob("*.csv")):
    for row in read(table):
        ROWS[row["variant"]].append(row)


def agrees(printed: str, counted: int) -> bool:
    """Exactly where the number was printed in full; else within 2 % or half of the last printed digit."""
    digits = printed.rstrip("KMG")
    unit = UNITS[printed[len(digits) :]]
    if unit == 1:
        return counted == int(digits)
    last_digit = 10.0 ** -len(digits.partition(".")[2])
    return abs(counted - float(digits) * unit) <= max(SLACK * counted, last_digit * unit / 2)


class Part(NamedTuple):
    side: int
    channels: int
    params: int
    madds: int


@cache
def measured(name: str, side: int) -> dict[str, Part]:
    """Every module of the network, by the counter of torch itself; "" is the whole, without auxiliary heads."""
    channels = model_info(name).input_size[0]
    with torch.device("meta"):
        model = create_model(name).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, channels, side, side))
        maps = {s.name: s.map.shape for s in watch(model, (channels, side, side)) if s.map.ndim == 4}
    flops, parts = counter.get_flop_counts(), {}
    for part, module in model.named_modules():
        shape = maps.get(part, (1, 0, 0, 0))
        madds = sum(flops.get(f"{type(model).__name__}.{part}", {}).values()) // 2
        parts[part] = Part(shape[-1], shape[1], sum(p.numel() for p in module.parameters()), madds)
    whole = measure_cost(model, (channels, side, side))
    parts[""] = Part(0, 0, whole.params, whole.madds)
    return parts


PRINTED = ("side", "channels", "params", "madds")


def found(row: dict[str, str]) -> Part:
    """What we count for a row."""
    parts = measured(row["variant"], int(row["input"] or model_info(row["variant"]).input_size[1]))
    several = [parts[part] for part in row["part"].split("+")]
    return several[-1]._replace(params=sum(p.params for p in several), madds=sum(p.madds for p in several))


def both(row: dict[str, str], part: Part) -> tuple[str, str]:
    """What differs, as printed and as counted."""
    off = [what for what in PRINTED if row[what] and not agrees(row[what], getattr(part, what))]
    return ", ".join(f"{row[what]} {what}" for what in off), ", ".join(f"{getattr(part, what):,}" for what in off)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_papers_tables(name: str) -> None:
    for row in ROWS[name]:
        printed, counted = both(row, found(row))
        where = f"{name}, {row['source']}, {row['part'] or 'the whole network'}"
        assert bool(printed) == bool(row["gap"]), f"{where}: printed {printed}, counted {counted}; gap: {row['gap']!r}"


def test_rows_belong_to_networks() -> None:
    assert ROWS.keys() <= set(NAMES)
    assert all(row["source"] and any(row[k] for k in PRINTED) for r in ROWS.values() for row in r)


NOT_A_NETWORK_HERE = {  # what a reference row has in its name -> why no network of ours has that count
    "RBF output fixed": "its multiply-adds are connections",
    "weights only": "another way to count GoogLeNet",
    "BN, no bias, 5x5 kept": "between GoogLeNet and torchvision's",
    "ResNet-34 C": 'create_model("resnet34", shortcut="C")',
    "authors prototxt": "the same FractalNet, its norms counted in another way",
    "40 layers: B=5, C=4": "FractalNet's 40 layers are thinner, by the note of Table 1",
    "stem 2k=24": "DenseNet's stem in the authors' code, where the paper prints 16",
    "(stem 24 kept)": "ShuffleNet with a stem that does not give the printed complexity",
    "shallow (half the blocks)": "ShuffleNet's paper does not print its widths",
    "+ SE(16)": "ShuffleNet's Table 5 only names it",
    "SE-ShuffleNet": "with SE blocks behind the concatenation: the printed 2.4 M fit those at the end of a branch",
    "5@1536": "the paper prints 5 @ 1538, whose filters do not divide",
    "0.25x g=2 stem 12": "groups that do not divide a quarter of the channels",
    "0.25x g=4 stem 12": "the same",
    "0.25x g=8 stem 12": "the same",
    "0.5x g=2 stem 12": "the same",
    "0.5x g=4 stem 12": "the same",
    "0.5x g=8 stem 12": "the same",
}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference tables are not beside the project")
def test_the_exact_counts_are_the_references() -> None:
    """Each "counted" row stands in the reference, with its multiply-adds where that has not rounded them, and back."""
    rows = read(REFERENCE)
    reference = {(row["params_from_table"], row["macs_from_table"]) for row in rows}
    reference |= {(params, "") for params, _ in reference}
    counted = [row for several in ROWS.values() for row in several if row["source"] == "counted"]
    ours = {(row["params"], row["madds"] if row["madds"].isdigit() else "") for row in counted}
    assert ours <= reference
    for row in rows:
        found = {(row["params_from_table"], row["macs_from_table"]), (row["params_from_table"], "")} & ours
        excluded = any(part in row["variant"] for part in NOT_A_NETWORK_HERE)
        assert found or excluded, row["variant"]
