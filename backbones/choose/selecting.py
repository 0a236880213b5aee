"""Which network to take within a budget, on this machine. No torch here but where something is to be counted anew."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, sqrt
from typing import Any, TypeVar, get_args

from backbones import catalog, protocols, units
from backbones.choose import machine
from backbones.choose.cache import Cache
from backbones.choose.latency import MOST_DRIFT, Failure, Latency, Setting
from backbones.choose.measuring import measure
from backbones.choose.prediction import SECONDS, predict
from backbones.choose.process import KEEP_MEMORY
from backbones.choose.selection import Candidate, Figure, Limit, Miss, Selection, Sort, front, key
from backbones.records import PROMISES

T = TypeVar("T")

CLASSES = 1000
"""ImageNet-1k's: accuracies on other data compare with none of these"""
RUNS = 30
ANCHORS = 5
"""networks measured before any prediction is believed"""
AGAIN = timedelta(minutes=10)
"""after which something said against a measurement is worth another one"""
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
    for word, value in (("batch_size", batch_size), ("threads", 1 if threads is None else threads)):
        if value < 1:
            raise ValueError(f"{word}={value}; give a whole number, 1 or more")
    protocol = protocol or ("publisher" if weights_available else "one-crop")
    most = {"params": max_params, "madds": max_madds, "memory": max_memory, "latency": max_latency}
    limits = [Limit(what, value, SHOWN[what]) for what, value in most.items() if value is not None]
    if wrong := [limit for limit in limits if not limit.most > 0]:
        raise ValueError(f"max_{wrong[0].what}={wrong[0].most}; give more than zero")
    timed = _Timed(batch_size, threads, device)
    asked = [
        entry
        for entry in catalog.load().values()
        if entry["num_classes"] == CLASSES
        and (min_year is None or entry["paper"]["year"] >= min_year)
        and not promises & entry["cannot"].keys()
        and (not weights_available or entry["weights"])
    ]
    candidates = timed.counted([_candidate(entry, protocol) for entry in asked])
    silent = tuple(c.network for c in candidates if not c.top1) if sort == "top1" else ()
    candidates = [c for c in candidates if c.network not in silent]
    if not candidates:
        raise LookupError("no network has all that is asked for, whatever it costs; ask for less")
    quick = [limit for limit in limits if limit.what != "latency"]
    if max_latency is not None or sort == "latency":
        within = [c for c in candidates if sum(limit.excess(c) > 1 for limit in quick) <= 1]
        candidates = timed.until_known(within or candidates, limits, sort)
    fits = sorted((c for c in candidates if all(limit.excess(c) <= 1 for limit in limits)), key=key(sort))
    missed = [c for c in candidates if not fits or key(sort)(c) < key(sort)(fits[0])]
    misses = tuple(timed.misses(missed, limits, alone=bool(fits)))
    if not fits:
        failed = "".join(f"; not measured: {reason}" for reason in timed.failed.values())
        raise LookupError(f"no network fits; the nearest: {'. '.join(map(str, misses))}{failed}")
    cost = "latency" if max_latency is not None or sort == "latency" else "madds"
    return Selection(
        tuple(fits),
        front(fits, cost),
        fits[0],
        _reason(fits, limits, sort),
        misses,
        _told(protocol),
        silent,
        tuple(timed.failed.values()),
        timed.told() if cost == "latency" else "",
    )


def _told(protocol: str) -> str:
    return f"{protocol}: {protocols.PROTOCOLS[protocol]}"


def _candidate(entry: catalog.Entry, protocol: str) -> Candidate:
    """At the network's own size; what depends on the batch is filled in later."""
    measured, size = entry["measured"], entry["input_size"][1]
    stated = [found for found in protocols.accuracies(entry, protocol) if found["input_size"] == size]
    stated.sort(key=lambda found: found["tag"] != "paper")  # the paper before later releases, of each the best
    return Candidate(
        entry["name"],
        size,
        entry["paper"]["year"],
        params=Figure(measured["params"], "analytic"),
        madds=Figure(measured["madds"], "analytic"),
        memory=Figure(measured["cpu_memory"], "analytic"),
        top1=Figure(stated[0]["top1"], stated[0]["tag"], source=stated[0]["source"]) if stated else None,
    )


