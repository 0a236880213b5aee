"""Where data comes from, and what is said when it does not."""

import pickle
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, Flowers102, ImageNet

from backbones.data import check_part, colours_of, open_data

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def make_images(folder: Path, count: int, colour: tuple[int, int, int] = RED, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (6, 4), colour).save(folder / f"{i:03}.{ending}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train and val of two classes"""
    make_images(tmp_path / "photos/train/cat", 6, RED)
    make_images(tmp_path / "photos/train/dog", 2, BLUE)
    make_images(tmp_path / "photos/val/cat", 1, RED)
    make_images(tmp_path / "photos/val/dog", 3, BLUE)
    return tmp_path / "photos"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """two classes without parts"""
    make_images(tmp_path / "flat/cat", 10, RED)
    make_images(tmp_path / "flat/dog", 20, BLUE)
    return tmp_path / "flat"


# digits


def test_digits_are_split_by_writer() -> None:
    data, bundled = open_data("digits"), load_digits()
    assert data.val is None
    assert data.test is not None
    assert dict(data.info.images) == {"train": 1297, "test": 500}
    assert data.info.classes == tuple("0123456789")
    assert (data.info.channels, data.info.size, data.info.mirror) == (1, (8, 8), False)
    assert data.train.labels + data.test.labels == bundled.target.tolist()
    for part, first in ((data.train, 0), (data.test, 1297)):
        for i in (0, 17, len(part) - 1):
            image, label = part[i]
            assert image.dtype == torch.uint8
            assert torch.equal(image[0], torch.tensor(bundled.images[first + i] * 255 / 16).round().to(torch.uint8))
            assert label == bundled.target[first + i]
    assert data.train.where(17) == "digits train 17"
    assert data.test.where(0) == "digits test 0"
    assert "writers" in data.info.split


def test_digits_hold_out_the_last_writers() -> None:
    data = open_data("digits", val_split=0.2)
    assert data.val is not None
    assert dict(data.info.images) == {"train": 1038, "val": 259, "test": 500}
    assert [data.val.where(i) for i in (0, 258)] == ["digits train 1038", "digits train 1296"]
    assert data.val.labels == load_digits().target[1038:1297].tolist()
    assert torch.equal(data.val[0][0], open_data("digits").train[1038][0])
    assert "last 259" in data.info.split


def test_mean_and_deviation_are_the_pixels() -> None:
    info = open_data("digits").info
    pixels = load_digits().images[[i * 1297 // 256 for i in range(256)]] / 16
    assert info.mean == pytest.approx([pixels.mean()], abs=1e-3)
    assert info.std == pytest.approx([pixels.std()], abs=1e-3)


def test_gray_images_become_colour() -> None:
    data = open_data("digits", channels=3)
    gray = open_data("digits")
    assert data.info.channels == 3
    assert data.info.mean == pytest.approx(gray.info.mean * 3)
    assert torch.equal(data.train[5][0], gray.train[5][0].expand(3, 8, 8))


# folders


def test_folder_with_parts(photos: Path) -> None:
    data = open_data(f"folder:{photos}")
    assert data.info.name == "photos"
    assert data.info.classes == ("cat", "dog")
    assert (data.info.channels, data.info.size, data.info.mirror) == (3, None, True)
    assert dict(data.info.images) == {"train": 8, "val": 4}
    assert data.val is not None
    assert data.train.labels == [0] * 6 + [1] * 2
    assert data.val.labels == [0, 1, 1, 1]
    image, label = data.val[1]
    assert image.shape == (3, 4, 6)
    assert image[:, 0, 0].tolist() == list(BLUE)
    assert label == 1
    assert data.val.where(1) == str(photos / "val/dog/000.png")
    assert data.info.mean == pytest.approx((6 / 8, 0, 2 / 8))
    assert data.info.std == pytest.approx(((6 / 8 * 2 / 8) ** 0.5, 1 / 255, (6 / 8 * 2 / 8) ** 0.5))


def test_folder_with_test_and_every_ending(photos: Path) -> None:
    for i, ending in enumerate(("jpg", "JPEG", "Png", "bmp", "webp", "gif", "tif", "TIFF")):
        make_images(photos / f"test/{'cat' if i % 2 else 'dog'}", 1, GREEN, ending)
    (photos / "test/cat/notes.txt").write_text("not an image")
    (photos / "test/cat/.hidden.png").write_text("not an image")
    (photos / "test/.cache").mkdir()
    data = open_data(f"folder:{photos}")
    assert data.test is not None
    assert Counter(data.test.labels) == {0: 4, 1: 4}
    assert dict(data.info.images) == {"train": 8, "val": 4, "test": 8}
    check_part(data.test)


def test_folder_in_gray(photos: Path) -> None:
    data = open_data(f"folder:{photos}", channels=1)
    assert data.train[0][0].tolist() == np.asarray(Image.new("RGB", (6, 4), RED).convert("L"))[None].tolist()
    assert len(data.info.mean) == 1


def test_flat_folder_is_split_by_class(flat: Path) -> None:
    data = open_data(f"folder:{flat}", val_split=0.2)
    assert data.val is not None
    assert Counter(data.train.labels) == {0: 8, 1: 16}
    assert Counter(data.val.labels) == {0: 2, 1: 4}
    train = {data.train.where(i) for i in range(len(data.train))}
    val = {data.val.where(i) for i in range(len(data.val))}
    assert not train & val
    assert train | val == {str(path) for path in flat.glob("*/*.png")}
    again = open_data(f"folder:{flat}", val_split=0.2).val
    assert again is not None
    assert val == {again.where(i) for i in range(len(again))}
    assert val != {str(flat / f"{c}/{i:03}.png") for c, n in (("cat", 2), ("dog", 4)) for i in range(n)}
    assert "20%" in data.info.split


def test_a_single_image_of_a_class_stays_in_training(flat: Path) -> None:
    make_images(flat / "owl", 1)
    data = open_data(f"folder:{flat}", val_split=0.9)
    assert data.val is not None
    assert Counter(data.train.labels) == {0: 1, 1: 2, 2: 1}
    assert Counter(data.val.labels) == {0: 9, 1: 18}


def test_a_class_may_be_called_train(flat: Path) -> None:
    make_images(flat / "train", 5)
    assert open_data(f"folder:{flat}", val_split=0.2).info.classes == ("cat", "dog", "train")


def test_classes_that_val_lacks_are_said(photos: Path) -> None:
    make_images(photos / "train/owl", 2)
    make_images(photos / "unlabelled/somewhere", 2)
    data = open_data(f"folder:{photos}")
    assert data.info.classes == ("cat", "dog", "owl")
    assert "val has no images of 'owl'" in data.info.split
    assert "not used: 'unlabelled'" in data.info.split


def test_folder_errors(tmp_path: Path, photos: Path, flat: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; give a folder.*train/<class>"):
        open_data(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        open_data(f"folder:{tmp_path / 'a.zip'}")
    with pytest.raises(ValueError, match=r"has classes \('cat', 'dog'\) but no train and val.*--val-split 0.2"):
        open_data(f"folder:{flat}")
    with pytest.raises(ValueError, match=r"has its own val part of 4 images; leave out --val-split \(it was 0.1\)"):
        open_data(f"folder:{photos}", val_split=0.1)
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match=r"no images \(jpg, .*under .*void, but no folders; expected"):
        open_data(f"folder:{tmp_path / 'void'}")
    (tmp_path / "hollow/train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images .*under .*hollow/train, but no folders"):
        open_data(f"folder:{tmp_path / 'hollow'}")
    make_images(tmp_path / "deep/a/b", 1)
    with pytest.raises(ValueError, match="but folders 'a' without images; expected"):
        open_data(f"folder:{tmp_path / 'deep'}", val_split=0.2)
    make_images(tmp_path / "single/cat", 3)
    with pytest.raises(ValueError, match="has only one class, 'cat'"):
        open_data(f"folder:{tmp_path / 'single'}", val_split=0.2)


@pytest.mark.parametrize("where", ["", "train"])
def test_images_outside_the_classes(tmp_path: Path, where: str) -> None:
    make_images(tmp_path / "loose" / where, 3)
    with pytest.raises(ValueError, match=r"3 images, such as 000.png, lie directly in .*loose.*expected PATH/train"):
        open_data(f"folder:{tmp_path / 'loose'}", val_split=0.2)


@pytest.mark.parametrize(("theirs", "ours"), [("valid", "val"), ("validation", "val"), ("Test", "test")])
def test_misnamed_part(photos: Path, theirs: str, ours: str) -> None:
    (photos / "val").rename(photos / theirs)
    with pytest.raises(ValueError, match=f"has a part called '{theirs}'; .*: rename it '{ours}'"):
        open_data(f"folder:{photos}")


def test_empty_and_unknown_classes(photos: Path) -> None:
    (photos / "train/emu").mkdir()
    with pytest.raises(ValueError, match=r"no images .* in 'emu' of .*train; put some"):
        open_data(f"folder:{photos}")
    (photos / "train/emu").rmdir()
    make_images(photos / "val/owl", 1)
    with pytest.raises(ValueError, match=r"val has classes that .*train lacks: 'owl'; give both the same"):
        open_data(f"folder:{photos}")


# unreadable images


def test_unreadable_images_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_images(tmp_path / f"train/{name}", 40)
    data = open_data(f"folder:{tmp_path}")
    check_part(data.train)
    for i in range(12):
        (tmp_path / f"train/a/{i:03}.png").write_bytes(b"")
    whole = (tmp_path / "train/b/000.png").read_bytes()
    (tmp_path / "train/b/000.png").write_bytes(whole[:-24])  # the header is whole
    with pytest.raises(ValueError, match="13 of 80 images looked at cannot be used") as error:
        check_part(data.train, samples=80)
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert "a/000.png: it is empty" in lines[1]
    assert lines[-1] == "  and 3 more"
    with pytest.raises(ValueError, match="12 of 80"):
        check_part(data.train, samples=1)
    assert open_data(f"folder:{tmp_path}").info.mean == pytest.approx((1, 0, 0))  # of those that can be read
    for path in tmp_path.glob("train/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a/000.png: it is empty.*\n.*a/001.png: it is empty"):
        open_data(f"folder:{tmp_path}")
    check_part(open_data("digits").train)


# torchvision's


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Five batches of 4 images and one of 2, pickled as in 2009; the 22 images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (22, 3, 32, 32), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = images[4 * i : 4 * i + 4]
        entry = {"data": batch.reshape(len(batch), -1), "labels": [(4 * i + j) % 10 for j in range(len(batch))]}
        plain = pickle.dumps(entry, protocol=2)
        assert plain.count(b"\x89\x88\x87") == 1
        (folder / name).write_bytes(plain.replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))  # dtype(..., 0, 1)
    names = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    return images


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_cifar(tmp_path, monkeypatch)
    data = open_data(f"tv:CIFAR10@{tmp_path}")
    assert data.test is not None
    assert data.val is None
    assert dict(data.info.images) == {"train": 20, "test": 2}
    assert (data.info.name, data.info.channels, data.info.size, data.info.mirror) == ("CIFAR10", 3, (32, 32), True)
    assert data.info.classes[3] == "class 3"
    assert np.array_equal(torch.stack([data.train[i][0] for i in range(20)]).numpy(), images[:20])
    assert np.array_equal(data.test[1][0].numpy(), images[21])
    assert data.train.labels == [i % 10 for i in range(20)]
    assert data.info.mean == pytest.approx(images[:20].mean((0, 2, 3)) / 255)
    assert data.info.std == pytest.approx(images[:20].std((0, 2, 3)) / 255)
    gray = open_data(f"tv:CIFAR10@{tmp_path}", channels=1).train[7][0]
    assert np.array_equal(gray[0].numpy(), np.asarray(Image.fromarray(images[7].transpose(1, 2, 0)).convert("L")))
    split = open_data(f"tv:CIFAR10@{tmp_path}", val_split=0.5)
    assert split.val is not None
    assert Counter(split.val.labels) == Counter(split.train.labels) == dict.fromkeys(range(10), 1)
    assert {split.val.where(i) for i in range(10)} | {split.train.where(i) for i in range(10)} == {
        f"CIFAR10 train {i}" for i in range(20)
    }
    where = int(split.val.where(0).split()[-1])
    assert np.array_equal(split.val[0][0].numpy(), images[where])


@pytest.mark.parametrize(("name", "mirror"), [("MNIST", False), ("FashionMNIST", True)])
def test_mnist(tmp_path: Path, name: str, mirror: bool) -> None:
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (15, 28, 28), dtype=np.uint8)
    labels = (np.arange(15) % 10).astype(np.uint8)
    for part, chosen in (("train", slice(0, 12)), ("t10k", slice(12, 15))):
        some = images[chosen]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, len(some), 28, 28) + some.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(some)) + labels[chosen].tobytes())
    data = open_data(f"tv:{name}@{tmp_path}")
    assert data.test is not None
    assert dict(data.info.images) == {"train": 12, "test": 3}
    assert (data.info.channels, data.info.size, data.info.mirror) == (1, (28, 28), mirror)
    assert np.array_equal(data.train[11][0].numpy(), images[11:12])
    assert np.array_equal(data.test[0][0].numpy(), images[12:13])
    assert data.test[0][1] == 2
    assert data.info.classes[0] == ("0 - zero" if name == "MNIST" else "T-shirt/top")


