"""The protocols against crops sliced by hand and networks slid by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from backbones import create_model
from backbones.backbone import Backbone
from backbones.data.parts import ArrayPart, FilePart
from backbones.evaluate import Member, answers, columns, dense_form, prepare
from backbones.layers import Head, he_init
from backbones.records import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def told(side: int, crop: float = 1.0) -> Preprocessing:
    return Preprocessing(3, (side, side), MEAN, STD, crop=crop)


def pixels(height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
    return torch.randint(
        256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def normalised(view: Tensor) -> Tensor:
    return (view / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().double().numpy())
    return powers / powers.sum(-1, keepdims=True)


def linear(side: int, classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))


def small_vgg() -> Backbone:
    """No padding, so that what a position sees is just a crop: 26 pixels make a map of 5x5, 4 more make one more."""
    torch.manual_seed(1)
    stage = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2)
    )
    neck = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(8 * 5 * 5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 12), nn.ReLU()
    )
    head = Head(12, 4, neck=neck, grid=5, drop_rate=0.5)
    return Backbone(stem=nn.Identity(), stages=[stage], head=head, in_channels=3, min_size=20, init=he_init).eval()


def test_ten_crops_by_hand() -> None:
    """An image of 32x48: its central square begins at column 8; crops of 24 begin at 0, 4 and 8 in it."""
    (image,), network = pixels(32, 48), linear(24)
    square = image[:, :, 8:40]
    crops = [square[:, y : y + 24, x : x + 24] for y, x in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4))]
    crops += [torch.from_numpy(crop.numpy()[:, :, ::-1].copy()) for crop in crops]
    expected = softmax(network(torch.stack([normalised(crop) for crop in crops]))).mean(0)
    part = ArrayPart(image[None], [2], "by hand", 3)
    found = answers([Member(network, prepare("10-crop", told(24), scales=(32,)))], part, 3, workers=0)
    np.testing.assert_allclose(softmax(found.logits)[0], expected, rtol=1e-5)
    assert found.labels.tolist() == [2]
    assert prepare("10-crop", told(24, 24 / 32)).scales == (32,), "the network's own"


@pytest.mark.parametrize(("height", "width"), [(70, 90), (90, 70), (80, 80)])
def test_144_crops_by_hand(height: int, width: int) -> None:
    (image,) = pixels(height, width)
    views, expected = prepare("144-crop", told(56)), list[Tensor]()
    for short in (64, 72, 80, 88):  # a quarter of 256, 288, 320, 352
        resized = F.resize(image, [short], antialias=True)
        long = max(resized.shape[1:])
        for start in (0, round((long - short) / 2), long - short):
            rows, cols = (slice(short), slice(start, start + short))[:: 1 if width >= height else -1]
            square = resized[:, rows, cols]
            far, middle = short - 56, (short - 56) // 2
            six = [square[:, y : y + 56, x : x + 56] for y in (0, far) for x in (0, far)]
            six.append(square[:, middle : middle + 56, middle : middle + 56])
            six.append(F.resize(square, [56, 56], antialias=True))
            expected += [normalised(v) for crop in six for v in (crop, crop[:, :, torch.arange(55, -1, -1)])]
    assert views.scales == (64, 72, 80, 88)
    assert prepare("144-crop", told(224)).scales == (256, 288, 320, 352)
    assert len(views) == len(expected) == 144
    for view, by_hand in zip(views(image), expected, strict=True):
        torch.testing.assert_close(view, by_hand)


def test_single_is_a_centre_crop_of_any_size() -> None:
    (image,) = pixels(32, 48)
    (view,) = prepare("single", told(24), crop=24 / 32)(image)
    torch.testing.assert_close(view, normalised(image[:, 4:28, 12:36]))
    (view,) = prepare("single", told(24), size=32)(image)
    torch.testing.assert_close(view, normalised(image[:, :, 8:40]))


def test_dense_is_the_network_slid_over_the_image() -> None:
    network, images = small_vgg(), torch.randn(2, 3, 34, 42)
    form = dense_form(network)
    with torch.no_grad():
        torch.testing.assert_close(form(images[:, :, :26, :26]), network(images[:, :, :26, :26]))
        found = form.score_map(images)
        by_hand = [[network(images[:, :, y : y + 26, x : x + 26]) for x in range(0, 17, 4)] for y in range(0, 9, 4)]
        expected = torch.stack([torch.stack(row, -1) for row in by_hand], -2)
        assert found.shape == (2, 4, 3, 5)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(form(images), expected.mean((2, 3)))
    assert {id(p) for p in form.parameters()} == {id(p) for p in network.parameters()}
    assert isinstance(network.head.neck[1], nn.Linear)
    with pytest.raises(ValueError, match=r"map of 4x9.*reads 5x5"):
        form(images[:, :, :25])


def test_dense_form_of_a_global_mean_is_the_network_itself() -> None:
    network, images = create_model("resnet20_cifar", seed=0).eval(), torch.randn(2, 3, 48, 40)
    assert dense_form(network) is network
    with torch.no_grad():
        features = network.forward_features(images)
        everywhere = torch.stack([network.head.classifier(column) for column in features.flatten(2).unbind(2)])
        torch.testing.assert_close(network(images), everywhere.mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_no_dense_form_without_a_mean(pool: str) -> None:
    with pytest.raises(NotImplementedError, match=f"global_pool='{pool}' has no dense form"):
        dense_form(create_model("resnet20_cifar", global_pool=pool))


@pytest.mark.slow
def test_dense_vgg16() -> None:
    network, images = create_model("vgg16", seed=0).eval(), torch.randn(1, 3, 256, 288)
    form = dense_form(network)
    with torch.no_grad():
        torch.testing.assert_close(form(images[..., :224, :224]), network(images[..., :224, :224]))
        assert form.score_map(images).shape == (1, 1000, 2, 3)


def test_dense_and_multi_scale_by_hand() -> None:
    network, (image,) = small_vgg(), pixels(40, 52)
    form, part = dense_form(network), ArrayPart(image[None], [0], "by hand", 3)

    def seen(scale: int) -> np.ndarray:
        x = normalised(F.resize(image, [scale], antialias=True))[None]
        with torch.no_grad():
            return (softmax(form(x)) + softmax(form(x.flip(-1)))) / 2

    found = answers([Member(network, prepare("dense", told(26, 0.65)))], part, 8, workers=0)
    np.testing.assert_allclose(softmax(found.logits), seen(40), rtol=1e-4)
    views = prepare("multi-scale", told(26))
    assert views.scales == (26, 30, 45, 56, 74), "224, 256, 384, 480, 640 for 26 pixels in place of 224"
    found = answers([Member(network, views)], part, 8, workers=0)
    np.testing.assert_allclose(softmax(found.logits), sum(map(seen, views.scales)) / 5, rtol=1e-4)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    """Three networks: another size for the second, another order of the classes for the third."""
    images, labels = pixels(16, 16, count=7), [0, 1, 2, 3, 0, 1, 2]
    part, first, second, third = (
        ArrayPart(images, labels, "by hand", 3),
        linear(16),
        linear(12, seed=1),
        linear(16, seed=2),
    )
    order = columns(("d", "a", "c", "b"), ("a", "b", "c", "d"), "third")
    members = [
        Member(first, prepare("single", told(16))),
        Member(second, prepare("single", told(12, 0.75))),
        Member(third, prepare("single", told(16)), order),
    ]
    whole = normalised(images)
    expected = softmax(first(whole)) + softmax(second(whole[:, :, 2:14, 2:14])) + softmax(third(whole))[:, [1, 3, 2, 0]]
    found = answers(members, part, 3, workers=0)
    np.testing.assert_allclose(softmax(found.logits), expected / 3, rtol=1e-4)
    assert found.labels.tolist() == labels
    alone = answers(members[:1], part, 3, workers=0)
    torch.testing.assert_close(alone.logits, first(whole).detach())
    with pytest.raises(ValueError, match="4 and of 5 classes"):
        answers([members[0], Member(linear(16, 5), members[0].views)], part, 3, workers=0)


def test_views_come_in_batches_of_batch_size() -> None:
    seen, network = list[int](), linear(56)
    network.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    part = ArrayPart(pixels(64, 64, count=2), [0, 1], "by hand", 3)
    answers([Member(network, prepare("144-crop", told(56)))], part, 50, workers=0)
    assert seen == [50, 50, 44] * 2
    seen.clear()
    answers([Member(network, prepare("10-crop", told(56), scales=(64,)))], part, 50, workers=0)
    assert seen == [20]


def test_answers_do_not_depend_on_workers() -> None:
    part = ArrayPart(pixels(32, 32, count=13), [i % 4 for i in range(13)], "by hand", 3)
    member = Member(linear(24), prepare("10-crop", told(24), scales=(32,)))
    here, there = (answers([member], part, 40, workers=workers) for workers in (0, 2))
    assert torch.equal(here.logits, there.logits)
    assert torch.equal(here.labels, there.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.new("RGB", (24, 24)).save(path)
    paths[3].write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"^cannot read .*3\.png"):
        answers([Member(linear(24), prepare("single", told(24)))], FilePart(paths, [0] * 5, 3), 2, workers)


def test_classes_are_matched_by_name() -> None:
    assert columns(("a", "b"), ("a", "b"), "it") is None
    assert columns(("b", "c", "a"), ("a", "b", "c"), "it") == (2, 0, 1)
    assert columns(("tench", "shark"), ("n01", "n02"), "it", by_place=True) is None
    assert columns((), ("n01", "n02"), "it", by_place=True) is None
    for network, data, by_place, said in (
        (("a", "b", "x"), ("a", "b", "c"), False, "only the network has x; only the data has c"),
        (("a", "b", "x"), ("a", "b", "c"), True, "only the network has x"),
        (("a", "b"), ("c", "d", "e"), True, "it knows the classes a, b"),
        (("crane", "b", "crane"), ("b", "crane", "crane"), False, "more than one is called crane"),
        ((), ("a", "b"), False, "only the data has a, b"),
    ):
        with pytest.raises(ValueError, match=said):
            columns(network, data, "it", by_place)


def test_errors_say_what_to_do() -> None:
    for make, kind, said in errors():
        with pytest.raises(kind, match=said):
            make()


def errors() -> list[tuple[Callable[[], object], type[Exception], str]]:
    return [
        (lambda: prepare("11-crop", told(24)), ValueError, "give one of single, 10-crop"),
        (lambda: prepare("10-crop", told(224)), ValueError, "give scales, such as 256"),
        (lambda: prepare("10-crop", told(24), scales=(20,)), ValueError, "must be 24 or more"),
        (lambda: prepare("single", told(24), scales=(32,)), ValueError, "takes no scales"),
        (lambda: prepare("144-crop", told(24), crop=0.5), ValueError, "leave out one of the two"),
        (lambda: prepare("single", told(24), crop=1.5), ValueError, "above 0 up to 1"),
        (lambda: prepare("single", told(24), size=0), ValueError, "size=0"),
        (lambda: prepare("10-crop", Preprocessing(3, (24, 32), MEAN, STD, crop=0.5)), ValueError, "square crops"),
        (lambda: dense_form(create_model("lenet5")), NotImplementedError, "Squash in its head"),
        (lambda: dense_form(create_model("resnet20_cifar", num_classes=0)), ValueError, "no classifier"),
        (lambda: dense_form(linear(24)), TypeError, "give a Backbone"),
        (lambda: answers([], ArrayPart(pixels(8, 8), [0], "x", 3), 2), ValueError, "0 networks and 1 images"),
    ]
