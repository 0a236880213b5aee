"""`backbones.optimize` beside torchvision, timm and engines called by hand: `python -m benchmarks.inference`.

torchvision's and timm's networks compute in eager float32, contiguous, under inference_mode, as they come. By hand:
OpenVINO, for latency with the whole batch or with its halves in two streams, for throughput with whole batches in one
stream or two; ONNX Runtime; both on torchvision's network. Everything computes in a process of its own, since ours
keeps freed memory, and takes turns.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import nn

from backbones import create_model
from backbones.cost import measure_cost
from backbones.timing import Times, interleaved
from benchmarks.remote import Remote
from benchmarks.shown import heading, peak, ratio

CASES = {  # ours: torchvision's, timm's, side
    "resnet50.tv": ("resnet50", "resnet50", 224),
    "vgg16": ("vgg16", "vgg16", 224),
    "mobilenet_v2.tv": ("mobilenet_v2", "mobilenetv2_100", 224),
    "densenet121": ("densenet121", "densenet121", 224),
    "efficientnet_b0.tv": ("efficientnet_b0", "efficientnet_b0", 224),
    "googlenet.tv": ("googlenet", "", 224),
    "resnext50_32x4d": ("resnext50_32x4d", "resnext50_32x4d", 224),
    "inception_v3.tv": ("inception_v3", "inception_v3", 299),
}
KINDS = {  # name: precision, engine
    "exact": ("exact", "auto"),
    "16-bit": ("bf16", "auto"),
    "int8": ("int8", "auto"),
    "torch exact": ("exact", "torch"),
    "torch 16-bit": ("bf16", "torch"),
}
BY_HAND = {"exact": "fp32", "16-bit": "bf16", "int8": "int8"}
SETTLE = 10.0
"""seconds until new processes have done what they begin with, such as counting their users"""
CALLS = {"latency": 1, "throughput": 8}
"""batches of one run"""
CALIBRATED = 32
"""drawn images that int8 is calibrated on: for its speed; what it costs in accuracy, benchmarks.accuracy tells"""
Run = Callable[[], object]
Goal = Literal["latency", "throughput"]


def images(batch: int, side: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def torchvision_model(name: str) -> nn.Module:
    from torchvision.models import get_model

    plain: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = get_model(name, **plain)
    if plain:
        model.aux_logits, model.aux1, model.aux2, model.AuxLogits = False, None, None, None
    return model.eval()


def eager(library: str, name: str, goal: Goal, batch: int, side: int) -> Run:
    """A peer's network as it comes, one batch after another."""
    if library == "timm":
        import timm

        model = timm.create_model(name).eval()
    else:
        model = torchvision_model(name)
    pixels = images(batch, side)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(CALLS[goal]):
                model(pixels)

    return run


def optimized(name: str, kind: str, goal: Goal, batch: int, side: int, budget: float) -> Run:
    """Ours, with the choice made afresh."""
    import backbones

    precision, engine = KINDS[kind]
    pixels = images(batch, side)
    fast = backbones.optimize(
        create_model(name, seed=0).eval(),
        pixels,
        precision=precision,
        goal=goal,
        engine=engine,
        calibration=images(CALIBRATED, side) if precision == "int8" else None,
        budget_s=budget,
        fresh=True,
    )
    print(f"  {name}, batch {batch}, {kind}: {fast.report.chosen}", file=sys.stderr)
    return lambda: list(fast.map([pixels] * CALLS[goal]))


def openvino_by_hand(name: str, precision: str, streams: int, goal: Goal, batch: int, side: int) -> Run:
    """As OpenVINO's own guide has it, the batch's shape fixed, int8 by NNCF. For latency, each stream has its part."""
    import openvino

    pixels, core = images(batch, side), openvino.Core()
    model = openvino.convert_model(torchvision_model(name), example_input=pixels)
    if precision == "int8":
        import nncf

        model.reshape([1, 3, side, side])
        model = nncf.quantize(model, nncf.Dataset(list(images(CALIBRATED, side)[:, None].numpy())))
    given = [pixels] * CALLS[goal] if goal == "throughput" else pixels.chunk(streams)
    model.reshape(list(given[0].shape))
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    if streams > 1:
        settings["NUM_STREAMS"] = streams
    compiled = core.compile_model(model, "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(streams)]
    parts = [np.ascontiguousarray(part.numpy()) for part in given]

    def run() -> None:
        for request, part in zip(cycle(requests), parts, strict=False):
            request.wait()
            request.start_async({0: part}, share_inputs=True)
        for request in requests:
            request.wait()

    return run


def onnxruntime_by_hand(name: str, goal: Goal, batch: int, side: int) -> Run:
    from io import BytesIO

    import onnx
    import onnxruntime

    pixels, file = images(batch, side), BytesIO()
    program = torch.onnx.export(torchvision_model(name), (pixels,), dynamo=True, verbose=False)
    assert program is not None
    onnx.save(program.model_proto, file)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: pixels.numpy()}
    return lambda: [session.run(None, feed) for _ in range(CALLS[goal])]


