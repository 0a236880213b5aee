"""Which network to take within a budget, on this machine. No torch here."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from backbones import catalog, protocols, units
from backbones.choose.selection import Candidate, Figure, Limit, Selection, Sort, front, key
from backbones.choose.timed import Timed
from backbones.records import PROMISES

CLASSES = 1000
"""ImageNet-1k's: accuracies on other data compare with none of these"""
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
    timed = Timed(batch_size, threads, device)
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


def _reason(fits: list[Candidate], limits: list[Limit], sort: Sort) -> str:
    """What it is best in, what it uses of the budget, and who comes next."""
    best = fits[0]
    figure: Figure = getattr(best, sort)
    words = {"top1": "the most accurate", "latency": "the fastest", "memory": "the one that takes least memory"}
    shown = f"{figure.value:.2f} %" if sort == "top1" else SHOWN[sort](figure.value)
    said = [f"{words.get(sort, f'the one with fewest {sort}')} of {len(fits)} that fit: {shown} ({figure.tag})"]
    for limit in limits:
        used: Figure = getattr(best, limit.what)
        when = f" at {used.at}" if used.at else ""
        said.append(f"{limit.what} {limit.shown(used.value)} of {limit.shown(limit.most)} ({used.tag}{when})")
    if best.latency and best.latency.tag == "measured here" and best.latency.source:
        said.append(f"beware: {best.latency.source}")
    if len(fits) > 1:
        said.append(f"next is {fits[1].network}")
    return "; ".join(said)
