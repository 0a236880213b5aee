"""catalog.json: every network, its paper, what it reports and what we count. Generated; read without torch.

python -m backbones.catalog    writes it, and the README's table
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from backbones.registry import unknown
from backbones.units import si

FILE = Path(__file__).with_name("catalog.json")
TABLE_MARKS = ("<!-- networks: python -m backbones.catalog -->", "<!-- end of networks -->")

COUNTS = ("params", "madds")

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
    for claim in told["reported"]:
        size = (claim["input_size"],) * 2 if claim["input_size"] else own
        printed = [what for what in COUNTS if claim[what] is not None]
        counted = cost.measure_cost(model, (channels, *size)) if printed else None
        claim["counted"] = {what: getattr(counted, what) for what in printed}
    told["published"] = [
        {"weights": w.weights, "top1": w.top1, "top5": w.top5, "input_size": w.preprocessing.size[0]}
        for w in published([name])
        if w.top1 is not None and w.preprocessing
    ]
    sides = {place["input_size"] for key in ("reported", "published") for place in told[key]} - {None, *own}
    own_size = cost.measure_cost(model, variant.input_size)
    told["measured"] = {
        **own_size.asdict(),
        "madds_at": {s: cost.measure_cost(model, (channels, s, s)).madds for s in sorted(sides)},
        "activations_of": {op: row.activations for op, row in own_size.by_kind().items()},
        "stages": [row.asdict() for row in own_size.stages()],
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
