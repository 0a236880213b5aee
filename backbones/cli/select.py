"""backbones select: which network to take within a budget, on this machine."""

import json
from typing import Literal

from backbones import units
from backbones.cli import tables

SHOWN = 12
"""rows of a table; --format csv and json have all"""
COLUMNS = {
    "network": "network",
    "img_size": "image",
    "top1": "top-1 %",
    "top1_from": "from",
    "params": "params",
    "madds": "madds",
    "memory": "memory",
    "latency": "p90 ms",
    "latency_from": "from",
    "front": "front",
}


def select(
    max_params: str | None = None,
    max_madds: str | None = None,
    max_latency: str | None = None,
    max_memory: str | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    min_year: int | None = None,
    can: tuple[str, ...] = (),
    weights_available: bool = False,
    protocol: str | None = None,
    sort: Literal["top1", "latency", "madds", "params", "memory"] = "top1",
    format: tables.Format = "table",
) -> None:
    """Choose an ImageNet network within a budget: all that fit, those no other beats, and the one to take.

    A latency makes it measure on this machine: the first question takes minutes, the next one is answered from what is
    known. Every figure says where it comes from.

    Args:
        max_params: trained values, such as 5M
        max_madds: multiply-adds of one image, such as 600M
        max_latency: of one batch, which nine of ten runs may take, such as 20ms
        max_memory: of weights and maps in inference, such as 200MB
        batch: images at a time, for latency and memory
        threads: of computation; as many as there are cores by default
        device: where latency is measured: cpu, or cuda as torch names it
        min_year: of the paper
        can: promises that the network must keep, such as output_stride
        weights_available: only networks that somebody publishes weights for
        protocol: how the accuracies were taken: one-crop, 10-crops, 12-crops, 144-crops, one-crop-subset or publisher
        sort: what the best is best in
        format: how to print
    """
    from backbones import choose

    found = choose.select(
        max_params=units.parse(max_params) if max_params is not None else None,
        max_madds=units.parse(max_madds) if max_madds is not None else None,
        max_latency=1000 * units.parse(max_latency, "s") if max_latency is not None else None,
        max_memory=units.parse(max_memory, "B") if max_memory is not None else None,
        batch_size=batch,
        threads=threads,
        device=device,
        min_year=min_year,
        can=[promise for word in can for promise in word.split(",")],
        weights_available=weights_available,
        protocol=protocol,
        sort=sort,
    )
    if format == "json":
        print(json.dumps(found.asdict(), indent=1))
        return
    rows = [{**c.asdict(), "front": "*" if c.network in found.front else ""} for c in found.feasible]
    if format == "csv":
        tables.show(rows, format, COLUMNS)
        return
    columns = {k: heading for k, heading in COLUMNS.items() if any(row[k] is not None for row in rows)}
    tables.show([_short(row) for row in rows[:SHOWN]], format, columns)
    if len(rows) > SHOWN:
        print(f"and {len(rows) - SHOWN} more: --format csv has all")
    print(f"\naccuracy: {found.protocol}; front: no other is as accurate at less cost")
    print(f"take {found.recommended.network}: {found.reason}")
    if found.how:
        print(found.how)
    if found.silent:
        print(f"{len(found.silent)} more have no such accuracy at their own size, such as {found.silent[0]}")
    for reason in found.failed:
        print(f"not measured  {reason}")
    for miss in found.misses:
        print(f"missed  {miss}")


def _short(row: dict[str, object]) -> dict[str, object]:
    """As a table shows it: 25.6 M, and a prediction with its interval."""
    short = dict(row)
    for what in ("params", "madds", "memory"):
        short[what] = units.si(float(str(row[what]))) + ("B" if what == "memory" else "")
    if row["latency_from"] == "predicted":
        short["latency"] = f"{row['latency']:.3g} ({row['latency_low']:.3g} to {row['latency_high']:.3g})"
    elif row["latency"] is not None:
        short["latency"] = f"{row['latency']:.3g}"
    if row["top1"] is not None:
        short["top1"] = f"{row['top1']:.2f}"
    return short
