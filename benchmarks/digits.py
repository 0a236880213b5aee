"""Accuracy on the bundled digits over seeds: the tables of RESULTS.md.

    python benchmarks/digits.py lenet5 lenet5.modern --seeds 5
    python benchmarks/digits.py lenet5 --seeds 10 --precisions 32-true bf16-mixed

Every run is `backbones train NETWORK --data digits --seed S --precision P`, one after the other, each a process of its
own. With two precisions, the second's accuracy less the first's is told too, seed by seed.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from safetensors import safe_open
from tyro.conf import Positional


def main(networks: Positional[tuple[str, ...]], /, seeds: int = 5, precisions: tuple[str, ...] = ("auto",)) -> None:
    """Train each network with the seeds 0, 1, ... and print a Markdown table.

    Args:
        networks: names
        seeds: runs per network
        precisions: of the runs, as `backbones train` has them
    """
    print("| network | precision | test accuracy by seed, % | mean | std | whole command, s |")
    print("|---|---|---|---|---|---|", flush=True)
    compared = []
    for network in networks:
        found = []
        for precision in precisions:
            runs = [train(network, seed, precision) for seed in range(seeds)]
            accuracies, seconds = [accuracy for accuracy, _ in runs], [second for _, second in runs]
            found.append(accuracies)
            told = " ".join(f"{a:.1f}" for a in accuracies)
            times = f"{min(seconds):.0f} to {max(seconds):.0f}"
            figures = f"{statistics.mean(accuracies):.2f} | {deviation(accuracies):.2f}"
            print(f"| `{network}` | {precision} | {told} | {figures} | {times} |", flush=True)
        if len(found) == 2:
            apart = [later - first for first, later in zip(*found, strict=True)]
            compared += [
                f"{network}: {statistics.mean(apart):+.2f} on average, standard deviation {deviation(apart):.2f}"
            ]
    print("", *compared, sep="\n")


def train(network: str, seed: int, precision: str) -> tuple[float, float]:
    """Test accuracy in percent, and the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "backbones", "train", network, "--data", "digits", "--output", folder]
        start = time.perf_counter()
        subprocess.run([*command, "--seed", str(seed), "--precision", precision], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        return test_accuracy(Path(folder)), seconds


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def test_accuracy(folder: Path) -> float:
    """As the run's own file tells it."""
    with safe_open(folder / "best.safetensors", "np") as file:
        return float(json.loads(file.metadata()["checkpoint"])["metrics"]["test_top1"])


if __name__ == "__main__":
    tyro.cli(main)
