"""docs/engines.md: every ImageNet network in other engines, exported and optimized, and how far apart that was.

python tests/engines_table.py FACTS.json    adds what FACTS.json lacks, cheapest networks first, and writes the page
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from backbones import create_model, export, list_models, optimize
from backbones.backbone import Backbone
from backbones.catalog import load
from backbones.infer import search
from backbones.infer.search import EXACT
from backbones.timing import interleaved

FILE = Path(__file__).parents[1] / "docs" / "engines.md"
IMAGENET = 200
"""side of the image from which on a network is one for ImageNet"""
SIDE = 64
"""of the images here, where the network reads so small ones"""
INTRODUCTION = """# Every ImageNet network in other engines

Random weights, batch norms with the statistics of 8 random images and a bias of 1, without which deep random networks
amplify rounding a thousand times; images of 64x64 pixels where the network reads so small ones, else of its smallest
size. A difference is the largest over the range of the logits. Rounding is how far torch's own logits in fp32 are from
those in fp64, by the same measure.

Export: `backbones export --to onnx`, opened by ONNX Runtime, batches of 1 and of 3 images. The others are what
`backbones.optimize(precision="exact")` built for a batch of 2 and compared with the network: it takes none that is off
by more than 1e-4.
"""
ENGINES = ("torch fp32 folded", "openvino fp32", "onnxruntime fp32")


def filled(name: str) -> Backbone:
    """With random weights and the statistics of one batch. The bias lets most values pass the ReLUs, as in a network
    that was trained: a random one without it is chaotic, and shows rounding where an engine's errors are asked for.
    """
    model = create_model(name, seed=0).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.ones_(norm.bias)
    model.draws.progress = 0.0  # a dropped block would have no statistics
    if norms:
        with torch.inference_mode():
            model(images(model, 8))
    return model.eval()


def images(model: Backbone, batch: int) -> torch.Tensor:
    side = max(SIDE, model.min_size)
    return torch.randn(batch, model.in_channels, side, side, generator=torch.Generator().manual_seed(1))


def rounding(model: Backbone) -> float:
    batch = images(model, 1)
    with torch.no_grad():
        exact, logits = deepcopy(model).double()(batch.double()), model(batch)
    return float((logits - exact).abs().max() / (exact.max() - exact.min()))


def exported(model: Backbone) -> float | str:
    """How far ONNX Runtime's logits are, or what went wrong."""
    with TemporaryDirectory(prefix="backbones-") as folder:
        try:
            made = export(model, images(model, 2), Path(folder, "model.onnx"), to="onnx")
        except Exception as error:  # whatever it is, it stands in the table
            return f"{type(error).__name__}: {error}"[:200]
    return made.relative


def optimized(model: Backbone) -> dict[str, Any]:
    """How far each engine's logits are, or what went wrong with it."""
    search.interleaved = partial(interleaved, rounds=1, most=1, block=0.0)
    try:
        report = optimize(model, images(model, 2), precision="exact", budget_s=600, fresh=True).report
    except Exception as error:
        return {engine: f"{type(error).__name__}: {error}"[:200] for engine in ENGINES}
    trials = {trial.candidate.name: trial for trial in report.trials}
    return {e: trials[e].verdict if trials[e].error is None else trials[e].error for e in ENGINES}


def networks() -> list[str]:
    """Cheapest first."""
    entries = load()
    large = [name for name in list_models() if entries[name]["input_size"][1] >= IMAGENET]
    return sorted(large, key=lambda name: entries[name]["measured"]["madds"])


def page(facts: dict[str, Any]) -> Iterator[str]:
    yield INTRODUCTION
    columns = ("export", *ENGINES)
    for column in columns:
        found = [fact[column] for fact in facts.values() if column in fact]
        near = [value for value in found if isinstance(value, float) and value <= EXACT]
        told = f"{len(near)} of {len(found)} networks within 1e-4, largest difference of these {max(near):.1e}"
        yield f"- {column}: {told}"
    if missing := [f"`{name}`" for name in networks() if not set(columns) <= set(facts.get(name, {}))]:
        yield f"\nNot run everywhere yet: {', '.join(missing)}."
    yield f"\n| network | image | rounding | {' | '.join(columns)} |"
    yield "|---" * (3 + len(columns)) + "|"
    for name in filter(facts.__contains__, list_models()):
        fact = facts[name]
        cells = (f"{v:.1e}" if isinstance(v, float) else str(v) for v in (fact.get(c, "") for c in columns))
        yield f"| `{name}` | {fact['side']} | {fact['rounding']:.1e} | {' | '.join(cells)} |"
    yield "\nGenerated by `python tests/engines_table.py FACTS.json`."


def main() -> None:
    file, kinds = Path(sys.argv[1]), sys.argv[2:] or ["export", "optimize"]
    facts: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in networks():
        known = facts.get(name, {})
        lacking = [k for k in kinds if {"export": "export", "optimize": ENGINES[0]}[k] not in known]
        if not lacking:
            continue
        model = filled(name)
        if not known:
            known = {"side": max(SIDE, model.min_size), "rounding": rounding(model)}
        if "export" in lacking:
            known["export"] = exported(model)
        if "optimize" in lacking:
            known |= optimized(model)
        facts[name] = known
        half = file.with_suffix(".part")
        half.write_text(json.dumps(facts, indent=1))
        half.replace(file)
        print(name, json.dumps(facts[name]), flush=True)
    FILE.write_text("\n".join(page(facts)) + "\n")


if __name__ == "__main__":
    main()
