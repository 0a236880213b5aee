"""Drawn images: the same everywhere, true at every size, and told apart by nothing but shape, texture and place."""

import hashlib
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.data import open_data
from backbones.data.shapes import CLASSES, ShapesPart


def part(count: int = 64, side: int = 64, noise: float = 0.0, name: str = "train", seed: int = 0) -> ShapesPart:
    return ShapesPart(count, name, side, 3, noise, seed)


def stacked(images: ShapesPart) -> Tensor:
    return torch.stack([images.image(i) for i in range(len(images))])


def test_the_first_images_are_pinned() -> None:
    images = stacked(part())
    assert images.shape == (64, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "eee11382e19f9078"


def test_an_image_depends_on_its_number_alone() -> None:
    few, many = part(40), part(200, noise=0.3)
    assert torch.equal(few.image(33), many.image(33))
    assert torch.equal(few.image(33), many.take([90, 33]).image(1))
    assert torch.equal(few.image(33), pickle.loads(pickle.dumps(many)).image(33))
    assert many.take([90, 33]).where(1) == "shapes train 33"
    others = [part(40, name="val"), part(40, seed=1)]
    assert not any(torch.equal(few.image(33), other.image(33)) for other in others)


def test_a_small_image_is_the_large_one_seen_from_afar() -> None:
    """Pooling 512 pixels is what a camera would do; drawing at the small side must come to the same."""
    for side, near in ((128, 0.4), (32, 2.0), (16, 5.0)):
        for index in range(9):
            pooled = F.adaptive_avg_pool2d(part(side=512).image(index).float(), side)
            assert (pooled - part(side=side).image(index)).abs().mean() < near


def test_wrong_labels_are_known() -> None:
    data = open_data("shapes:16,train=1000,noise=0.05")
    train = data.train
    assert isinstance(train, ShapesPart)
    wrong = [i for i in range(1000) if train.labels[i] != train.truth[i]]
    assert len(wrong) == 50
    assert train.truth[:54] == [*range(27), *range(27)]
    assert len({(train.labels[i] - train.truth[i]) % 27 for i in wrong}) > 10
    assert "50 of the 1,000 training labels are wrong" in data.info.split
    assert data.val is not None
    assert data.val.labels == [i % 27 for i in range(540)]
    taken = train.take(wrong)
    assert all(a != b for a, b in zip(taken.labels, taken.truth, strict=True))


def test_what_is_said_of_it() -> None:
    data = open_data("shapes")
    assert data.info.classes == CLASSES
    assert len(set(CLASSES)) == 27
    assert CLASSES[0] == "striped circle above cross"
    assert (data.info.size, data.info.channels, data.info.mirror) == ((64, 64), 3, True)
    assert dict(data.info.images) == {"train": 5400, "val": 540, "test": 540}
    assert open_data("shapes:16,test=0,val=0").test is None
    assert open_data("shapes:224", channels=1).train.image(3).shape == (1, 224, 224)


def colours(images: Tensor) -> Tensor:
    """Per image the means, the deviations and a histogram of every channel."""
    flat = images.flatten(2).float() / 255
    bins = [((flat >= i / 8) & (flat < (i + 1) / 8)).float().mean(2) for i in range(8)]
    return torch.cat([flat.mean(2), flat.std(2), *bins], 1)


def test_colours_do_not_give_the_class_away() -> None:
    train, test = part(2700, side=32), part(540, side=32, name="test")
    known, asked = colours(stacked(train)), colours(stacked(test))
    mean, std = known.mean(0), known.std(0) + 1e-6
    known, asked = (known - mean) / std, (asked - mean) / std
    labels, truth = torch.tensor(train.labels), torch.tensor(test.labels)
    nearest = labels[torch.cdist(asked, known).topk(15, largest=False).indices].mode(1).values
    targets = F.one_hot(labels, 27).float()
    linear = (asked @ torch.linalg.lstsq(known, targets - 1 / 27).solution).argmax(1)
    for said in (nearest, linear):
        assert (said == truth).float().mean() < 0.1  # 1/27 is chance


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("8", "from 16 to 512 pixels a side, not 8"),
        ("64,noise=2", "noise is a share from 0 to 1"),
        ("64,train=-1", "no part has less than 0 images"),
        ("train=0", "no training images"),
        ("64,trian=5", r"no option 'trian=5'; give it as shapes:SIDE,train="),
        ("64,128", "no option '128'"),
        ("train=many", "no option 'train=many'"),
    ],
)
def test_options_that_cannot_be(options: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_data(f"shapes:{options}")
