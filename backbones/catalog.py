"""catalog.json: every network, its paper, what it reports and what we count. Generated; read without torch.

python -m backbones.catalog    writes it, and the README's table
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from backbones import protocols
from backbones.registry import unknown
from backbones.units import si

FILE = Path(__file__).with_name("catalog.json")
TABLE_MARKS = ("<!-- networks: python -m backbones.catalog -->", "<!-- end of networks -->")

COUNTS = ("params", "madds")
ACCURACY = {"top1": "top1", "size": "input_size"}
"""columns of a protocol -> what `protocols.accuracies` calls them"""
COMPARED = ("params", "madds", "activations", "peak_memory")

Entry = Mapping[str, Any]


@cache
def load() -> dict[str, Entry]:
    """The committed catalog: name -> what is known of that network."""
    return json.loads(FILE.read_text())


def find(name: str) -> Entry:
    """The entry of a name or alias. LookupError with the nearest names otherwise."""
    entries = load()
    for entry in entries.values():
        if name == entry["name"] or name in entry["aliases"]:
            return entry
    raise LookupError(unknown(name, list(entries)))


def compare(*names: str) -> list[dict[str, Any]]:
    """Networks side by side, one row each; `..._ratio` are against the first.

    Accuracies are those that were printed, under a key for each protocol: `top1 one-crop`, `top1 10-crops`. Those that
    compare with no other are under `other`, in words. They are of the network's own image size, as the costs are; where
    it has none there, its best at another: `size one-crop` is the side of those images.
    """
    if not names:
        raise ValueError("no networks to compare; give their names")
    entries, rows = [find(name) for name in names], list[dict[str, Any]]()
    for entry in entries:
        row: dict[str, Any] = {"network": entry["name"], "year": entry["paper"]["year"]}
        row["input_size"] = entry["input_size"]
        for key in COMPARED:
            value, first = entry["measured"][key], entries[0]["measured"][key]
            row |= {key: value, f"{key}_ratio": value / first}
        for protocol in protocols.PROTOCOLS:
            if any(protocols.accuracies(e, protocol) for e in entries):
                known, own = protocols.accuracies(entry, protocol), entry["input_size"][1]
                found = min(known, key=lambda k: k["input_size"] != own, default=None)
                row |= {f"{what} {protocol}": found and found[key] for what, key in ACCURACY.items()}
        alone = (c for c in entry["reported"] if c["top1"] is not None and protocols.protocol_of(c) is None)
        row["other"] = "; ".join(f"{c['top1']:.2f} % on {c['data']}, {c['protocol']}" for c in alone)
        rows.append(row)
    return rows


def build() -> dict[str, Entry]:
    """The catalog, counted anew from the networks themselves."""
    from backbones import factory

    return {name: describe(name) for name in factory.list_models()}


def describe(name: str) -> Entry:
    """The entry of one network, counted anew."""
    import torch

    from backbones import cost, factory, models
    from backbones.weights.published import published

    variant = factory.model_info(name)
    channels, *own = variant.input_size
    with torch.device("meta"):
        model = factory.create_model(name).eval()
        maps = model.features(torch.empty(1, *variant.input_size))
    told = asdict(variant)
    del told["build"]
    told["family"] = models.load()[variant.paper]

    @cache
    def at(side: int) -> cost.Cost:
        own_shape = (channels, side, side) if side else variant.input_size
        return cost.measure_cost(model, own_shape)

    for claim in told["reported"]:
        printed = [what for what in COUNTS if claim[what] is not None]
        claim["counted"] = {what: getattr(at(claim["input_size"] or 0), what) for what in printed}
    weights = published([name])
    told["weights"] = [w.weights for w in weights]
    told["published"] = [
        {"weights": w.weights, "top1": w.top1, "top5": w.top5, "input_size": w.preprocessing.size[0]}
        for w in weights
        if w.top1 is not None and w.preprocessing
    ]
    sides = {place["input_size"] for key in ("reported", "published") for place in told[key]} - {None, *own}
    told["measured"] = {
        **at(0).asdict(),
        "madds_at": {s: at(s).madds for s in sorted(sides)},
        "activations_of": {op: row.activations for op, row in at(0).by_kind().items()},
        "stages": [row.asdict() for row in at(0).stages()],
        "num_features": model.num_features,
        "min_size": model.min_size,
        "maps": [m.shape[-1] for m in maps[-len(model.stages) :]],
        "features": [feature._asdict() for feature in model.feature_info],
    }
    return json.loads(json.dumps(told))


class Score(NamedTuple):
    """One number that a paper prints of a network, beside ours."""

    network: str
    what: str
    printed: float
    counted: int
    source: str
    gap: str
    """why they differ by more than 2 %, where they do"""

    @property
    def difference(self) -> float:
        """In percent of the printed number."""
        return 100 * (self.counted / self.printed - 1)

    @property
    def verdict(self) -> str:
        if self.counted == self.printed:
            return "equal"
        return "within 2 %" if abs(self.difference) <= 2 and isinstance(self.printed, float) else "differs"


def scores(entries: Iterable[Entry]) -> list[Score]:
    """Every count that a paper prints, in the order of the networks."""
    found = (
        Score(entry["name"], what, claim[what], counted, where(claim), claim["gap"])
        for entry in entries
        for claim in entry["reported"]
        for what, counted in claim["counted"].items()
    )
    return list(dict.fromkeys(found))  # one number may stand beside several errors


def where(claim: Mapping[str, Any]) -> str:
    """The table or section of a claim, with the image's side where it is not the network's own."""
    return f"{claim['source']}, at {claim['input_size']}" if claim["input_size"] else claim["source"]


def table() -> str:
    """The README's table of networks, in Markdown: one line per family, in the order of the papers."""
    lines = ["| paper | year | networks | parameters |", "|---|---|---|---|"]
    families: dict[str, list[Entry]] = {}
    for entry in load().values():
        families.setdefault(entry["family"], []).append(entry)
    for entries in families.values():
        paper, sizes = entries[0]["paper"], sorted(e["measured"]["params"] for e in entries)
        names = ", ".join(f"`{e['name']}`" for e in entries)
        smallest, largest = si(sizes[0]), si(sizes[-1])
        span = smallest if smallest == largest else f"{smallest} to {largest}"
        lines.append(f"| {paper['title']} | {paper['year']} | {names} | {span} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README with its table made anew between the marks."""
    start, end = TABLE_MARKS
    before, _, rest = readme.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table()}\n{end}{after}"


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
    load.cache_clear()
    readme = FILE.parents[1] / "README.md"
    if readme.exists():
        readme.write_text(with_table(readme.read_text()))
    print(f"{len(load())} networks written to {FILE}")
