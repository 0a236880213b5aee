"""Costs against torch's own counter, gradients, and what the allocator really saw."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import pytest
import torch
from networks import NAMES, SMALLEST
from test_geometry import open_up
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from backbones import catalog, create_model, model_info
from backbones.build import build_on_meta
from backbones.cost import inference_memory, largest_batch, measure_cost, training_memory
from backbones.models.senet import SqueezeExcite

MEASURED = (
    *(
        "mobilenet_v1_x0_25",
        "alexnet",
        "resnet18",
        "googlenet",
        "mobilenet_v2",
        "resnet20_cifar",
        "densenet_40_12_cifar",
    ),
    *("squeezenet1_0", "shufflenet_v1_g3_x1_0", "efficientnet_b0", "se_resnet110_cifar", "fractalnet20_cifar"),
)


@pytest.mark.parametrize("name", NAMES)
def test_madds_are_half_of_torchs_flops(name: str) -> None:
    variant = model_info(name)
    model = build_on_meta(variant, {}).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.empty(1, *variant.input_size, device="meta"))
    assert catalog.load()[name]["measured"]["madds"] == flops.get_total_flops() / 2


@pytest.mark.parametrize("name", SMALLEST)
def test_rows_sum_up(name: str) -> None:
    variant = model_info(name)
    cost = measure_cost(build_on_meta(variant, {}), variant.input_size)
    assert sum(row.buffers for row in cost.stages()) <= cost.buffers
    for per in ("operator", "layer", "stage"):
        rows = cost.rows(per)
        for what in ("params", "madds", "activations", "bytes_read", "bytes_written"):
            assert sum(getattr(row, what) for row in rows) == getattr(cost, what), (per, what)
    assert cost.uncounted == ()


@pytest.mark.parametrize("name", SMALLEST)
def test_receptive_fields_of_all_layers_by_gradient(name: str) -> None:
    """Of every layer whose field is small enough: its stride, size and offset, through branches and skips."""
    model = create_model(name, num_classes=0, seed=0)
    model.head = nn.Identity()  # has no map
    open_up(model)
    for gate in (m for m in model.modules() if isinstance(m, SqueezeExcite)):
        gate.squeeze.register_forward_hook(lambda _module, _inputs, out: out.detach())  # it looks at the whole map
    side = max(96, model.min_size)
    fields = {row.name: row for row in measure_cost(model, (model.in_channels, side, side)).layers()}
    images = torch.rand(1, model.in_channels, side, side, dtype=torch.float64, requires_grad=True)
    maps: dict[str, Tensor] = {}
    for path, module in ((p, m) for p, m in model.named_modules() if not any(m.children())):
        module.register_forward_hook(lambda _module, _inputs, out, path=path: maps.update({path: out}))
    model.features(images)
    checked = 0
    for path, row in fields.items():
        out = maps.get(path)
        if not isinstance(out, Tensor) or out.ndim != 4 or row.receptive_field is None or "." not in path:
            continue
        position = out.shape[-1] // 2
        low = [
            position * s + o - (f - 1) / 2
            for s, o, f in zip(row.total_stride, row.offset, row.receptive_field, strict=False)
        ]
        high = [first + f - 1 for first, f in zip(low, row.receptive_field, strict=False)]
        if min(low) < 0 or max(high) >= side or checked >= 12:
            continue
        (seen,) = torch.autograd.grad(out[0, :, position, position].sum(), images, retain_graph=True)
        found = seen[0].abs().sum(0).nonzero()
        assert found.min(0).values.tolist() == low, path
        assert found.max(0).values.tolist() == high, path
        checked += 1
    assert checked > 5


@contextmanager
def allocator() -> Iterator[Callable[[], int]]:
    """Watches torch's allocator: the most bytes that were alive at once, of those allocated inside."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield lambda: max(accumulate(bytes_ for _, bytes_ in sorted(moments)))
    events = watched.profiler.kineto_results.events()
    moments = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MEASURED)
def test_memory_is_what_the_allocator_saw(name: str) -> None:
    """Inference within 10 %, training within 15 %, of real tensors on the CPU."""
    model = create_model(name, drop_path_rate=0.0) if "fractalnet" in name else create_model(name)
    model, shape = model.eval(), model.variant.input_size
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with allocator() as most, torch.no_grad():
        images = torch.zeros(1, *shape)
        logits = model(images)
    assert inference_memory(model, shape) - weights == pytest.approx(most(), rel=0.1)
    assert measure_cost(model, shape).cpu_memory == inference_memory(model, shape)
    del logits
    model.train()
    for precision in ("float32", "amp"):
        told = training_memory(model, shape, batch_size=4, optimizer="momentum", precision=precision)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        with allocator() as most:
            images = torch.zeros(4, *shape)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"):
                out = model(images)
            loss = sum(x.float().sum() for x in ([out] if isinstance(out, Tensor) else [out.logits, *out.aux]))
            loss.backward()
            optimizer.step()
        assert told.peak - told.weights - told.state == pytest.approx(most(), rel=0.15), precision
        assert told.gradients == sum(p.grad.numel() * 4 for p in model.parameters())
        optimizer.zero_grad()
        del out, loss


def test_a_network_that_recomputes_is_left_as_it_was() -> None:
    """Its batch norms count no batch twice, and keep no tensor of the count."""
    model = create_model("resnet20_cifar")
    model.set_grad_checkpointing()
    before = dict(model.named_buffers())
    training_memory(model, (3, 32, 32))
    assert all(after is before[name] for name, after in model.named_buffers())


