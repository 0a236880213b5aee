"""backbones bench: how fast networks are on this machine."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from backbones import catalog

if TYPE_CHECKING:
    from backbones.choose.latency import Latency


def bench(
    names: Positional[tuple[str, ...]],
    /,
    batch_size: int = 1,
    threads: int | None = None,
    img_size: int | None = None,
    runs: int = 30,
    device: str = "cpu",
    fresh: bool = False,
    format: Literal["table", "csv", "json"] = "table",
) -> None:
    """Measure the latency of networks on this machine. What was measured before is told at once.

    Args:
        names: as `backbones list` prints them, or patterns: "resnet*"
        batch_size: images at a time
        threads: of computation; as many as there are cores by default
        img_size: side of the images; each network's own by default
        runs: at least so many of each network
        device: cpu, or cuda as torch names it
        fresh: measure again what is known
        format: table, csv with timm's columns first, or json with all that is known
    """
    from backbones.choose import Failure, Latency, measure

    found = measure(
        _named(names),
        batch_size=batch_size,
        threads=threads,
        img_size=img_size,
        runs=runs,
        device=device,
        fresh=fresh,
    )
    latencies = [one for one in found.values() if isinstance(one, Latency)]
    if format == "json":
        print(json.dumps([{**asdict(one), "throughput": one.throughput} for one in latencies], indent=1))
    elif format == "csv":
        rows = [_row(one) for one in latencies]
        writer = csv.DictWriter(sys.stdout, rows[0] if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif latencies:
        _print(latencies)
    if failures := [one for one in found.values() if isinstance(one, Failure)]:
        print("\n".join(f"{one.setting.network}: {one.reason}" for one in failures), file=sys.stderr)
        sys.exit(2)


def _named(patterns: Sequence[str]) -> list[str]:
    """The names that they match, each once; a plain name matches itself."""
    if not patterns:
        raise ValueError("give at least one network; `backbones list` shows all")
    names: list[str] = []
    for pattern in patterns:
        matched = [name for name in catalog.load() if fnmatchcase(name, pattern)]
        names += matched or [catalog.find(pattern)["name"]]
    return list(dict.fromkeys(names))


def _row(one: "Latency") -> dict[str, object]:
    """timm's columns, and ours after them."""
    setting, cost = one.setting, _cost(one)
    return {
        "model": setting.network,
        "infer_img_size": setting.img_size,
        "infer_samples_per_sec": round(one.throughput, 2),
        "infer_step_time": round(one.p50, 3),
        "infer_batch_size": setting.batch_size,
        "param_count": round(cost["params"] / 1e6, 2),
        "infer_gmacs": round(cost["madds"] / 1e9, 2),
        "infer_macts": round(cost["conv_activations"] / 1e6, 2),
        **{name: round(getattr(one, name), 3) for name in ("p50", "p90", "p99")},
        "runs": one.runs,
        "threads": setting.threads,
        "device": setting.device,
        "peak_memory": one.peak_memory,
        "drift": round(one.drift, 3),
        "load": one.load,
        "others": None if one.others is None else round(one.others, 3),
        "flags": "; ".join(one.flags),
        "measured_at": one.measured_at,
    }


def _cost(one: "Latency") -> Mapping[str, int]:
    """Of one image: from the catalog, or counted where the images have another size."""
    entry = catalog.find(one.network)
    channels, *own = entry["input_size"]
    size = [one.setting.img_size] * 2
    if size == own:
        return entry["measured"]
    import torch

    from backbones import create_model
    from backbones.cost import measure_cost

    with torch.device("meta"):
        return measure_cost(create_model(one.network), (channels, *size)).asdict()


def _print(latencies: "Sequence[Latency]") -> None:
    first = latencies[0]
    here, setting = first.machine, first.setting
    where = here.accelerator or f"{here.cpu}, {setting.threads} of {here.processors} processors"
    print(f"{where}; torch {first.versions['torch']}, float32, batch {setting.batch_size}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("network", no_wrap=True)
    for column in ("image", "p50 ms", "p90 ms", "p99 ms", "images/s", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in latencies:
        times = (f"{ms:.3g}" if ms < 100 else f"{ms:.0f}" for ms in (one.p50, one.p90, one.p99))
        memory = f"{one.peak_memory / 1e6:.0f} MB" if one.peak_memory else ""
        side = str(one.setting.img_size)
        table.add_row(one.network, side, *times, f"{one.throughput:.3g}", memory)
    console = Console()
    console.print(table)
    for one in latencies:
        if one.flags:
            console.print(f"{one.network}: {'; '.join(one.flags)}", markup=False, highlight=False, soft_wrap=True)
