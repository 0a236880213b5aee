"""backbones convert, parity: weights of others, here and back, and the proof."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from backbones.cli.show import Json

Against = Literal["torchvision", "timm", "pytorchcv", "keras"]


def convert(
    weights: Positional[str],
    output: Positional[Path],
    /,
    network: str | None = None,
    to: Literal["backbones"] | Against = "backbones",
    source: str | None = None,
) -> None:
    """Rewrite weights: anybody's into our file, ours into anybody's, one library's into another's.

    Args:
        weights: a file or folder, or tv:..., timm:..., hf:... as `backbones weights NETWORK` lists them
        output: the file to write; its suffix chooses .safetensors, .pth or .h5 where the library has several
        network: whose weights they are, as `backbones list` prints it; read from the file where it tells
        to: whose file to write
        source: whose file is read, where it does not tell: timm, or timm:tf_efficientnet_b0
    """
    from backbones import create_model, loading, save

    name = network or loading.name_of(weights, source)
    model = create_model(name, weights=weights, source=source)
    told = model.checkpoint
    if to == "backbones":
        facts = {key: getattr(told, key) for key in ("classes", "preprocessing", "recipe", "metrics", "data")}
        save(model, output, **facts)
    else:
        save(model, output, to=to)
    print(f"{output}: {model.variant.name}, {len(model.state_dict())} tensors, for {to}")


def parity(
    name: Positional[str],
    /,
    against: Against,
    weights: Path | None = None,
    images: int = 8,
    json_: Json = False,
) -> None:
    """Prove that a network gives a peer's logits: its file loaded here, compared, written back and loaded there.

    Args:
        name: as `backbones list` prints it
        against: the library, which must be installed
        weights: a file of that library; random weights and statistics by default
        images: how many random images to compare on
        json_: print the figures as JSON
    """
    from rich.console import Console
    from rich.table import Table

    from backbones.parity import partners, prove

    reports = [prove(peer, network, weights, images) for peer, network in partners(name, against)]
    if json_:
        print(json.dumps([asdict(report) for report in reports], indent=1))
        return
    console = Console()
    for r in reports:
        brought = "".join(f", {key}={value}" for key, value in r.settings.items())
        title = f"{r.ours}{brought} and {r.peer}'s {r.theirs}, images {'x'.join(map(str, r.images))}"
        columns = ("", "largest |difference|", "mean", "relative to the logits' range", "same class on top")
        table = Table(*columns, box=None, title=title, title_justify="left")
        for kind, d in (("fp64", r.fp64), ("fp32", r.fp32)):
            table.add_row(kind, *(f"{v:.2e}" for v in (d.largest, d.mean, d.relative)), f"{d.top1:.0%}")
        console.print(table)
        equal = f"{r.tensors - r.changed} of {r.tensors} tensors equal to the last bit"
        console.print(f"written back and loaded there strictly: {equal}", highlight=False)
        if r.parts_at:
            console.print(f"they part at {r.parts_at}", highlight=False)
