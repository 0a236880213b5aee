"""Random budgets: does what `select` recommends keep them when it is measured again?

XDG_CACHE_HOME=$(mktemp -d) python benchmarks/budgets.py [--budgets 50] [--seed 0]    starts knowing nothing
"""

import argparse
import random
import time
from typing import Any

from backbones import select
from backbones.choose import Latency, measure


def draw(generator: random.Random) -> dict[str, Any]:
    """A latency, and with even chances each other constraint."""
    budget: dict[str, Any] = {"max_latency": 10 ** generator.uniform(0.9, 2.3), "threads": generator.choice([1, 2])}
    spans = {"max_params": (6.3, 8.2), "max_madds": (8.3, 10.4), "max_memory": (7.3, 9.0)}
    for what, (low, high) in spans.items():
        if generator.random() < 0.5:
            budget[what] = 10 ** generator.uniform(low, high)
    if generator.random() < 0.3:
        budget["weights_available"] = True
    return budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = random.Random(args.seed)
    answered: list[tuple[dict[str, Any], Any]] = []
    while len(answered) < args.budgets:
        budget, start = draw(generator), time.perf_counter()
        try:
            answered.append((budget, select(**budget).recommended))
        except LookupError as error:  # nothing fits, and it says so
            print(f"{budget}: {error}", flush=True)
            continue
        print(f"{len(answered)} {answered[-1][1].network} {time.perf_counter() - start:.1f} s", flush=True)
    again: dict[tuple[int, str], Latency] = {}
    for threads in (1, 2):
        names = sorted({best.network for budget, best in answered if budget["threads"] == threads})
        for name, one in measure(names, threads=threads, fresh=True).items():
            if isinstance(one, Latency):
                again[threads, name] = one
    print("\n| budget | recommended | p90 then | p50 again | p90 again | kept |\n|---|---|---:|---:|---:|---|")
    kept = 0
    for budget, best in answered:
        one = again[budget["threads"], best.network]
        counts = [("max_params", best.params), ("max_madds", best.madds), ("max_memory", best.memory)]
        fits = one.p90 <= budget["max_latency"] and all(f.value <= budget.get(what, f.value) for what, f in counts)
        kept += fits
        shown = ", ".join(f"{what} {value:.3g}" for what, value in budget.items())
        beware = f" ({'; '.join(one.flags)})" if one.flags else ""
        print(
            f"| {shown} | {best.network} | {best.latency.value:.3g} | {one.p50:.3g} | {one.p90:.3g}{beware} | {fits} |"
        )
    print(f"\n{kept} of {len(answered)} kept")


if __name__ == "__main__":
    main()
