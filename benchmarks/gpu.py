"""Training and inference on a GPU beside timm's networks: `python -m benchmarks.gpu`; `--device cpu --quick` tries it.

timm's are timed as they come (eager float32, contiguous) and with all that a user can add by hand: channels_last, bf16
and a fused optimiser. Ours train by `Loop._train_step`, without and with `--compile`; in inference they are what
`backbones.optimize(precision="bf16")` gives back. All take turns in one process.
"""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
import tyro
from torch import nn

from backbones import create_model, optimize
from backbones.timing import interleaved
from benchmarks.shown import heading, peak, ratio
from benchmarks.training import CLASSES, RECIPE, batch, ours

NETWORKS = ("resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
THEIRS = {"mobilenet_v2": "mobilenetv2_100"}
SEARCH = 120.0
"""seconds"""
Run = Callable[[], object]


def training(network: str, side: int, images: int, device: str, compiled: bool) -> dict[str, Run]:
    """Steps by name, the base first."""

    def theirs(tuned: bool) -> Run:
        form = torch.channels_last if tuned else torch.contiguous_format
        model: nn.Module = timm.create_model(THEIRS.get(network, network), num_classes=CLASSES).train()
        model = model.to(device).to(memory_format=form)  # type: ignore[call-overload]
        pixels, labels = (part.to(device) for part in batch(side, images))
        pixels, fused = pixels.contiguous(memory_format=form), (tuned and device == "cuda") or None
        optimiser = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum, fused=fused)

        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=tuned):
                loss = F.cross_entropy(model(pixels), labels)
            torch.autograd.backward(loss)
            optimiser.step()
            optimiser.zero_grad()

        return step

    runs = {"base": theirs(False), "timm tuned": theirs(True), "ours": ours(network, side, images)}
    return {**runs, "ours compiled": ours(network, side, images, True)} if compiled else runs


def inference(network: str, side: int, images: int, device: str) -> dict[str, Run]:
    """Forward passes by name, the base first."""
    pixels = batch(side, images)[0].to(device)

    def theirs(tuned: bool) -> Run:
        form, dtype = (torch.channels_last, torch.bfloat16) if tuned else (torch.contiguous_format, torch.float32)
        model: nn.Module = timm.create_model(THEIRS.get(network, network), num_classes=CLASSES).eval()
        model = model.to(device, dtype, memory_format=form)  # type: ignore[call-overload]
        given = pixels.to(dtype, memory_format=form)
        return torch.inference_mode()(lambda: model(given))

    mine = create_model(network, num_classes=CLASSES).to(device)
    fast = optimize(mine, pixels, precision="bf16", budget_s=SEARCH, fresh=True)
    return {"base": theirs(False), "timm tuned": theirs(True), f"ours ({fast.report.chosen})": lambda: fast(pixels)}


def main(
    device: str = "cuda",
    networks: tuple[str, ...] = NETWORKS,
    rounds: int = 5,
    quick: bool = False,
    compile: bool = True,
) -> None:
    """Print a Markdown table of ratios.

    Args:
        device: cuda, or cpu where there is no GPU
        networks: names that timm has too
        rounds: undisturbed blocks of each
        quick: small images and batches, to see that it works
        compile: training also compiled, which takes minutes
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: there is no GPU here; --device cpu --quick tries the script")
    side, sizes = (64, {"training": 4, "inference": 2}) if quick else (224, {"training": 128, "inference": 256})
    most = peak(torch.bfloat16, device) / 1e12
    print(f"{heading(device, 'timm', 'lightning')}; {most:.2f} T multiply-adds/s in bf16\n")
    print("| network | what | base, images/s | times as fast |\n|---|---|---|---|")
    for network in networks:
        for what in ("training", "inference"):
            made = (network, side, sizes[what], device)
            runs = training(*made, compile) if what == "training" else inference(*made)
            if device == "cuda":
                runs = {name: _finished(run) for name, run in runs.items()}
            for run in runs.values():
                for _ in range(3):
                    run()
            times = interleaved(runs, rounds=rounds, block=0.0 if quick else 0.25)
            gains = "; ".join(f"{name} {ratio(times['base'], times[name])}" for name in list(runs)[1:])
            speed = sizes[what] / times["base"].median
            print(f"| `{network}`, {side} px | {what}, batch {sizes[what]} | {speed:.0f} | {gains} |", flush=True)


def _finished(run: Run) -> Run:
    """With what it queued on the GPU."""

    def waited() -> None:
        run()
        torch.cuda.synchronize()

    return waited


if __name__ == "__main__":
    tyro.cli(main)
