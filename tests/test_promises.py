"""What every network owes its user (DESIGN, the contract), over all names. A new network is tested by existing."""

import copy
import logging
import warnings
from pathlib import Path

import pytest
import torch
from networks import DEEP, KINDS, NAMES
from torch import Tensor, nn

import backbones
from backbones import create_model, list_models, model_info
from backbones.backbone import Backbone, WithAux
from backbones.catalog import load
from backbones.dilation import set_output_stride
from backbones.layers import RandomPath
from backbones.records import PROMISES

META = torch.device("meta")


@pytest.fixture(params=NAMES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Backbone:
    """With real weights and the statistics of one batch, built once; tests give it back as they found it."""
    model = create_model(name, num_classes=7, seed=0).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.draws.progress = 0.0  # a dropped block would have no statistics
    if norms:
        with torch.inference_mode():
            model(images_for(model, batch=8, side=max(model.min_size, 64)))
    model.draws.progress = 1.0
    for norm in norms:
        norm.momentum = 0.1
    if not model.head.pools_first:  # a ReLU follows the classifier, and may leave zeros of what is random
        with torch.no_grad():
            maps = model.get_classifier()(model.forward_features(images_for(model)))
            model.get_classifier().bias.sub_(maps.min())
    return model.eval()


@pytest.fixture
def kind(name: str) -> str:
    """A network that stands for those that differ from it in depth only; the others are swept by `make test-all`."""
    return name


@pytest.fixture
def family(name: str) -> str:
    """The smallest network of a family, for what takes long; `make test-all` sweeps the others."""
    return name


def on_meta(name: str, **settings: object) -> Backbone:
    with META:
        return create_model(name, **settings)


def close(got: Tensor, expected: Tensor, share: float = 1e-4) -> None:
    """Equal but for rounding, which deep random networks amplify: within a share of the largest value."""
    torch.testing.assert_close(got, expected, rtol=0, atol=share * float(expected.abs().max()))


def rounding(model: Backbone, images: Tensor) -> float:
    """What single precision does to the logits, as a share of the largest: much in a deep network without shortcuts."""
    with torch.no_grad():
        logits, exact = model(images), copy.deepcopy(model).double()(images.double())
    return float((logits - exact).abs().max() / exact.abs().max())


def images_for(model: Backbone, batch: int = 2, extra: tuple[int, int] = (0, 0), side: int | None = None) -> Tensor:
    """Real images, as small as the network reads them."""
    height, width = ((side or model.min_size) + e for e in extra)
    return torch.randn(batch, model.in_channels, height, width, generator=torch.Generator().manual_seed(1))


def on_meta_images(model: Backbone, height: int, width: int) -> Tensor:
    return torch.empty(2, model.in_channels, height, width, device="meta")


# -- counts


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_papers(name: str) -> None:
    """As the catalog has them, which test_house counts anew."""
    entry = load()[name]
    for claim in entry["reported"]:
        off = []
        for what, counted in claim["counted"].items():
            printed = claim[what]
            if counted != (printed if isinstance(printed, int) else pytest.approx(printed, rel=0.02)):
                off.append(f"{what}: printed {printed}, counted {counted}")
        assert bool(off) == bool(claim["gap"]), f"{claim['source']}: {off or 'the gap is not needed'}"
        if claim["maps"]:
            assert claim["input_size"] is None
            assert claim["maps"] == entry["measured"]["maps"], claim["source"]


def test_what_departs_says_so_in_its_name(name: str) -> None:
    departs = "." in name or name.endswith("_bn")  # batch norm is the one departure with a name of its own in the field
    assert departs == bool(model_info(name).departures)


def test_promises_that_cannot_be_kept_are_known_and_reasoned(name: str) -> None:
    variant = model_info(name)
    assert variant.cannot.keys() <= PROMISES.keys()
    for promise, reason in variant.cannot.items():
        assert len(reason) > 20
        assert name not in list_models(can=promise)
        with pytest.raises(NotImplementedError, match=name):
            create_model(name, **{promise: 0.1})


# -- images in, logits out


def test_maps_images_of_any_size_to_logits(name: str) -> None:
    model, (_, height, width) = on_meta(name, num_classes=7).eval(), model_info(name).input_size
    for size in ((height, width), (model.min_size,) * 2, (model.min_size + 13, model.min_size + 40)):
        assert model(on_meta_images(model, *size)).shape == (2, 7), size


def test_min_size_is_the_smallest(name: str) -> None:
    """One pixel less is refused, and rightly: some layer fails, or the last map would be less than its stride."""
    model = on_meta(name).eval()
    small = on_meta_images(model, model.min_size - 1, model.min_size)
    with pytest.raises(ValueError, match=rf"{model.min_size - 1}x{model.min_size}.*{model.min_size}x{model.min_size}"):
        model(small)
    if model.min_size > max(f.reduction for f in model.feature_info):
        model.min_size = 1
        with pytest.raises(RuntimeError):
            model(small)


def test_num_classes_and_in_chans(name: str) -> None:
    for classes, channels in ((1, 1), (1001, 4)):
        model = on_meta(name, num_classes=classes, in_chans=channels).eval()
        assert model(on_meta_images(model, model.min_size, model.min_size)).shape == (2, classes)
    features = on_meta(name, num_classes=0).eval()
    assert features(on_meta_images(features, features.min_size, features.min_size)).shape == (2, features.num_features)


def test_head(kind: str, model: Backbone) -> None:
    images = images_for(model, side=max(model.min_size, 32))
    with torch.inference_mode():
        last = model.forward_features(images)
        logits = model(images)
        pooled = model.forward_head(last, pre_logits=True)
        torch.testing.assert_close(model.forward_head(last), logits)
        if model.head.pools_first:
            torch.testing.assert_close(model.get_classifier()(pooled), logits)
    assert pooled.shape == (2, model.num_features)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


def test_reset_classifier_and_global_pool(name: str) -> None:
    model = on_meta(name).eval()
    last = model.forward_features(on_meta_images(model, model.min_size + 40, model.min_size + 40))
    model.reset_classifier(3)
    assert (model.forward_head(last).shape, model.num_classes) == ((2, 3), 3)
    for pool in ("avg", "max", "avgmax"):
        model.reset_classifier(3, pool)
        assert model.forward_head(last).shape == (2, 3)
    model.reset_classifier(0, "")
    assert model.forward_head(last).shape == last.shape
    model.reset_classifier(4)
    assert model.forward_head(last).shape == (2, 4)
    with pytest.raises(ValueError, match="global_pool='mean'"):
        model.reset_classifier(3, "mean")
    with pytest.raises(ValueError, match="num_classes=0"):
        model.reset_classifier(3, "")
    with pytest.raises(ValueError, match="num_classes=-1"):
        model.reset_classifier(-1)


# -- features


def test_features_are_what_feature_info_says(name: str) -> None:
    model = on_meta(name).eval()
    side = 16 * model.min_size
    maps = model.features(on_meta_images(model, side, side))
    assert len(maps) == len(model.feature_info) >= len(model.stages)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    for m, feature in zip(maps, model.feature_info, strict=True):
        assert m.shape[-1] == pytest.approx(side / feature.reduction, abs=16), feature
        assert m.shape[-1] * feature.reduction <= side + feature.reduction
    assert maps[-1].shape == model.forward_features(on_meta_images(model, side, side)).shape
    fields = [f.receptive_field for f in model.feature_info]
    assert fields == sorted(fields)


def test_features_only(name: str) -> None:
    full = on_meta(name)
    last = len(full.feature_info) - 1
    features = on_meta(name, features_only=True, out_indices=(0, last - 1)).eval()
    images = on_meta_images(full, full.min_size, full.min_size)
    shapes = [m.shape for m in full.eval().features(images)]
    assert [m.shape for m in features(images)] == [shapes[0], shapes[last - 1]]
    assert features.feature_info.channels() == [shapes[0][1], shapes[last - 1][1]]
    assert sum(p.numel() for p in features.parameters()) < sum(p.numel() for p in full.parameters())
    if name in KINDS:
        assert len(on_meta(name, features_only=True).eval()(images)) == last + 1
        assert features.feature_info == on_meta(name, features_only=True, out_indices=(-1 - last, -2)).feature_info
    with pytest.raises(ValueError, match=rf"0 to {last}"):
        on_meta(name, features_only=True, out_indices=(last + 1,))
    with pytest.raises(TypeError, match="features_only=True"):
        on_meta(name, out_indices=(0,))


# -- regularisation


def test_drop_rates(name: str) -> None:
    def rates(model: nn.Module, layer: type[nn.Module]) -> list[float]:
        return [m.p if isinstance(m, nn.Dropout) else m.rate for m in model.modules() if isinstance(m, layer)]

    dropped = on_meta(name, drop_rate=0.3)
    assert max(rates(dropped.head, nn.Dropout) + rates(dropped.stages, nn.Dropout)) == 0.3
    if "drop_path_rate" in model_info(name).cannot:
        assert not rates(on_meta(name, drop_path_rate=0.0), RandomPath)
        return
    assert not any(rates(on_meta(name, drop_path_rate=0.0), RandomPath))
    dropped = rates(on_meta(name, drop_path_rate=0.5), RandomPath)
    assert 0.4 < max(dropped) <= 0.5  # the last block has the full rate, if it has a shortcut


# -- finer maps


def test_output_stride(name: str) -> None:
    plain = on_meta(name).eval()
    side = 16 * plain.min_size
    sizes = [m.shape[-1] for m in plain.features(on_meta_images(plain, side, side))]
    for output_stride in (8, 16, 32) if name in KINDS else (8,):  # 8 rewrites the most layers
        model = on_meta(name, output_stride=output_stride).eval()
        strides = [min(f.reduction, output_stride) for f in plain.feature_info]
        assert model.feature_info.reduction() == strides
        assert model.feature_info.channels() == plain.feature_info.channels()
        finer = [m.shape[-1] for m in model.features(on_meta_images(model, side, side))]
        for fine, coarse, stride, feature in zip(finer, sizes, strides, plain.feature_info, strict=True):
            times = feature.reduction // stride
            assert times * (coarse - 1) < fine <= times * coarse + times
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }
    with pytest.raises(ValueError, match="output_stride=4"):
        on_meta(name, output_stride=4)


