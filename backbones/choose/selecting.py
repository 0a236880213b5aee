"""Which network to take within a budget, on this machine. No torch here but where something is to be counted anew."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from math import inf, sqrt
from typing import Any, get_args

from backbones import catalog, protocols, units
from backbones.choose import machine
from backbones.choose.cache import Cache
from backbones.choose.latency import MOST_DRIFT, Failure, Latency, Setting
from backbones.choose.measuring import measure
from backbones.choose.prediction import predict
from backbones.choose.selection import Candidate, Figure, Limit, Miss, Selection, Sort, front, key
from backbones.records import PROMISES

CLASSES = 1000
"""ImageNet-1k's: accuracies on other data compare with none of these"""
ANCHORS = 5
"""networks measured before any prediction is believed"""
TOGETHER = 2
"""networks measured at a time until the best is known"""
MISSES, STEP, SMALLEST = 5, 32, 96
SHOWN: Mapping[str, Any] = {
    "params": units.si,
    "madds": units.si,
    "memory": lambda value: f"{units.si(value)}B",
    "latency": lambda value: f"{value:.3g} ms",
}


def select(
    *,
    max_params: float | None = None,
    max_madds: float | None = None,
    max_latency: float | None = None,
    max_memory: float | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    min_year: int | None = None,
    can: str | Iterable[str] = (),
    weights_available: bool = False,
    protocol: str | None = None,
    sort: Sort = "top1",
) -> Selection:
    """The ImageNet networks that fit a budget, which of them no other beats, and the one to take.

    Costs are of each network's own image size, where its accuracy is stated. Whatever is recommended for its latency
    has been measured on this machine; the others' is measured or predicted, as each figure says.

    Args:
        max_params: trained values
        max_madds: multiply-adds of one image
        max_latency: milliseconds of one batch that nine of ten runs may take
        max_memory: bytes of weights, maps and working copies in inference on the CPU
        batch_size: images at a time, for latency and memory
        threads: of computation, for latency; as many as the cores that this process may use by default
        device: where latency is measured
        min_year: of the paper
        can: promises that the network must keep, as `list_models(can=...)` knows them
        weights_available: only networks that somebody publishes weights for
        protocol: how the accuracies were taken, one of `backbones.protocols.PROTOCOLS`; by default "publisher" with
            `weights_available`, else "one-crop"
        sort: what the best is best in

    Raises:
        ValueError: a value that is not allowed
        LookupError: nothing fits; the message names the nearest misses
    """
    if sort not in get_args(Sort):
        raise ValueError(f"sort={sort!r}; give one of {', '.join(get_args(Sort))}")
    promises = {can} if isinstance(can, str) else set(can)
    if unknown := promises - PROMISES.keys():
        raise ValueError(f"no promise is called {sorted(unknown)}; the promises are {sorted(PROMISES)}")
    protocol = protocol or ("publisher" if weights_available else "one-crop")
    most = {"params": max_params, "madds": max_madds, "memory": max_memory, "latency": max_latency}
    limits = [Limit(what, value, SHOWN[what]) for what, value in most.items() if value is not None]
    if wrong := [limit for limit in limits if not limit.most > 0]:
        raise ValueError(f"max_{wrong[0].what}={wrong[0].most}; give more than zero")
    candidates = [
        _candidate(entry, protocol, batch_size, max_memory is not None)
        for entry in catalog.load().values()
        if entry["num_classes"] == CLASSES
        and (min_year is None or entry["paper"]["year"] >= min_year)
        and not promises & entry["cannot"].keys()
        and (not weights_available or entry["weights"])
    ]
    if sort == "top1":
        candidates = [c for c in candidates if c.top1]
    if not candidates:
        raise LookupError("no network has all that is asked for, whatever it costs; ask for less")
    quick = [limit for limit in limits if limit.what != "latency"]
    if max_latency is not None or sort == "latency":
        within = [c for c in candidates if sum(limit.excess(c) > 1 for limit in quick) <= 1]
        timed = _Timed(batch_size, threads, device)
        candidates = timed.until_known(within, limits, sort)
    fits = sorted((c for c in candidates if all(limit.excess(c) <= 1 for limit in limits)), key=key(sort))
    if not fits:
        nearest = sorted(candidates, key=lambda c: max(limit.excess(c) for limit in limits))[:3]
        told = (str(Miss(c, max(limits, key=lambda limit: limit.excess(c)), "")) for c in nearest)
        raise LookupError(f"no network fits; the nearest: {'. '.join(told)}")
    best = fits[0]
    missed = [c for c in candidates if key(sort)(c) < key(sort)(best)]
    misses = tuple(_misses(missed, limits)) if sort == "top1" else ()
    cost = "latency" if max_latency is not None or sort == "latency" else "madds"
    on_front = front(fits, cost)
    return Selection(tuple(fits), on_front, best, _reason(fits, limits, sort), misses, _told(protocol))


