"""Costs and latencies of candidates under one way of running. No torch here but where something is counted anew."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, sqrt
from typing import Any, TypeVar

from backbones import catalog, machine
from backbones.choose.cache import Cache
from backbones.choose.latency import MOST_DRIFT, Failure, Latency, Setting
from backbones.choose.measuring import measure
from backbones.choose.prediction import SECONDS, predict
from backbones.choose.process import KEEP_MEMORY
from backbones.choose.selection import Candidate, Figure, Limit, Miss, Sort, key

T = TypeVar("T")

RUNS = 30
"""of each network, at least"""
ANCHORS, UP_TO = 5, 0.8
"""networks measured before any prediction is believed, and which share of the ranks by cost they span: the dearest
would take minutes"""
AGAIN = timedelta(minutes=10)
"""after which something said against a measurement is worth another one"""
TOGETHER = 2
"""networks measured at a time until the best is known"""
MISSES, STEP, SMALLEST = 5, 32, 96
"""near misses that are told; steps and least side of the smaller images that would fit"""


class Timed:
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
    return Figure(
        latency.p90,
        "measured here",
        latency.p50,
        latency.p90 * (1 + MOST_DRIFT),
        "; ".join(latency.flags),
        latency.measured_at,
    )


def anchors(by_cost: Sequence[T]) -> list[T]:
    """From the cheapest to one that is not among the dearest, evenly by rank."""
    wanted = min(ANCHORS, len(by_cost))
    places = [round(i * (len(by_cost) - 1) / max(wanted - 1, 1) * UP_TO) for i in range(wanted)]
    return [by_cost[place] for place in dict.fromkeys(places)]


def _age(latency: Latency) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(latency.measured_at)