def test_imagenet_takes_its_val(tmp_path: Path) -> None:
    torch.save(({"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",)}, []), tmp_path / "meta.bin")
    for part in ("train", "val"):
        make_images(tmp_path / part / "n01", 2, RED, "jpeg")
        make_images(tmp_path / part / "n02", 1, BLUE, "jpeg")
    data = open_data(f"tv:ImageNet@{tmp_path}")
    assert data.test is None
    assert data.val is not None
    assert data.info.classes == ("tench, Tinca tinca", "goldfish")
    assert data.val.labels == [0, 0, 1]
    assert data.val.where(2) == str(tmp_path / "val/n02/000.jpeg")
    with pytest.raises(ValueError, match="has its own val part"):
        open_data(f"tv:ImageNet@{tmp_path}", val_split=0.1)


def test_pets_and_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    pets = tmp_path / "oxford-iiit-pet"
    make_images(pets / "images", 4, RED, "jpg")
    for i, name in enumerate(["Abyssinian_1", "great_dane_7", "Abyssinian_2", "great_dane_9"]):
        (pets / f"images/{i:03}.jpg").rename(pets / f"images/{name}.jpg")
    (pets / "annotations").mkdir()
    (pets / "annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\ngreat_dane_7 2 2 1\n")
    (pets / "annotations/test.txt").write_text("great_dane_9 2 2 1\nAbyssinian_2 1 1 1\n")
    data = open_data(f"tv:OxfordIIITPet@{tmp_path}")
    assert data.test is not None
    assert data.info.classes == ("Abyssinian", "Great Dane")
    assert (data.train.labels, data.test.labels) == ([0, 1], [1, 0])
    assert data.test.where(0) == str(pets / "images/great_dane_9.jpg")
    assert data.test[0][0].shape == (3, 4, 6)

    flowers = tmp_path / "flowers-102"
    make_images(flowers / "jpg", 5, BLUE, "jpg")
    for i in range(5):
        (flowers / f"jpg/{i:03}.jpg").rename(flowers / f"jpg/image_{i + 1:05}.jpg")
    savemat(flowers / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 102]]})
    savemat(flowers / "setid.mat", {"trnid": [[4, 5]], "valid": [[1, 2]], "tstid": [[3, 3]]})
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5=None: Path(path).is_file())
    data = open_data(f"tv:Flowers102@{tmp_path}")
    assert data.val is not None
    assert data.test is not None
    assert (data.train.labels, data.val.labels, data.test.labels) == ([1, 101], [0, 1], [0, 0])
    assert data.info.classes == tuple(Flowers102.classes)
    assert data.test.where(0).endswith("image_00003.jpg")