# -- training


def summed(output: Tensor | WithAux) -> Tensor:
    """The squares of all logits, the auxiliary heads' too."""
    logits = (output.logits, *output.aux) if isinstance(output, WithAux) else (output,)
    return torch.stack([x.square().sum() for x in logits]).sum()


def gradients(model: Backbone, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Of the first logit's sum, with the statistics after it and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.data_ptr() not in parameters:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    parameters = {p.data_ptr() for p in model.parameters()}
    model = copy.deepcopy(model).train()
    parameters |= {p.data_ptr() for p in model.parameters()}
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = summed(model(images))
    loss.backward()
    return [p.grad for p in model.parameters()], dict(model.named_buffers()), sum(kept.values())


def test_gradient_checkpointing(kind: str, model: Backbone) -> None:
    images = images_for(model, side=max(model.min_size, 32))
    expected, statistics, bytes_kept = gradients(model, images)
    model.set_grad_checkpointing()
    got, new_statistics, fewer_bytes = gradients(model, images)
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(new_statistics, statistics)
    assert fewer_bytes < bytes_kept


def test_freeze(kind: str, model: Backbone) -> None:
    model = copy.deepcopy(model)
    for path in (m for m in model.modules() if isinstance(m, RandomPath)):
        path.rate = 0.0  # what is not dropped, is trained
    model.freeze(stages=1)
    model.train()
    images = images_for(model, side=max(model.min_size, 32))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    summed(model(images)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter += 1
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(("stem.", "stages.0."))}
    assert not changed & frozen
    trained = {k for k in dict(model.named_parameters()) if k not in frozen}
    assert trained <= changed
    assert all(k in changed for k in before if k.endswith("running_mean") and k not in frozen)
    model.freeze(stages=-1)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.train().modules())
    with pytest.raises(ValueError, match=f"{len(model.stages)} stages"):
        model.freeze(stages=9)


