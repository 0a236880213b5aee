"""Accuracy on the bundled digits over seeds: the table of RESULTS.md.

    python benchmarks/digits.py lenet5 lenet5.modern --seeds 5

Every run is `backbones train NETWORK --data digits --seed S`, one after the other, each a process of its own.
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


def main(networks: Positional[tuple[str, ...]], /, seeds: int = 5) -> None:
    """Train each network with the seeds 0, 1, ... and print a Markdown table.

    Args:
        networks: names
        seeds: runs per network
    """
    print("| network | test accuracy by seed, % | mean | std | whole command, s |\n|---|---|---|---|---|", flush=True)
    for network in networks:
        accuracies, seconds = [], []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "backbones", "train", network, "--data", "digits", "--seed", str(seed)]
                start = time.perf_counter()
                subprocess.run([*command, "--output", folder], check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
                accuracies.append(test_accuracy(Path(folder)))
        runs = " ".join(f"{a:.1f}" for a in accuracies)
        spread = statistics.stdev(accuracies) if seeds > 1 else 0.0
        times = f"{min(seconds):.0f} to {max(seconds):.0f}"
        print(f"| `{network}` | {runs} | {statistics.mean(accuracies):.2f} | {spread:.2f} | {times} |", flush=True)


def test_accuracy(folder: Path) -> float:
    """As the run's own file tells it."""
    with safe_open(folder / "best.safetensors", "np") as file:
        return float(json.loads(file.metadata()["checkpoint"])["metrics"]["test_top1"])


if __name__ == "__main__":
    tyro.cli(main)