def test_torchvision_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no whole CIFAR10 under .*; add --download"):
        open_data(f"tv:CIFAR10@{tmp_path}")
    for name in ("MNIST", "CIFAR100", "Flowers102", "OxfordIIITPet"):
        with pytest.raises(FileNotFoundError, match=f"no whole {name} under .*; add --download"):
            open_data(f"tv:{name}@{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"ImageNet under .*it cannot be downloaded: get ILSVRC2012_devkit"):
        open_data(f"tv:ImageNet@{tmp_path}")
    with pytest.raises(ValueError, match=r"ImageNet cannot be downloaded; get .* then leave out --download"):
        open_data(f"tv:ImageNet@{tmp_path}", download=True)
    with pytest.raises(ValueError, match=r"tv:SVHN@x is not known; .*MNIST, FashionMNIST, CIFAR10, CIFAR100, ImageNet"):
        open_data("tv:SVHN@x")

    def no_network(self: CIFAR10) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(OSError, match=r"CIFAR10 could not be downloaded to .*no route to host.*check the network"):
        open_data(f"tv:CIFAR10@{tmp_path}", download=True)

    def no_scipy(self: ImageNet) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(ImageNet, "parse_archives", no_scipy)
    with pytest.raises(ModuleNotFoundError, match="torchvision reads ImageNet with scipy; run: pip install scipy"):
        open_data(f"tv:ImageNet@{tmp_path}")


def test_download_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "download", lambda self: write_cifar(tmp_path, monkeypatch) if self.train else None)
    assert len(open_data(f"tv:CIFAR10@{tmp_path}", download=True).train) == 20