def _told(protocol: str) -> str:
    return f"{protocol}: {protocols.PROTOCOLS[protocol]}"


def _candidate(entry: catalog.Entry, protocol: str, batch_size: int, exact: bool) -> Candidate:
    measured, size = entry["measured"], entry["input_size"][1]
    stated = [found for found in protocols.accuracies(entry, protocol) if found["input_size"] == size]
    top1 = Figure(stated[0]["top1"], stated[0]["tag"], source=stated[0]["source"]) if stated else None
    memory = measured["cpu_memory"] if batch_size == 1 or not exact else _memory(entry["name"], size, batch_size)
    return Candidate(
        entry["name"],
        size,
        entry["paper"]["year"],
        params=Figure(measured["params"], "analytic"),
        madds=Figure(measured["madds"], "analytic"),
        memory=Figure(memory, "analytic"),
        top1=top1,
    )


def _memory(name: str, size: int, batch_size: int) -> int:
    from backbones.build import build_on_meta
    from backbones.cost import inference_memory
    from backbones.factory import model_info

    variant = model_info(name)
    shape = (variant.input_size[0], size, size)
    return inference_memory(build_on_meta(variant, {}), shape, batch_size=batch_size)


class _Timed:
    """Latencies of one way of running: measured where they are known, predicted elsewhere."""

    def __init__(self, batch_size: int, threads: int | None, device: str) -> None:
        self._how: dict[str, Any] = {"batch_size": batch_size, "threads": threads or machine.cores(), "device": device}
        self._cache = Cache(machine.this(device), machine.versions())
        self._failed, self._repeated = set[str](), set[str]()

    def until_known(self, candidates: list[Candidate], limits: list[Limit], sort: Sort) -> list[Candidate]:
        """The candidates with their latencies; the best that fits has been measured."""
        self._anchor(candidates)
        while True:
            candidates = self._with_latencies([c for c in candidates if c.network not in self._failed])
            could = sorted((c for c in candidates if all(limit.excess(c) <= 1 for limit in limits)), key=key(sort))
            if not could or (_measured(could[0]) and not self._doubtful(could[0])):
                return candidates
            if _measured(could[0]):
                self._measure([could[0].network], fresh=True)
                self._repeated.add(could[0].network)
                continue
            until = next((i for i, c in enumerate(could) if _measured(c)), len(could))
            self._measure(c.network for c in could[: min(until, TOGETHER)])

    def _doubtful(self, candidate: Candidate) -> bool:
        """Whether something is said against its measurement, and it was not yet repeated."""
        return bool(candidate.latency and candidate.latency.source) and candidate.network not in self._repeated

    def _anchor(self, candidates: list[Candidate]) -> None:
        """A few measured ones, from the fastest to the slowest, show how far sums of operators are off."""
        known = self._cache.read([self._setting(c) for c in candidates], 1)
        wanted = min(ANCHORS, len(candidates))
        if len(known) < wanted:
            by_cost = sorted(candidates, key=lambda c: c.madds.value)
            places = [round(i * (len(by_cost) - 1) / max(wanted - 1, 1) * 0.8) for i in range(wanted)]
            self._measure(by_cost[place].network for place in places)

    def _measure(self, names: Iterable[str], fresh: bool = False) -> None:
        for name, result in measure(names, **self._how, fresh=fresh).items():
            if isinstance(result, Failure):
                self._failed.add(name)

    def _with_latencies(self, candidates: list[Candidate]) -> list[Candidate]:
        settings = {c.network: self._setting(c) for c in candidates}
        known = self._cache.read(settings.values(), 1)
        unknown = [s for s in settings.values() if s not in known]
        predicted = predict(unknown, self._cache, known.values())
        told = {s.network: _measured_figure(latency) for s, latency in known.items()}
        for s, p in predicted.items():
            told[s.network] = Figure(p.ms, "predicted", p.low, p.high, f"{p.probed:.0%} of it timed call by call")
        return [replace(c, latency=told[c.network]) for c in candidates]

    def _setting(self, candidate: Candidate) -> Setting:
        return Setting(candidate.network, candidate.img_size, **self._how)