class _Timed:
    """Costs and latencies of one way of running: measured where they are known, predicted elsewhere."""

    def __init__(self, batch_size: int, threads: int | None, device: str) -> None:
        self._how: dict[str, Any] = {"batch_size": batch_size, "threads": threads or machine.cores(), "device": device}
        self._cache = Cache(machine.this(device), machine.versions())
        self._seconds = SECONDS
        self.failed: dict[str, str] = {}
        """network -> that it could not be measured, and why"""

    def told(self) -> str:
        """What the latencies hold for."""
        how = f"batch {self._how['batch_size']}, {self._how['threads']} threads, {self._how['device']}, float32, eager"
        memory = " ".join(f"{name}={value}" for name, value in KEEP_MEMORY.items())
        return f"latency: p90, {how}, in a process that keeps freed memory ({memory})"

    def counted(self, candidates: list[Candidate]) -> list[Candidate]:
        """With the memory of the batch, where that is more than one image."""
        if self._how["batch_size"] == 1:
            return candidates
        costs = self._costs([self._setting(c) for c in candidates])
        return [replace(c, memory=Figure(costs[self._setting(c)]["memory"], "analytic")) for c in candidates]

    def _costs(self, settings: list[Setting]) -> dict[Setting, dict[str, int]]:
        """Multiply-adds and memory of one batch, counted once and kept."""
        costs = self._cache.counted("costs", settings)
        if missing := [s for s in settings if s not in costs]:
            from backbones.build import build_on_meta
            from backbones.cost import measure_cost
            from backbones.factory import model_info

            for s in missing:
                variant = model_info(s.network)
                shape = (variant.input_size[0], s.img_size, s.img_size)
                cost = measure_cost(build_on_meta(variant, {}), shape, s.batch_size)
                costs[s] = {"madds": cost.madds, "memory": cost.cpu_memory}
            self._cache.keep_counted("costs", {s: costs[s] for s in missing})
        return costs

    def until_known(self, candidates: list[Candidate], limits: list[Limit], sort: Sort) -> list[Candidate]:
        """The candidates with their latencies; the best that fits has been measured."""
        self._anchor(candidates)
        while True:
            candidates = self._with_latencies([c for c in candidates if c.network not in self.failed])
            could = sorted((c for c in candidates if all(limit.excess(c) <= 1 for limit in limits)), key=key(sort))
            if not could or (_measured(could[0]) and not self._doubtful(could[0])):
                return candidates
            if _measured(could[0]):
                self._measure([could[0].network], fresh=True)
                continue
            until = next((i for i, c in enumerate(could) if _measured(c)), len(could))
            self._measure(c.network for c in could[: min(until, TOGETHER)])

    def _doubtful(self, candidate: Candidate) -> bool:
        """Whether something is said against its measurement, and it was taken a while ago."""
        known = self._cache.read([self._setting(candidate)], RUNS).get(self._setting(candidate))
        return known is not None and bool(known.flags) and _age(known) > AGAIN

    def _anchor(self, candidates: list[Candidate]) -> None:
        """A few measured ones, from the fastest to the slowest, show how far sums of operators are off."""
        known = self._cache.read([self._setting(c) for c in candidates], RUNS)
        wanted = min(ANCHORS, len(candidates))
        if sum(not latency.flags for latency in known.values()) < wanted:
            chosen = anchors(sorted(candidates, key=lambda c: c.madds.value))
            self._measure(c.network for c in chosen if self._setting(c) not in known)
            self._measure((c.network for c in chosen if self._doubtful(c)), fresh=True)

    def _measure(self, names: Iterable[str], fresh: bool = False) -> None:
        for name, result in measure(names, **self._how, runs=RUNS, fresh=fresh).items():
            if isinstance(result, Failure):
                self.failed[name] = f"{name}: {result.reason}"

    def _with_latencies(self, candidates: list[Candidate]) -> list[Candidate]:
        settings = {c.network: self._setting(c) for c in candidates}
        known = self._cache.read(settings.values(), RUNS)
        quiet = {s: latency.p90 for s, latency in known.items() if not latency.flags}
        unknown = [s for s in settings.values() if s not in known]
        predicted = predict(unknown, self._cache, quiet or {s: one.p90 for s, one in known.items()}, self._seconds)
        self._seconds = 0.0  # what there was no time for now is not tried again in this question
        told = {s.network: _measured_figure(latency) for s, latency in known.items()}
        for s, p in predicted.items():
            told[s.network] = Figure(p.ms, "predicted", p.low, p.high, f"{p.probed:.0%} of it timed call by call")
        return [replace(c, latency=told[c.network]) for c in candidates if c.network in told]

    def misses(self, better: list[Candidate], limits: list[Limit], alone: bool) -> Iterable[Miss]:
        """Those that one limit alone keeps out, the nearest first; where nothing fits, the nearest of all."""
        out = [(c, sorted((o for o in limits if o.excess(c) > 1), key=lambda o: -o.excess(c))) for c in better]
        near = [(c, over[0]) for c, over in out if over and (len(over) == 1 or not alone)]
        for candidate, limit in sorted(near, key=lambda pair: pair[1].excess(pair[0]))[:MISSES]:
            yield Miss(candidate, limit, self._remedy(candidate, limit))

    def _remedy(self, candidate: Candidate, limit: Limit) -> str:
        """What would make it fit: the largest smaller image, by count, or for latency by the multiply-adds."""
        latency = candidate.latency
        if limit.what == "params":
            return ""
        if limit.what == "latency" and latency and latency.tag == "measured here" and latency.value <= limit.most:
            return f"closer than the {MOST_DRIFT:.0%} that the machine may drift unseen"
        if limit.what == "latency" and latency and latency.tag == "predicted" and (latency.low or inf) <= limit.most:
            return f"it might fit: from {latency.low:.3g} ms; `backbones bench` would tell"
        what = "memory" if limit.what == "memory" else "madds"
        own: Figure = getattr(candidate, what)
        least = max(catalog.load()[candidate.network]["measured"]["min_size"], SMALLEST)
        start = int(candidate.img_size / sqrt(limit.excess(candidate)) / STEP + 1) * STEP  # nearly as the area grows
        batch = self._how["batch_size"]
        for size in range(start, least - 1, -STEP):
            setting = replace(self._setting(candidate), img_size=size)
            smaller = self._costs([setting])[setting][what] / (1 if what == "memory" else batch)
            if limit.excess(candidate) * smaller / own.value <= 1 and size < candidate.img_size:
                sure = "might fit" if limit.what == "latency" else "would fit"
                return f"{sure} at {size} px, where nobody states its accuracy"
        return ""

    def _setting(self, candidate: Candidate) -> Setting:
        return Setting(candidate.network, candidate.img_size, **self._how)


def _measured(candidate: Candidate) -> bool:
    return candidate.latency is not None and candidate.latency.tag == "measured here"


def _measured_figure(latency: Latency) -> Figure:
    return Figure(latency.p90, "measured here", latency.p50, latency.p90 * (1 + MOST_DRIFT), "; ".join(latency.flags))


def anchors(by_cost: Sequence[T]) -> list[T]:
    """From the cheapest to one that is not among the dearest, evenly by rank."""
    wanted = min(ANCHORS, len(by_cost))
    places = [round(i * (len(by_cost) - 1) / max(wanted - 1, 1) * 0.8) for i in range(wanted)]
    return [by_cost[place] for place in dict.fromkeys(places)]


def _age(latency: Latency) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(latency.measured_at)


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
    if best.latency and best.latency.tag == "measured here" and best.latency.source:
        said.append(f"beware: {best.latency.source}")
    if len(fits) > 1:
        said.append(f"next is {fits[1].network}")
    return "; ".join(said)
