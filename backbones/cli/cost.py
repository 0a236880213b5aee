"""backbones cost, scale: what a network costs, and how its cost grows."""

from collections.abc import Mapping
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
        network: as `backbones list` prints it; or torchvision:NAME, timm:NAME, FILE.py:FUNCTION that returns a module
        size: side of the image in pixels; the network's own by default
        per: one row per operator, layer or stage
        format: how to print; csv and json have every column
        batch_size: images at once
        train: memory of training with this optimiser
        precision: of weights and maps; amp keeps float32 weights and computes in bfloat16
        fit: how many images fit into so much memory, such as 16GB, in inference, or with --train in training
    """
    uncounted: tuple[str, ...] = ()
    known = network in catalog.load() and size is None and per == "stage" and batch_size == 1
    if known and not (train or fit) and precision == "float32":
        measured = catalog.find(network)["measured"]
        shape, rows = tuple(catalog.find(network)["input_size"]), measured["stages"]
        sums, kinds = measured, measured["activations_of"]
    else:
        from backbones import cost as costs
        from backbones.cli.modules import find

        module, shape = find(network, size)
        if train or fit:
            _print_memory(module, shape, batch_size, train, precision, units.parse(fit, "B") if fit else None)
            return
        counted = costs.measure_cost(module, shape, batch_size)
        rows, sums = [row.asdict() for row in counted.rows(per)], counted.asdict()
        kinds = {op: row.activations for op, row in counted.by_kind().items()}
        uncounted = counted.uncounted
    total = {"name": "total", **{key: sums[key] for key in COLUMNS if key in sums}}
    columns = {key: heading for key, heading in COLUMNS.items() if any(key in row for row in rows)}
    if format in ("csv", "json"):
        tables.show([*rows, total], format, columns)
        return
    tables.show([*rows, total], format, columns, names=2 if "kind" in columns else 1)
    print()
    for line in _told(network, shape, sums, kinds, batch_size):
        print(line)
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
        f"{sums['madds']:,} madds (multiply-adds of convolutions and matrix products; FLOPs are twice that)",
        f"activations: {sums['activations']:,} values written: {kinds_}",
        f"  {sums['textbook_activations']:,} of them and the image's by convolutions, poolings and linear layers; "
        f"{sums['conv_activations']:,} by convolutions alone, which is what timm and pycls count",
        f"memory of inference: {units.si(sums['peak_memory'])}B of maps at the worst moment, "
        f"{units.si(sums['cpu_memory'])}B with the weights and the CPU's working copies",
    ]


def _print_memory(
    module: Any, shape: tuple[int, ...], batch_size: int, train: Any, precision: Any, fit: float | None
) -> None:
    from backbones import cost as costs

    if train:
        told = costs.training_memory(module, shape, batch_size=batch_size, optimizer=train, precision=precision)
        kept = {"weights": told.weights, train: told.state, "maps": told.activations, "gradients": told.gradients}
        parts = ", ".join(f"{part} {units.si(value)}B" for part, value in kept.items())
        print(f"training, {precision}, batch {batch_size}: {told.peak:,} bytes at the worst moment ({parts})")
    else:
        bytes_ = costs.inference_memory(module, shape, batch_size=batch_size, precision=precision)
        print(f"inference on the CPU, {precision}, batch {batch_size}: {bytes_:,} bytes at the worst moment")
    if fit:
        largest = costs.largest_batch(module, shape, int(fit), optimizer=train, precision=precision)
        print(f"{units.si(fit)}B hold {largest:,} images")


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
    tables.show(sweep.points, format, {key: key for key in sweep.points[0]}, names=0)
    if format == "table":
        for what, grows in sweep.exponents.items():
            print(f"with {what}: " + ", ".join(f"{cost} ~ {what}^{e:.2f}" for cost, e in grows.items()))