def _measured(candidate: Candidate) -> bool:
    return candidate.latency is not None and candidate.latency.tag == "measured here"


def _measured_figure(latency: Latency) -> Figure:
    return Figure(latency.p90, "measured here", latency.p50, latency.p90 * (1 + MOST_DRIFT), "; ".join(latency.flags))


def _misses(better: list[Candidate], limits: list[Limit]) -> Iterable[Miss]:
    """Those that one limit alone keeps out, the nearest first."""
    out = [(c, [limit for limit in limits if limit.excess(c) > 1]) for c in better]
    alone = sorted(((c, over[0]) for c, over in out if len(over) == 1), key=lambda pair: pair[1].excess(pair[0]))
    for candidate, limit in alone[:MISSES]:
        yield Miss(candidate, limit, _remedy(candidate, limit))


def _remedy(candidate: Candidate, limit: Limit) -> str:
    """The largest smaller image at which it would fit: counted for multiply-adds, by the multiply-adds for latency."""
    if limit.what not in ("madds", "latency"):
        return ""
    latency = candidate.latency
    if limit.what == "latency" and latency and latency.tag == "measured here" and latency.value <= limit.most:
        return f"closer than the {MOST_DRIFT:.0%} that the machine may drift unseen"
    if limit.what == "latency" and latency and latency.tag == "predicted" and (latency.low or inf) <= limit.most:
        return f"it might fit: from {latency.low:.3g} ms; `backbones bench` would tell"
    least = max(catalog.load()[candidate.network]["measured"]["min_size"], SMALLEST)
    start = int(candidate.img_size / sqrt(limit.excess(candidate)) / STEP + 1) * STEP  # cost is nearly that of the area
    for size in range(start, least - 1, -STEP):
        share = _madds(candidate.network, size) / candidate.madds.value
        if limit.excess(candidate) * share <= 1 and size < candidate.img_size:
            sure = "would fit" if limit.what == "madds" else "might fit"
            return f"{sure} at {size} px, where nobody states its accuracy"
    return ""


@cache
def _madds(name: str, size: int) -> int:
    from backbones.build import build_on_meta
    from backbones.cost import measure_cost
    from backbones.factory import model_info

    variant = model_info(name)
    return measure_cost(build_on_meta(variant, {}), (variant.input_size[0], size, size)).madds


def _reason(fits: list[Candidate], limits: list[Limit], sort: Sort) -> str:
    """What it is best in, what it uses of the budget, and who comes next."""
    best = fits[0]
    figure: Figure = getattr(best, sort)
    words = {"top1": "the most accurate", "latency": "the fastest", "memory": "the one that takes least memory"}
    shown = f"{figure.value:.2f} %" if sort == "top1" else SHOWN[sort](figure.value)
    said = [f"{words.get(sort, f'the one with fewest {sort}')} of {len(fits)} that fit: {shown} ({figure.tag})"]
    for limit in limits:
        used: Figure = getattr(best, limit.what)
        said.append(f"{limit.what} {limit.shown(used.value)} of {limit.shown(limit.most)} ({used.tag})")
        if used.source and used.tag == "measured here":
            said.append(f"beware: {used.source}")
    if len(fits) > 1:
        said.append(f"next is {fits[1].network}")
    return "; ".join(said)