def runs(name: str, kinds: tuple[str, ...], goal: Goal, batch: int, side: int, budget: float) -> dict[str, Remote]:
    """All that take turns; ours are built one after another, each measuring alone."""
    theirs, timms, _ = CASES[name]
    found = {"torchvision": Remote(eager, "torchvision", theirs, goal, batch, side)}
    if timms:
        found["timm"] = Remote(eager, "timm", timms, goal, batch, side)
    for kind in kinds:
        found[kind] = Remote(optimized, name, kind, goal, batch, side, budget)
        found[kind]()
    for precision in [BY_HAND[kind] for kind in kinds if kind in BY_HAND]:
        for streams in (1, 2) if goal == "throughput" or batch % 2 == 0 else (1,):
            made = Remote(openvino_by_hand, theirs, precision, streams, goal, batch, side)
            found[f"openvino {precision} in {streams}"] = made
    if "exact" in kinds:
        found["onnxruntime fp32"] = Remote(onnxruntime_by_hand, theirs, goal, batch, side)
    for run in found.values():
        run()
        run()
    time.sleep(SETTLE)
    return found


def bars(rows: list[dict[str, Any]]) -> Any:
    """Times as fast as eager float32, a bar for each kind."""
    from backbones.plots.style import LIGHT, load_altair, themed

    alt = load_altair()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    base = alt.Chart().encode(
        x=alt.X("times:Q", title="times as fast as the faster of torchvision and timm, eager float32"),
        y=alt.Y("kind:N", title=None, sort=kinds, axis=alt.Axis(labels=False, ticks=False)),
        color=alt.Color("kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds, range=list(LIGHT.colours))),
    )
    words = base.mark_text(align="left", dx=4).encode(text=alt.Text("times:Q", format=".1f"))
    layers = alt.layer(base.mark_bar(), words, data=alt.Data(values=rows))
    row = alt.Row("network:N", title=None, sort=None, header=alt.Header(labelAngle=0, labelAlign="left"))
    return themed(layers.properties(width=420, height=13 * len(kinds)).facet(row=row, spacing=6))


def main(
    networks: tuple[str, ...] = tuple(CASES),
    batches: tuple[int, ...] = (1, 16),
    kinds: tuple[Literal["exact", "16-bit", "int8", "torch exact", "torch 16-bit"], ...] = ("exact", "16-bit"),
    goal: Goal = "latency",
    rounds: int = 5,
    budget: float = 60.0,
    chart: Path | None = None,
) -> None:
    """Print a Markdown table: how many times as fast as the faster of torchvision and timm, and as the best by hand.

    Args:
        networks: of those that are known here
        batches: images at a time
        kinds: of optimize: precision, and whether torch alone
        goal: of optimize: latency of one batch after another, or throughput of many
        rounds: undisturbed blocks of each
        budget: seconds of each search
        chart: draw the times of each network here, as SVG, PNG and CSV
    """
    print(f"{heading('cpu', 'torchvision', 'timm', 'openvino', 'nncf', 'onnxruntime')}\n")
    dtypes = {kind: torch.bfloat16 if "16" in kind else torch.float32 for kind in kinds if kind != "int8"}
    peaks = {kind: peak(dtype, "cpu") for kind, dtype in dtypes.items()}
    print("| network | batch | eager, images/s | kind | times as fast | beside the best by hand | of the peak |")
    print("|---|---:|---:|---|---|---|---:|")
    drawn = list[dict[str, Any]]()
    gains, beside = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for name in networks:
        side = CASES[name][2]
        madds = measure_cost(create_model(name), (3, side, side)).madds
        for batch in batches:
            made = runs(name, kinds, goal, batch, side, budget)
            times = interleaved(made, rounds=rounds)
            base = min((times[peer] for peer in ("torchvision", "timm") if peer in times), key=lambda t: t.median)
            for kind in kinds:
                found = [times[hand] for hand in times if BY_HAND.get(kind, "none") in hand.split()]
                best: Times | None = min(found, key=lambda t: t.median) if found else None
                gains[kind].append(base.median / times[kind].median)
                if best:
                    beside[kind].append(best.median / times[kind].median)
                share = f"{madds * batch * CALLS[goal] / times[kind].median / peaks[kind]:.0%}" if kind in peaks else ""
                hand = ratio(best, times[kind]) if best else ""
                speed = f"{batch * CALLS[goal] / base.median:.1f}"
                cells = (f"`{name}`", str(batch), speed, kind, ratio(base, times[kind]), hand, share)
                print(f"| {' | '.join(cells)} |", flush=True)
                drawn.append({"network": f"{name}, batch {batch}", "kind": kind, "times": gains[kind][-1]})
            for run in made.values():
                run.close()
    print()
    for kind, values in gains.items():
        print(f"{kind}: {geometric_mean(values):.2f} times, geometric mean")
        if hands := beside[kind]:
            print(f"  {geometric_mean(hands):.2f} of the best by hand, {min(hands):.2f} at least")
    if chart:
        from backbones.plots.style import save

        save(bars(drawn), chart, drawn)
    print("peaks: " + ", ".join(f"{kind} {most / 1e9:.0f} G multiply-adds/s" for kind, most in peaks.items()))


if __name__ == "__main__":
    tyro.cli(main)
