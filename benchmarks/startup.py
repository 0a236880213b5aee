"""From nothing to a first network, and from a file to a network: the tables of RESULTS.md.

    python -m benchmarks.startup [--rounds 5] [--threads 1] [--networks resnet50 vgg16 efficientnet_b7]

Every figure is of a process of its own; all kinds take turns within a round, after one that warms the system's cache
of files, and runs in which other processes computed are repeated. The first table is of whole processes, beside one
that imports torch and nothing else. The second is of one `create_model` and its weights after all imports, timed
inside its process, and of the same with the first answer, for tensors mapped from a file are read when they are used.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchvision
import tyro
from safetensors.torch import save_file

import backbones
from backbones import machine
from backbones.timing import GRAIN, MOST_ROUNDS, OTHERS

Times = dict[str, list[float]]
"""what was timed -> milliseconds, one for each round"""

STARTS = {
    "`import torch`": "import torch",
    "backbones, its own file": "import backbones; backbones.create_model('resnet50', weights='{ours}')",
    "backbones, drawn": "import backbones; backbones.create_model('resnet50')",
    "torchvision, drawn": "import torchvision; torchvision.models.resnet50()",
    "timm, drawn": "import timm; timm.create_model('resnet50')",
}
LOADS = {
    "torchvision, its `.pth`": (
        "import torch, torchvision",
        "m = torchvision.models.{name}(); m.load_state_dict(torch.load('{pth}'))",
    ),
    "torchvision, `.safetensors`": (
        "import torch, torchvision; from safetensors.torch import load_file",
        "m = torchvision.models.{name}(); m.load_state_dict(load_file('{theirs}'))",
    ),
    "timm, `.safetensors`": (
        "import torch, timm; from timm.models import load_checkpoint",
        "m = timm.create_model('{name}'); load_checkpoint(m, '{timm}')",
    ),
    "backbones, its own file": (
        "import torch, backbones.loading; backbones.list_models()",
        "m = backbones.create_model('{name}', weights='{ours}')",
    ),
    "backbones, torchvision's `.safetensors`": (
        "import torch, backbones.loading; backbones.list_models()",
        "m = backbones.create_model('{name}', weights='{theirs}')",
    ),
}
TIMED = """
import json, time
{imports}
images, begin, cpu = torch.zeros(1, 3, 224, 224), time.perf_counter(), time.process_time()
{load}
loaded, cpu = time.perf_counter() - begin, time.process_time() - cpu
with torch.inference_mode():
    m.eval()(images)
answered = time.perf_counter() - begin
print(json.dumps({{"wall": 1e3 * loaded, "CPU": 1e3 * cpu, "with the first answer, wall": 1e3 * answered}}))
"""


def main(
    rounds: int = 5, threads: int = 1, networks: tuple[str, ...] = ("resnet50", "vgg16", "efficientnet_b7")
) -> None:
    """Print the Markdown tables.

    Args:
        rounds: undisturbed runs of each kind
        threads: of torch, in every process
        networks: those that are loaded from files, as torchvision and timm call them
    """
    packages = ("torch", "torchvision", "timm", "safetensors", "backbones")
    told = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"{machine.this('cpu').cpu}, {threads} threads; {told}; Python {sys.version.split()[0]}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as where it is installed
    with tempfile.TemporaryDirectory() as folder:
        files = _written("resnet50", Path(folder))
        codes = {kind: code.format(**files) for kind, code in STARTS.items()}
        _show("A first resnet50, whole process", _interleaved(codes, rounds, environment, timed=False))
        for name in networks:
            files = _written(name, Path(folder))
            codes = {
                kind: TIMED.format(imports=imports, load=load.format(name=name, **files))
                for kind, (imports, load) in LOADS.items()
            }
            _show(f"{name} from a file", _interleaved(codes, rounds, environment, timed=True))


def _written(name: str, folder: Path) -> Mapping[str, str]:
    """The same network's files: ours, torchvision's twice and timm's; kind -> path."""
    files = {kind: f"{folder}/{name}-{kind}" for kind in ("ours", "pth", "theirs", "timm")}
    backbones.save(backbones.create_model(name), files["ours"])
    state = torchvision.models.get_model(name).state_dict()
    torch.save(state, files["pth"])
    save_file(state, files["theirs"])
    save_file(timm.create_model(name).state_dict(), files["timm"])
    return files | {"timm": _suffixed(files["timm"])}


def _suffixed(path: str) -> str:
    """timm tells the kind of a file by its suffix."""
    return str(Path(path).rename(f"{path}.safetensors"))


def _interleaved(
    codes: Mapping[str, str], rounds: int, environment: Mapping[str, str], timed: bool
) -> dict[str, Times]:
    """A process of each kind in turn."""
    quiet: dict[str, list[dict[str, float]]] = {kind: [] for kind in codes}
    disturbed: dict[str, list[dict[str, float]]] = {kind: [] for kind in codes}
    for kind in codes:
        _run(codes[kind], environment, timed)
    for _ in range(max(rounds, MOST_ROUNDS)):
        for kind in (kind for kind in codes if len(quiet[kind]) < rounds):
            figures, alone = _run(codes[kind], environment, timed)
            (quiet if alone else disturbed)[kind].append(figures)
    for kind in codes:
        if not quiet[kind]:
            print(f"{kind}: every run was disturbed by other processes", file=sys.stderr)
    taken = {kind: quiet[kind] or disturbed[kind] for kind in codes}
    return {kind: {what: [run[what] for run in runs] for what in runs[0]} for kind, runs in taken.items()}


def _run(code: str, environment: Mapping[str, str], timed: bool) -> tuple[dict[str, float], bool]:
    """What the process tells, or its own wall and CPU time in milliseconds; and whether no other process computed."""
    processors = machine.processors()
    busy, own, begin = machine.busy(processors), _cpu(), time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    wall, used, after = time.perf_counter() - begin, _cpu() - own, machine.busy(processors)
    others = 0.0 if busy is None or after is None else after - busy - used
    figures = json.loads(told.stdout) if timed else {"wall": 1e3 * wall, "CPU": 1e3 * used}
    return figures, others <= max(OTHERS * wall * len(processors), GRAIN)


def _cpu() -> float:
    """User and system seconds of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _show(title: str, times: Mapping[str, Times]) -> None:
    """Milliseconds, median and extremes, and the median as a ratio to the first row's."""
    first = next(iter(times.values()))
    print(f"\n| {title} | {' | '.join(f'{what}, ms | ratio' for what in first)} |\n|---|{'---:|---:|' * len(first)}")
    for kind, figures in times.items():
        cells = []
        for what, values in figures.items():
            middle = statistics.median(values)
            cells += [f"{middle:.0f} ({min(values):.0f} to {max(values):.0f})"]
            cells += [f"{middle / statistics.median(first[what]):.3f}"]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
