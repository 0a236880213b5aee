"""A run's images are a pure function of (seed, epoch), whatever the workers; each image counts once in evaluation."""

import io
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from backbones.data import (
    Data,
    EpochSampler,
    Loaded,
    eval_transform,
    make_loader,
    open_data,
    preprocessing_for,
    set_epoch,
    train_transform,
)
from backbones.data.decode import read_crop
from backbones.data.parts import ArrayPart
from backbones.records import Recipe

RECIPE = Recipe(source="none", epochs=1, batch_size=8, lr=0.1, crop="pad", rotate=10, shear=5, reprob=0.5)


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits")


def loader_of(data: Data, count: int = 40, train: bool = True, **settings: int) -> DataLoader[tuple[Tensor, int]]:
    preprocessing = preprocessing_for(data.info, (16, 16), 1)
    transform = train_transform(preprocessing, RECIPE, data.info) if train else eval_transform(preprocessing)
    settings = {"batch_size": 8, "seed": 3, "workers": 0, **settings}
    return make_loader(data.train.take(range(count)), transform, train=train, **settings)


def epoch_of(loader: DataLoader[tuple[Tensor, int]], epoch: int) -> tuple[Tensor, Tensor]:
    set_epoch(loader, epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_workers_change_nothing(digits: Data) -> None:
    """Also workers that live through several epochs, and epochs in another order."""
    alone, with_two = loader_of(digits), loader_of(digits, workers=2)
    torch.manual_seed(1)
    first = {epoch: epoch_of(alone, epoch) for epoch in (0, 1, 2)}
    torch.manual_seed(2)
    for epoch in (2, 0, 1):
        images, labels = epoch_of(with_two, epoch)
        assert torch.equal(images, first[epoch][0])
        assert torch.equal(labels, first[epoch][1])
    assert not torch.equal(first[0][0], first[1][0])
    assert first[0][1].tolist() != first[1][1].tolist()
    single = loader_of(digits, count=1)
    assert not torch.equal(epoch_of(single, 0)[0], epoch_of(single, 1)[0])  # the draws change, not only the order


def test_draws_depend_on_seed_epoch_and_index_only(digits: Data) -> None:
    transform = train_transform(preprocessing_for(digits.info, (16, 16), 1), RECIPE, digits.info)
    loaded, other = Loaded(digits.train, transform, 3, train=True), Loaded(digits.train, transform, 4, train=True)
    loaded.set_epoch(5)
    once = loaded[7][0]
    torch.rand(10)
    loaded[8]
    assert torch.equal(loaded[7][0], once)
    other.set_epoch(5)
    assert not torch.equal(other[7][0], once)
    loaded.set_epoch(6)
    assert not torch.equal(loaded[7][0], once)
    twice = digits.train.take([7, 7])
    pair = Loaded(twice, transform, 3, train=True)
    assert not torch.equal(pair[0][0], pair[1][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(digits: Data, workers: int) -> None:
    before = torch.get_rng_state()
    epoch_of(loader_of(digits, workers=workers), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_in_order_and_the_same_every_time(digits: Data) -> None:
    loader = loader_of(digits, count=41, train=False)
    images, labels = epoch_of(loader, 0)
    assert labels.tolist() == digits.train.labels[:41]
    assert torch.equal(images, epoch_of(loader, 1)[0])
    transform = eval_transform(preprocessing_for(digits.info, (16, 16), 1))
    assert torch.equal(images[40], transform(digits.train[40][0]))


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 3), (397, 2), (2, 4)])
def test_every_image_once_in_evaluation(length: int, world: int) -> None:
    samplers = [EpochSampler(length, 0, shuffle=False, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(i for sampler in samplers for i in sampler) == list(range(length))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 3), (397, 2), (2, 5)])
