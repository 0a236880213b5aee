"""Data sets as the Hugging Face hub keeps them, made on the spot; nothing is fetched."""

import pickle
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from damaged import photo

from backbones.data import Data, check_all, make_loader, open_data, read_image

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for config in (datasets.config, huggingface_hub.constants):  # as if it had been set before they were imported
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(count: int, start: int = 0, **columns: list[object]) -> datasets.Dataset:
    """Images start to start + count, with labels that go round."""
    numbers = range(start, start + count)
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    stored = [{"bytes": photo(i), "path": None} for i in numbers]
    made = datasets.Dataset.from_dict({"image": stored, "label": [i % 3 for i in numbers]}, features=kinds)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


def on_disk(folder: Path) -> None:
    splits = {"train": rows(12), "validation": rows(4, 12), "test": rows(3, 16), "extra": rows(1)}
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def as_parquet(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    for split, made in (("train", rows(12)), ("validation", rows(4, 12)), ("test", rows(3, 16))):
        made.to_parquet(str(folder / f"data/{split}-00000-of-00001.parquet"))


def as_images(folder: Path) -> None:
    for i in range(19):
        part = "train" if i < 12 else "validation" if i < 16 else "test"
        (folder / part / NAMES[i % 3]).mkdir(parents=True, exist_ok=True)
        (folder / part / NAMES[i % 3] / f"{i:02}.jpg").write_bytes(photo(i))


@pytest.mark.parametrize("make", [on_disk, as_parquet, as_images])
def test_the_formats_of_a_folder(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "photos")
    data = open_data(f"hf:{tmp_path / 'photos'}")
    assert data.info.name == "photos"
    assert data.info.classes == tuple(NAMES)
    assert dict(data.info.images) == {"train": 12, "val": 4, "test": 3}
    numbers = {"train": range(12), "val": range(12, 16), "test": range(16, 19)}
    for name, part in data.parts.items():
        order = sorted(numbers[name], key=lambda i: (i % 3, i)) if make is as_images else numbers[name]
        assert part.labels == [i % 3 for i in order]
        for place, i in enumerate(order):
            assert torch.equal(part.image(place), read_image(photo(i), 3))
        assert check_all(part) == []
    assert data.train.where(5) == f"{tmp_path / 'photos'} train 5"
    taken = pickle.loads(pickle.dumps(data.train.take([7, 2])))
    assert torch.equal(taken.image(0), data.train.image(7))
    assert taken.where(0).endswith("train 7")


def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    as_parquet(tmp_path / "photos")
    train = open_data(f"hf:{tmp_path / 'photos'}").train
    loaders = [
        make_loader(train, lambda image: image.float(), batch_size=5, train=True, seed=0, workers=workers)
        for workers in (0, 2)
    ]
    for one, two in zip(*loaders, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def saved(folder: Path, made: datasets.Dataset, options: str = "") -> Data:
    made.save_to_disk(str(folder))
    return open_data(f"hf:{folder}{options}", channels=1, whole=True)


def test_a_single_table(tmp_path: Path) -> None:
    data = saved(tmp_path / "one", rows(12))
    assert dict(data.info.images) == {"train": 12, "val": 12}
    assert data.train.image(0).shape[0] == 1
    with pytest.raises(ValueError, match="one has no split for validation; add --val-split"):
        open_data(f"hf:{tmp_path / 'one'}")
    data = open_data(f"hf:{tmp_path / 'one'}", val_split=0.25)
    assert dict(data.info.images) == {"train": 9, "val": 3}


def test_columns_are_found_or_listed(tmp_path: Path) -> None:
    renamed = rows(6).rename_columns({"image": "img", "label": "animal"})
    assert saved(tmp_path / "renamed", renamed).info.classes == tuple(NAMES)
    two = rows(6).add_column("fine", [0, 1, 2, 3, 0, 1])
    assert saved(tmp_path / "label", two).info.classes == tuple(NAMES)
    fine = open_data(f"hf:{tmp_path / 'label'},label=fine", whole=True)
    assert fine.info.classes == ("0", "1", "2", "3")
    with pytest.raises(
        ValueError, match=r"no column 'fein' of kind ClassLabel; its columns are image \(Image\), label"
    ):
        open_data(f"hf:{tmp_path / 'label'},label=fein")
    bare = rows(6).remove_columns(["label"]).add_column("text", ["a"] * 6)
    with pytest.raises(
        ValueError, match=r"has 0 columns of kind ClassLabel; .* text \(string\); choose one with .*,label="
    ):
        saved(tmp_path / "bare", bare)
    with pytest.raises(ValueError, match="the column 'text' has no class numbers but such as 'a'"):
        open_data(f"hf:{tmp_path / 'bare'},label=text")
    with pytest.raises(ValueError, match="has 0 columns of kind Image"):
        saved(tmp_path / "blind", rows(6).remove_columns(["image"]))
    with pytest.raises(ValueError, match=r"hf:x,size=3 is not understood; give hf:NAME"):
        open_data("hf:x,size=3")


def test_class_numbers_mean_the_same_in_all_splits(tmp_path: Path) -> None:
    """Each of these would be trained or tested with wrong or empty classes."""
    turned = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES[::-1])})
    others = {
        "names": {"train": rows(6), "validation": rows(3).cast(turned)},
        "columns": {"train": rows(6), "validation": rows(3).remove_columns(["label"])},
        "twice": {"train": rows(6), "validation": rows(3), "valid": rows(1)},
    }
    for name, splits in others.items():
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / name))
        said = {"twice": "more than one split for val, one of them 'valid'"}.get(
            name, "val has not the columns .* of train"
        )
        with pytest.raises(ValueError, match=said):
            open_data(f"hf:{tmp_path / name}")
    for column, values, said in (
        (
            "one",
            [1, 2, 3, 1, 2, 3],
            r"the 3 class numbers of train in 'one' go from 1 to 3, .*; number 3 classes from 0",
        ),
        ("gap", [0, 1, 10**9, 0, 1, 1], "go from 0 to 1000000000"),
        ("flag", [False, True, False, True, False, True], "no class numbers but such as False"),
    ):
        with pytest.raises(ValueError, match=said):
            saved(tmp_path / column, rows(6, **{column: values}), f",label={column}")