# the word, and the colours


@pytest.mark.parametrize("spec", ["", "digit", "photos", "folder:", "tv:CIFAR10", "tv:@x", "tv:CIFAR10@", "digits:x"])
def test_other_words_show_the_forms(spec: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"(?s)no data is called '{spec}'; .*\n  digits .*\n  shapes .*\n  folder:PATH .*\n  tv:NAME@ROOT",
    ):
        open_data(spec)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="not 4; choose channels=1 or 3"):
        open_data("digits", channels=4)
    for share in (-0.1, 1.0, 20):
        with pytest.raises(ValueError, match=f"share from 0 up to, not including, 1, such as 0.2; it was {share}"):
            open_data("digits", val_split=share)
    with pytest.raises(ValueError, match="leaves one part empty"):
        open_data("digits", val_split=0.9999)


def test_colours_of(photos: Path) -> None:
    values, vectors = colours_of(open_data(f"folder:{photos}").train)
    # 6 red and 2 blue images: one axis from red to blue, of variance 2 p (1 - p)
    assert values.tolist() == pytest.approx([2 * 6 / 8 * 2 / 8, 0, 0], abs=1e-6)
    assert vectors[:, 0].abs().tolist() == pytest.approx([0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert vectors[0, 0] * vectors[2, 0] < 0
    digits = open_data("digits")
    values, vectors = colours_of(digits.train)
    assert values.tolist() == pytest.approx([digits.info.std[0] ** 2], rel=1e-5)
    assert vectors.tolist() == [[1]]