def test_training_memory_by_hand() -> None:
    """One linear layer of 4 x 3 values: what each optimiser keeps of each parameter."""
    module = nn.Linear(4, 3, bias=False)
    kept = {name: training_memory(module, (4,), optimizer=name).state for name in ("sgd", "momentum", "adamw")}
    assert kept == {"sgd": 0, "momentum": 48, "adamw": 2 * 48 + 4}  # and AdamW's count of steps
    told = training_memory(module, (4,), batch_size=2, precision="bfloat16")
    assert (told.weights, told.state, told.gradients) == (24, 24, 24)
    assert training_memory(nn.BatchNorm2d(2), (2, 3, 3)).weights == 4 * 8 + 8
    with pytest.raises(ValueError, match="adamw"):
        training_memory(module, (4,), optimizer="adam")
    with pytest.raises(ValueError, match="bfloat16"):
        training_memory(module, (4,), precision="int8")


@pytest.mark.parametrize("optimizer", [None, "adamw"])
def test_the_largest_batch_fits_and_one_more_does_not(optimizer: Any) -> None:
    model, shape = create_model("resnet20_cifar"), (3, 32, 32)

    def needed(batch: int) -> int:
        if optimizer is None:
            return inference_memory(model, shape, batch_size=batch)
        return training_memory(model, shape, batch_size=batch, optimizer=optimizer).peak

    most = largest_batch(model, shape, 500_000_000, optimizer=optimizer)
    assert needed(most) <= 500_000_000 < needed(most + 1)
    with pytest.raises(ValueError, match="images need"):
        largest_batch(model, shape, 1_000_000, optimizer=optimizer)


def test_lives_of_known_tensors() -> None:
    """The ReLU's result replaces the convolution's, which the sum does not need any more."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x).relu()

    cost = measure_cost(Skip(), (3, 8, 8))
    one = 4 * 3 * 64
    assert [(life.operator, life.bytes, life.last) for life in cost.lives] == [
        (-1, one, 2),
        (0, one, 1),
        (1, one, 2),
        (2, one, 2),
    ]
    assert (cost.curve, cost.peak_memory) == ((2 * one, 3 * one, 3 * one), 3 * one)
    assert [o.inputs for o in cost.operators] == [(-1,), (0,), (-1, 1)]
    in_place = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Flatten())
    assert measure_cost(in_place, (3, 8, 8)).peak_memory == 2 * one


def test_vgg16_as_lecture_notes_count_it() -> None:
    """The list of the notes adds up to 15.2 M values, not to their 24 M; with each ReLU written apart it is 28.8 M."""
    measured = catalog.load()["vgg16"]["measured"]
    assert (measured["params"], measured["madds"]) == (138_357_544, 15_470_264_320)
    sides = {64: 224, 128: 112, 256: 56, 512: 28}
    convs = 2 * 64 * 224**2 + 2 * 128 * 112**2 + 3 * 256 * 56**2 + 3 * 512 * 28**2 + 3 * 512 * 14**2
    pools = sum(channels * (side // 2) ** 2 for channels, side in sides.items()) + 512 * 7**2
    assert measured["textbook_activations"] == 3 * 224**2 + convs + pools + 4096 + 4096 + 1000 == 15_237_608
    assert measured["activations"] == convs + pools + 9192 + convs + 8192
    assert measured["activations_of"]["relu"] == convs + 8192


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(3, 1, 1)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x * self.scale + torch.arange(3.0)[:, None, None]).abs()


def test_foreign_modules() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU(), Decides()))
    with pytest.raises(ValueError, match=r"1\.1 \(Decides\) decides by the values"):
        measure_cost(net, (3, 8, 8))
    with pytest.raises(ValueError, match=r"0 \(Conv2d\) failed on an image of 4x8x8"):
        measure_cost(net, (4, 8, 8))
    with pytest.raises(ValueError, match="give 1 or more"):
        measure_cost(net, (3, 8, 8), 0)
    with pytest.raises(ValueError, match="thaw some"):
        training_memory(net.requires_grad_(False), (3, 8, 8))
    cost = measure_cost(nn.Sequential(nn.Conv2d(3, 3, 1), Spectrum()), (3, 8, 8))
    assert cost.uncounted == ("_fft_r2c in 1",)
    assert [row.madds for row in cost.layers()] == [9 * 64, None]  # never as zero
    assert training_memory(nn.Sequential(nn.Conv2d(3, 3, 1), Spectrum()), (3, 8, 8)).gradients == 48
    twice = nn.Sequential(relu := nn.ReLU(), nn.Conv2d(3, 4, 1), relu)
    assert [row.output_shape for row in measure_cost(twice, (3, 8, 8)).layers()] == [(3, 8, 8), (4, 8, 8), (4, 8, 8)]
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    with FlopCounterMode(display=False) as flops:
        Attends().to("meta")(torch.empty(1, 5, 8, device="meta"))
    assert measure_cost(Attends(), (5, 8)).madds == flops.get_total_flops() / 2 > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_memory_is_what_the_gpu_saw(name: str) -> None:
    model = create_model(name).cuda().eval()
    shape, before = model.variant.input_size, torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        images = torch.zeros(16, *shape, device="cuda")
        logits = model(images)
    seen = torch.cuda.max_memory_allocated() - before
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert inference_memory(model, shape, batch_size=16, device="cuda") == pytest.approx(weights + seen, rel=0.1)
    del images, logits
    told = training_memory(model, shape, batch_size=16, optimizer="sgd")
    torch.cuda.reset_peak_memory_stats()
    model.train()(torch.zeros(16, *shape, device="cuda")).sum().backward()
    assert told.peak == pytest.approx(weights + torch.cuda.max_memory_allocated() - before, rel=0.15)
