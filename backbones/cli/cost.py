"""backbones cost, scale: what a network costs, and how its cost grows."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from tyro.conf import Positional

from backbones import catalog, units
from backbones.cli import tables

COLUMNS = {
    "name": "name",
    "kind": "kind",
    "output_shape": "output",
    "kernel_size": "kernel",
    "stride": "stride",
    "groups": "groups",
    "params": "params",
    "madds": "madds",
    "activations": "activations",
    "bytes_read": "bytes read",
    "bytes_written": "written",
    "intensity": "madds/byte",
    "receptive_field": "field",
}
NO_SUMS = ("num_features", "min_size")
"""numbers of the catalog that are no sums"""


def cost(
    network: Positional[str],
    /,
    size: int | None = None,
    per: Literal["operator", "layer", "stage"] = "stage",
    format: tables.Format = "table",
    batch_size: int = 1,
    train: Literal["sgd", "momentum", "adamw", "rmsprop"] | None = None,
    precision: Literal["float32", "bfloat16", "float16", "amp"] = "float32",
    fit: str | None = None,
) -> None:
    """Show what a network costs: parameters, multiply-adds, activations, memory, receptive field.

    Args:
        network: as `backbones list` prints it; or torchvision:NAME, timm:NAME, FILE.py:NAME, a module or a
            function that returns one
        size: side of the image in pixels; the network's own by default
        per: one row per operator, layer or stage
        format: how to print; csv and json have every column
        batch_size: images at once
        train: memory of training with this optimiser
        precision: of weights and maps; amp keeps float32 weights and computes in bfloat16
        fit: how many images fit into so much memory, such as 16GB, in inference, or with --train in training
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give 1 image or more")
    if train or fit:
        _show_memory(network, size, batch_size, train, precision, fit, format)
        return
    if precision != "float32":
        raise ValueError(f"precision={precision} is of memory; give --train or --fit too, or leave it out")
    uncounted: tuple[str, ...] = ()
    entry = None if ":" in network else catalog.find(network)
    if entry and size is None and per == "stage" and batch_size == 1:
        measured, shape = entry["measured"], tuple(entry["input_size"])
        rows, kinds = measured["stages"], measured["activations_of"]
        sums = {key: n for key, n in measured.items() if isinstance(n, int) and key not in NO_SUMS}
    else:
        from backbones import cost as costs
        from backbones.cli.modules import find

        module, shape = find(network, size)
        counted = costs.measure_cost(module, shape, batch_size)
        rows, sums = [row.asdict() for row in counted.rows(per)], counted.asdict()
        kinds = {op: row.activations for op, row in counted.by_kind().items()}
        uncounted = counted.uncounted
    if format == "json":
        print(json.dumps({"rows": rows, "total": sums, "uncounted": uncounted}, indent=1))
        return
    total = {"name": "total", **{key: n for key, n in sums.items() if any(key in row for row in rows)}}
    columns = {key: heading for key, heading in COLUMNS.items() if any(key in row for row in rows)}
    if format == "csv":
        tables.show([*rows, total], format, columns)
        return
    tables.show([*rows, total], format, columns, names=2 if "kind" in columns else 1)
    print()
    for line in _told(network, shape, sums, kinds, batch_size):
        print(line)
    print(units.CONVENTION)
    for what in uncounted:
        print(f"not counted: {what}, for whose multiply-adds there is no rule")


def _told(
    network: str, shape: tuple[int, ...], sums: Mapping[str, int], kinds: Mapping[str, int], batch_size: int
) -> list[str]:
    of = "" if batch_size == 1 else f", {batch_size} images"
    aux = f", {sums['aux_params']:,} more in auxiliary heads" if sums["aux_params"] else ""
    kinds_ = ", ".join(f"{op} {values:,}" for op, values in kinds.items() if values)
    return [
        f"{network} at {tables.text(shape)}{of}: {sums['params']:,} params{aux}, {sums['buffers']:,} buffers, "
        f"{sums['madds']:,} madds",
        f"activations: {sums['activations']:,} values written: {kinds_}",
        f"  {sums['textbook_activations']:,} of them and the image's by convolutions, poolings and linear layers; "
        f"{sums['conv_activations']:,} by convolutions alone, which is what timm and pycls count",
        f"memory of inference: {units.si(sums['peak_memory'])}B of maps at the worst moment, "
        f"{units.si(sums['cpu_memory'])}B with the weights and the CPU's working copies",
    ]


def _show_memory(
    network: str,
    size: int | None,
    batch_size: int,
    train: Any,
    precision: Any,
    fit: str | None,
    format: tables.Format,
) -> None:
    from backbones import cost as costs
    from backbones.cli.modules import find

    memory = int(units.parse(fit, "B")) if fit else None
    module, shape = find(network, size)
    row: dict[str, Any] = {"network": network, "input_shape": shape, "batch_size": batch_size, "precision": precision}
    try:
        if train:
            told = costs.training_memory(module, shape, batch_size=batch_size, optimizer=train, precision=precision)
            row |= asdict(told)
        else:
            row["peak"] = costs.inference_memory(module, shape, batch_size=batch_size, precision=precision)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(f"{network}: batch norm cannot train on one image; give --batch-size 2 or more") from error
    if memory:
        row["memory"] = memory
        row["largest_batch"] = costs.largest_batch(module, shape, memory, optimizer=train, precision=precision)
    if format == "json":
        print(json.dumps(row, indent=1))
    elif format != "table":
        tables.show([row], format, {key: key.replace("_", " ") for key in row})
    else:
        _tell_memory(row)


def _tell_memory(row: Mapping[str, Any]) -> None:
    what, parts = "inference on the CPU", ""
    if "optimizer" in row:
        kept = {"weights": "weights", row["optimizer"]: "state", "maps": "activations", "gradients": "gradients"}
        what, parts = "training", f" ({', '.join(f'{part} {units.si(row[key])}B' for part, key in kept.items())})"
    print(f"{what}, {row['precision']}, batch {row['batch_size']}: {row['peak']:,} bytes at the worst moment{parts}")
    if "largest_batch" in row:
        print(f"{units.si(row['memory'])}B hold {row['largest_batch']:,} images")


def scale(
    network: Positional[str],
    /,
    width: tuple[float, ...] = (),
    resolution: tuple[int, ...] = (),
    depth: tuple[float, ...] = (),
    groups: tuple[int, ...] = (),
    batch: tuple[int, ...] = (),
    format: tables.Format = "table",
) -> None:
    """Show how a network's cost grows with its width, depth, groups, resolution and batch.

    Args:
        network: as `backbones list` prints it
        width: values of the family's own setting, such as MobileNet's alpha: --width 0.25 0.5 1
        resolution: sides of the image
        depth: values of the family's own setting
        groups: groups of ShuffleNet, cardinality of ResNeXt
        batch: images at once
        format: how to print
    """
    from backbones import scaling

    sweep = scaling.scale(network, width=width, resolution=resolution, depth=depth, groups=groups, batch=batch)
    if format == "json":
        print(json.dumps({"points": sweep.points, "exponents": sweep.exponents}, indent=1))
        return
    tables.show(sweep.points, format, {key: key for key in sweep.points[0]}, names=0)
    if format == "table":
        for what, grows in sweep.exponents.items():
            print(f"with {what}: " + ", ".join(f"{cost} ~ {what}^{e:.2f}" for cost, e in grows.items()))
        print(units.CONVENTION)