def test_parts_without_labels_and_rows_without_images(tmp_path: Path) -> None:
    hidden = rows(3).remove_columns(["label"]).add_column("label", [-1] * 3).cast(rows(1).features)
    datasets.DatasetDict({"train": rows(6), "test": hidden}).save_to_disk(str(tmp_path / "hidden"))
    data = open_data(f"hf:{tmp_path / 'hidden'}", whole=True)
    assert data.test is None
    assert "test not used: not all of its images have a label" in data.info.split
    with pytest.raises(ValueError, match="not all images of train have a 'label'"):
        saved(tmp_path / "all", hidden)
    stored = [{"bytes": photo(0), "path": None}, None, {"bytes": photo(0)[:300], "path": None}] * 2
    holes = datasets.Dataset.from_dict({"image": stored, "label": [0, 1, 2] * 2}, features=rows(1).features)
    bad = check_all(saved(tmp_path / "holes", holes).train)
    assert [(one.where.rpartition(" ")[2], one.reason.split(";")[0][:16]) for one in bad] == [
        ("1", "the row has no i"),
        ("2", "it is damaged or"),
        ("4", "the row has no i"),
        ("5", "it is damaged or"),
    ]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="check the name and the network, or give a folder"):
        open_data("hf:nobody/nothing")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give hf:NAME"):
        open_data(f"hf:{tmp_path / 'nowhere'}")
    datasets.DatasetDict({"test": rows(3)}).save_to_disk(str(tmp_path / "tested"))
    with pytest.raises(ValueError, match="has no split called train, but 'test'"):
        open_data(f"hf:{tmp_path / 'tested'}")
    as_parquet(tmp_path / "photos")
    (tmp_path / "photos/data/train-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="photos could not be loaded"):
        open_data(f"hf:{tmp_path / 'photos'}")
