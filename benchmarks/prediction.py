"""Latency predicted from operators against latency measured: every ImageNet network at 224 pixels, batch 1.

python benchmarks/prediction.py [--threads 1 2]    prints the tables of RESULTS.md; what was measured is not again
"""

import argparse
from math import exp, log
from statistics import median

from backbones import catalog
from backbones.choose import Latency, machine, measure
from backbones.choose.cache import Cache
from backbones.choose.latency import Setting, percentile
from backbones.choose.prediction import Prediction, predict
from backbones.choose.selecting import CLASSES
from backbones.choose.timed import anchors

SIZE = 224


def networks() -> list[str]:
    """Those that read images of that size, in the order of their papers."""
    entries = catalog.load().values()
    return [e["name"] for e in entries if e["num_classes"] == CLASSES and e["measured"]["min_size"] <= SIZE]


def errors(pairs: list[tuple[float, float]]) -> str:
    """Of predicted and measured: the median error, and how many are within 25 %."""
    off = [abs(predicted / measured - 1) for predicted, measured in pairs]
    within = sum(error <= 0.25 for error in off) / len(off)
    worst = percentile(off, 90)
    return f"median error {100 * median(off):.1f} %, 90th percentile {100 * worst:.1f} %, {within:.0%} within 25 %"


def compare(threads: int) -> tuple[dict[str, Latency], dict[str, Prediction], dict[str, float]]:
    """Measured, predicted and by the rule of multiply-adds; both predictions know the anchors' latencies only."""
    found = measure(networks(), threads=threads, img_size=SIZE)
    measured = {name: one for name, one in found.items() if isinstance(one, Latency)}
    madds = {name: catalog.load()[name]["measured"]["madds"] for name in measured}
    by_cost = sorted(measured, key=lambda name: madds[name])
    known = anchors([name for name in by_cost if not measured[name].flags])  # as `select` repeats the others
    settings = {name: Setting(name, SIZE, 1, threads, "cpu") for name in measured}
    cache = Cache(machine.this("cpu"), machine.versions())
    told = predict(list(settings.values()), cache, {settings[name]: measured[name].p50 for name in known})
    rate = exp(median(log(measured[a].p50 / madds[a]) for a in known))
    predicted = {name: told[setting] for name, setting in settings.items()}
    rest = [name for name in measured if name not in known]
    inside = [p.low <= measured[n].p50 <= p.high for n, p in predicted.items() if n in rest]
    off = [(predicted[n].ms, measured[n].p50) for n in rest]
    probed = median(p.probed for p in told.values())
    print(f"\n{threads} threads, {len(rest)} networks; known beforehand: {', '.join(known)}\n")
    print(f"- from operators: {errors(off)};")
    print(f"  {sum(inside) / len(inside):.0%} inside their interval; {probed:.0%} of the time timed call by call")
    by_madds = [(rate * madds[n], measured[n].p50) for n in rest]
    print(f"- from multiply-adds alone: {errors(by_madds)}")
    return measured, predicted, {name: rate * madds[name] for name in measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    columns = {threads: compare(threads) for threads in parser.parse_args().threads}
    heads = [f"{t} thread{'s' * (t > 1)}: measured | predicted | error | by madds" for t in columns]
    print("\n| network | " + " | ".join(heads) + " |")
    print("|---" * (1 + 4 * len(columns)) + "|")
    for name in networks():
        cells = []
        for measured, predicted, rule in columns.values():
            if name in measured:
                ms, guess = measured[name].p50, predicted[name].ms
                flag = "*" if measured[name].flags else ""
                cells += [f"{ms:.3g}{flag}", f"{guess:.3g}", f"{100 * (guess / ms - 1):+.0f} %", f"{rule[name]:.3g}"]
            else:
                cells += [""] * 4
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