def test_equally_many_per_process_in_training(length: int, world: int) -> None:
    samplers = [EpochSampler(length, 9, shuffle=True, rank=rank, world_size=world) for rank in range(world)]
    orders = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in samplers]
        assert {len(part) for part in parts} == {len(samplers[0])} == {-(-length // world)}
        times = Counter(i for part in parts for i in part)
        assert sorted(times) == list(range(length))
        assert max(times.values()) - min(times.values()) <= 1
        orders.append(parts)
    assert [list(sampler) for sampler in samplers] == orders[1]
    assert length == 2 or orders[0] != orders[1]
    alone = EpochSampler(length, 9, shuffle=True)
    whole = list(alone)
    assert [orders[0][i % world][i // world] for i in range(length)] == whole
    assert length == 2 or whole != list(EpochSampler(length, 10, shuffle=True))


def test_loaders_of_two_processes(digits: Data) -> None:
    loaders = [loader_of(digits, count=9, train=False, rank=rank, world_size=2) for rank in (0, 1)]
    labels = [epoch_of(loader, 0)[1].tolist() for loader in loaders]
    assert labels == [digits.train.labels[0:9:2], digits.train.labels[1:9:2]]


@pytest.mark.parametrize(
    ("count", "train", "batches"),
    [(17, True, [8, 8]), (18, True, [8, 8, 2]), (16, True, [8, 8]), (1, True, [1]), (17, False, [8, 8, 1])],
)
def test_no_last_batch_of_one_in_training(digits: Data, count: int, train: bool, batches: list[int]) -> None:
    loader = loader_of(digits, count=count, train=train)
    assert [len(labels) for _, labels in loader] == batches
    assert len(loader) == len(batches)


def test_batches_of_one_are_all_given(digits: Data) -> None:
    assert len(list(loader_of(digits, count=3, batch_size=1))) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_bad_is_named(tmp_path: Path, workers: int) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"train/{name}/x.png")
    data = open_data(f"folder:{tmp_path}")
    (tmp_path / "train/b/x.png").write_bytes(b"")
    transform = eval_transform(preprocessing_for(data.info, (8, 8), 3))
    loader = make_loader(data.train, transform, batch_size=2, train=False, seed=0, workers=workers)
    with pytest.raises(ValueError, match=r"train/b/x.png: it is empty"):
        list(loader)


def test_errors(digits: Data) -> None:
    with pytest.raises(ValueError, match="rank 2 of 2 processes; ranks go from 0 to 1"):
        EpochSampler(10, 0, shuffle=True, rank=2, world_size=2)
    with pytest.raises(TypeError, match="takes a loader from make_loader; this one's sampler is SequentialSampler"):
        set_epoch(DataLoader(ArrayPart(torch.zeros(2, 1, 1, 1), [0, 1], "x", 1)), 1)


def test_scaled_decoding_crops_the_same_places(tmp_path: Path) -> None:
    """A smooth picture, eight times as large as needed, is as when decoded whole, but for half a pixel of place."""
    wave = torch.linspace(0, 2.1, 256)
    planes = [127 * (1 + (wave[:, None] * k).sin() * (wave[None] * (4 - k)).cos()) for k in (1, 2, 3)]
    picture = Image.fromarray(torch.stack(planes, 2).to(torch.uint8).numpy())
    for kind in ("jpg", "png"):
        (tmp_path / kind / "a").mkdir(parents=True)
        (tmp_path / kind / "b").mkdir()
        for name in ("a", "b"):
            picture.save(tmp_path / kind / name / f"0.{kind}", quality=95)
        data = open_data(f"folder:{tmp_path / kind}", whole=True)
        recipe = replace(RECIPE, crop="area", scale=(0.3, 1.0), rotate=0, shear=0, reprob=0, hflip=0.5)
        preprocessing = preprocessing_for(replace(data.info, mean=(0.0,) * 3, std=(1.0,) * 3), (32, 32), 3)
        transform = train_transform(preprocessing, recipe, data.info)
        for epoch in range(6):
            whole, scaled = (Loaded(data.train, transform, 0, True, scaled=flag) for flag in (False, True))
            whole.set_epoch(epoch)
            scaled.set_epoch(epoch)
            apart = (whole[0][0] - scaled[0][0]).abs()
            assert (whole[0][0] - whole[1][0]).abs().mean() > 0.03  # two crops of the same picture
            assert apart.mean() < (0.015 if kind == "jpg" else 1e-9)
            sent = pickle.loads(pickle.dumps(scaled))  # as to a process that is not forked
            assert sent[1][0].equal(scaled[1][0])
    with pytest.raises(ValueError, match="crops of random area; give --crop area"):
        Loaded(data.train, eval_transform(preprocessing), 0, True, scaled=True)
    digits = open_data("digits")
    with pytest.raises(ValueError, match="in memory: leave out --decode"):
        Loaded(digits.train, transform, 0, True, scaled=True)


def test_scaled_decoding_is_no_smaller_than_the_crop_needs() -> None:
    file = io.BytesIO()
    Image.new("RGB", (803, 401)).save(file, "JPEG")
    for box, parts in (((0, 0, 400, 800), 8), ((1, 3, 399, 800), 4), ((11, 5, 99, 700), 1), ((1, 603, 400, 200), 4)):
        image, (top, left, height, width) = read_crop(file.getvalue(), 3, (50, 50), lambda h, w, box=box: box)
        assert image.shape[1:] == (-(-401 // parts), -(-803 // parts))
        assert min(height, width) >= (50 if parts > 1 else 99)
        assert top + height <= image.shape[1]
        assert left + width <= image.shape[2]