# -- transforms that must not change the function


def test_deepcopy_channels_last_and_file(kind: str, model: Backbone, tmp_path: Path) -> None:
    images = images_for(model, side=max(model.min_size, 32))
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(copy.deepcopy(model)(images), expected)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        got = last(images.contiguous(memory_format=torch.channels_last))
        close(got, expected, share=max(1e-4, 4 * rounding(model, images)))
        backbones.save(model, tmp_path / "model.safetensors")
        again = backbones.load(tmp_path / "model.safetensors")
        assert torch.equal(again(images), expected)
    assert (again.variant.name, again.num_classes) == (kind, 7)


def test_weights_with_another_head_and_stem(
    kind: str, model: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.safetensors"
    backbones.save(model, file)
    images, model = images_for(model, side=max(model.min_size, 32)).double(), copy.deepcopy(model).double()
    with caplog.at_level(logging.INFO, "backbones"):
        gray = create_model(kind, weights=file, in_chans=1, num_classes=5).double().eval()
    assert "new classifier for 5 classes" in caplog.text
    assert (gray.num_classes, gray.in_channels) == (5, 1)
    with torch.inference_mode():
        one = images[:, :1]
        first = gray.features(one)[0]  # later maps of a deep random network amplify the rounding of the adapted filters
        close(first, model.features(one.expand(-1, model.in_channels, -1, -1))[0])
    if model.in_channels == 3:
        assert "first convolution adapted to 1 channels" in caplog.text
    wide = create_model(kind, weights=file, in_chans=6).double().eval()
    with torch.inference_mode():
        double = images.repeat(1, 6 // model.in_channels, 1, 1)
        close(wide.features(double)[0], model.features(images)[0])
    widened, grayed = wide.state_dict(), gray.state_dict()
    for key, value in model.state_dict().items():  # nothing but the filters of the image and the new heads differs
        if value.ndim != 4 or widened[key].shape == value.shape:
            assert torch.equal(widened[key], value), key
            assert "head.classifier" in key or torch.equal(grayed[key], value), key


def test_compiles_in_one_graph(family: str, kind: str, model: Backbone) -> None:
    if kind in DEEP:
        pytest.skip("tracing thousands of layers takes hours")
    images = images_for(model, side=max(model.min_size, 32))
    torch.compiler.reset()
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(images), model(images))


def test_exports(family: str, kind: str, model: Backbone, tmp_path: Path) -> None:
    """torch.export and ONNX, with any number of images per batch."""
    import onnxruntime

    if kind in DEEP:
        pytest.skip("tracing thousands of layers takes hours")
    images = images_for(model, side=max(model.min_size, 32))
    with torch.no_grad():
        expected = model(images)
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.testing.assert_close(program.module()(images), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    onnx.save(tmp_path / "model.onnx", external_data=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (images, images[:1].repeat(3, 1, 1, 1)):
        (got,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        with torch.no_grad():
            close(torch.from_numpy(got), model(batch), share=max(1e-3, 4 * rounding(model, batch)))


def test_what_was_changed_is_saved(kind: str, model: Backbone, tmp_path: Path) -> None:
    changed = copy.deepcopy(model)
    changed.reset_channels(2)
    changed.reset_classifier(3, "max")
    set_output_stride(changed, 8)
    backbones.save(changed, tmp_path / "model.safetensors")
    again = backbones.load(tmp_path / "model.safetensors")
    images = torch.randn(1, 2, max(model.min_size, 64), max(model.min_size, 64))
    with torch.inference_mode():
        assert torch.equal(again(images), changed(images))
    assert (again.in_channels, again.num_classes, again.head.pool, again.output_stride) == (2, 3, "max", 8)


# -- initialisation and errors


def test_seed_makes_the_weights(kind: str) -> None:
    state = torch.get_rng_state()
    model, again = (create_model(kind, num_classes=7, seed=0) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.named_parameters():
        assert torch.equal(value, again.get_parameter(key)), key
    first = next(iter(model.parameters()))
    assert not torch.equal(first, next(iter(create_model(kind, num_classes=7, seed=1).parameters())))


def test_wrong_images_are_refused(name: str) -> None:
    model = on_meta(name).eval()
    good = on_meta_images(model, model.min_size, model.min_size)
    for images, said in (
        (good[0], r"\(N, C, H, W\)"),
        (good.repeat(1, 2, 1, 1), f"in_chans={2 * model.in_channels}"),
        (good.to(torch.uint8), "torch.uint8.*normalise"),
        (good.double(), "torch.float64.*torch.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            model(images)
        with pytest.raises(ValueError, match=said):
            model.features(images)
