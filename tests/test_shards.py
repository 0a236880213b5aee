"""Shards in any order: what pack writes others read, what others write we read, and damage is named."""

import gc
import io
import json
import math
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import webdataset
from damaged import hostile_folder, photo
from PIL import Image
from server import Page, Server, serving

from backbones.data import Data, Part, check_all, make_loader, open_data, pack, read_image, set_epoch
from backbones.data.shards import expand


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """12 images to train on, 4 to validate; two names that WebDataset would take for one, and one with dots"""
    for i in range(16):
        part, label = ("train", "cat" if i < 7 else "big.dog") if i < 12 else ("val", "cat" if i < 14 else "big.dog")
        (tmp_path / "photos" / part / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / part / label / f"{i:02}.JPG").write_bytes(photo(i))
    cats = tmp_path / "photos/train/cat"
    (cats / "06.JPG").rename(cats / "00.png")
    (cats / "05.JPG").rename(cats / "Zoë 1.2.jpeg")
    return tmp_path / "photos"


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> Path:
    assert pack(photos, tmp_path / "packed", 4000) == {"train": (6, 12), "val": (2, 4)}
    return tmp_path / "packed"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def same(one: Part, other: Part) -> bool:
    return one.labels == other.labels and all(torch.equal(one.image(i), other.image(i)) for i in range(len(one)))


def serve(server: Server, folder: Path) -> str:
    for file in folder.iterdir():
        server.add(f"/d/{file.name}", Page(file.read_bytes(), headers={"ETag": f'"{file.name}"'}))
    return f"{server.url}/d"


def theirs(folder: Path, count: int = 9, **label: Callable[[int], object]) -> list[tuple[bytes, int]]:
    """Shards as WebDataset's own writer makes them."""
    written = []
    folder.mkdir(exist_ok=True)
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"train-{shard}.tar")) as writer:
            for i in range(shard * count // 3, (shard + 1) * count // 3):
                written.append((photo(i), i % 3))
                named = label or {"cls": lambda i: i % 3}
                writer.write({"__key__": f"{i:05}", "jpg": photo(i), **{k: value(i) for k, value in named.items()}})
    return written


# packing


def test_training_on_shards_is_training_on_the_folder(photos: Path, packed: Path) -> None:
    folder, shards = open_data(f"folder:{photos}"), open_data(f"wds:{packed}")
    assert shards.info.classes == folder.info.classes == ("big.dog", "cat")
    assert shards.info.mean == folder.info.mean
    assert dict(shards.info.images) == {"train": 12, "val": 4}
    for name, part in shards.parts.items():
        assert same(part, folder.parts[name])
        assert same(pickle.loads(pickle.dumps(part)).take([3, 1]), part.take([3, 1]))

    def batches(data: Data, workers: int) -> list[torch.Tensor]:
        loader = make_loader(data.train, lambda image: image.float(), batch_size=5, train=True, seed=0, workers=workers)
        set_epoch(loader, 3)
        return [x for batch in loader for x in batch]

    for one, two in zip(batches(folder, 0), batches(shards, 2), strict=True):
        assert torch.equal(one, two)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_reads_what_pack_wrote(photos: Path, packed: Path) -> None:
    for part in ("train", "val"):
        files = sorted(str(file) for file in packed.glob(f"{part}-*.tar"))
        read = [
            (next(value for kind, value in sample.items() if kind in ("jpg", "jpeg", "png")), int(sample["cls"]))
            for sample in webdataset.WebDataset(files, shardshuffle=False, empty_check=False)
        ]
        data = open_data(f"folder:{photos}").parts[part]
        assert read == [(Path(data.where(i)).read_bytes(), data.labels[i]) for i in range(len(data))]
    gc.collect()


def test_the_index_is_what_walking_finds(packed: Path, cache: Path) -> None:
    with_index = open_data(f"wds:{packed}")
    (packed / "index.json").rename(packed / "elsewhere.json")
    (packed / "classes.txt").write_text("big.dog\ncat\n")
    without = open_data(f"wds:{packed}")
    assert without.info == with_index.info
    for name, part in with_index.parts.items():
        other = without.parts[name]
        assert same(part, other)
        assert [part.where(i) for i in range(len(part))] == [other.where(i) for i in range(len(other))]
    remembered = list((cache / "backbones/shards").iterdir())
    assert len(remembered) == 8
    for file in remembered:
        file.write_text(file.read_text().replace("JPG", "jpg").replace(".jpg", ".bmp"))
    with pytest.raises(OSError, match=r"big.dog/07.bmp is not at byte 512"):  # not walked again
        open_data(f"wds:{packed}")


def test_another_shard_of_the_same_size_is_found_out(tmp_path: Path) -> None:
    """Before and after the index is made; names that do not fit into a header, or are not ASCII, are known again."""
    for folder, label in (("one", "cat"), ("two", "dog")):
        for i, name in enumerate(("a.png", f"{'n' * 130}.png", "Zoë.png")):
            (tmp_path / folder / "x").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (80 * i, 0, 0)).save(tmp_path / folder / label / name)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "x/a.png")
        pack(tmp_path / folder, tmp_path / f"packed-{folder}", 10**6)
    shard = tmp_path / "packed-one/train-000000.tar"
    other = (tmp_path / "packed-two/train-000000.tar").read_bytes()
    part = open_data(f"wds:{tmp_path / 'packed-one'}", whole=True).train
    assert [part.image(i)[0, 0, 0].item() for i in range(4)] == [160, 0, 80, 0]
    (tmp_path / "packed-two/index.json").unlink()
    walked = open_data(f"wds:{tmp_path / 'packed-two'}", whole=True).train
    assert [walked.image(i)[0, 0, 0].item() for i in range(4)] == [160, 0, 80, 0]
    assert len(other) == shard.stat().st_size
    shard.write_bytes(other)
    for i in range(3):
        with pytest.raises(OSError, match=r"is not at byte .* as the index says"):
            part.image(i)


def test_packing_twice_is_the_same(photos: Path, packed: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "again", 4000)
    files = sorted(file.name for file in packed.iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    assert all((packed / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_packing_is_whole_or_not_at_all(photos: Path, tmp_path: Path) -> None:
    (photos / "val/cat/99.jpg").symlink_to("nowhere.jpg")
    (photos / "val/cat/98.jpg").symlink_to("/etc/passwd")
    (photos / "val/cat/97.jpg").write_bytes(photo(0)[:300])
    with pytest.raises(ValueError, match=r"(?s)3 of 19 images.*97.jpg.*98.jpg: it is not an.*99.jpg.*data check"):
        pack(photos, tmp_path / "out", 4000)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "cache"}
    with pytest.raises(ValueError, match=r"out lies in .*photos, which it would change"):
        pack(photos, photos / "train/out", 4000)
    assert not (photos / "train/out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out is there already, and nothing is overwritten"):
        pack(photos, tmp_path / "out", 4000)


def test_links_out_of_the_folder_are_told(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "private.jpg").write_bytes(photo(99))
    (photos / "val/cat/98.jpg").symlink_to("12.JPG")
    (photos / "val/cat/99.jpg").symlink_to(tmp_path / "private.jpg")
    pack(photos, tmp_path / "out", 10**6)
    assert caplog.messages == [
        f"1 images are copied from outside of {photos}, where links lead: {photos}/val/cat/99.jpg"
    ]


def test_a_folder_without_parts(photos: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("data", "pack", str(photos / "train"), str(tmp_path / "flat"), "--shard-size", "0.004")
    assert (code, out.splitlines()[0]) == (0, "train: 12 images in 6 shards")
    with pytest.raises(ValueError, match=r"flat has no val part; add --val-split 0.2"):
        open_data(f"wds:{tmp_path / 'flat'}")
    data = open_data(f"wds:{tmp_path / 'flat'}", val_split=0.25)
    folder = open_data(f"folder:{photos / 'train'}", val_split=0.25)
    assert data.val is not None
    assert folder.val is not None
    assert same(data.val, folder.val)
    assert open_data(f"wds:{tmp_path / 'flat'}", whole=True).info.images["val"] == 12


# shards of others


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_of_webdatasets_writer(tmp_path: Path, kind: str) -> None:
    labels = {"cls": lambda i: i % 3} if kind == "cls" else {"json": lambda i: {"label": i % 3}, "txt": lambda i: "-"}
    written = theirs(tmp_path / "w", **labels)
    for pattern in ("train-{0..2}.tar", "train-*.tar", "train-{0,1,2}.tar", ""):
        part = open_data(f"wds:{tmp_path}/w/{pattern}", val_split=0, whole=True).train
        assert part.labels == [label for _, label in written]
        for i, (content, _) in enumerate(written):
            assert torch.equal(part.image(i), read_image(content, 3))
    assert part.where(4) == f"{tmp_path}/w/train-1.tar: 00004.jpg"
    assert open_data(f"wds:{tmp_path}/w/train-0.tar", whole=True).info.classes == ("0", "1", "2")
    (tmp_path / "w/classes.txt").write_text("ant\nbee\ncat\n")
    assert open_data(f"wds:{tmp_path}/w", whole=True).info.classes == ("ant", "bee", "cat")
    (tmp_path / "w/classes.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match="has a label 2, but only 2 classes are named"):
        open_data(f"wds:{tmp_path}/w", whole=True)


def test_a_gap_in_classes_txt_shifts_no_names(tmp_path: Path) -> None:
    theirs(tmp_path / "w")
    (tmp_path / "w/classes.txt").write_text("ant\n\nbee\ncat\n")
    with pytest.raises(ValueError, match=r"classes.txt: line 2 is empty"):
        open_data(f"wds:{tmp_path}/w", whole=True)
    with pytest.raises(ValueError, match=r"train-\{1..0\}.tar names no shard; numbers in braces go up"):
        open_data(f"wds:{tmp_path}/w/train-{{1..0}}.tar", whole=True)


def test_braces() -> None:
    assert expand("a{08..11}b") == ["a08b", "a09b", "a10b", "a11b"]
    assert expand("{x,y}-{1..2}.tar") == ["x-1.tar", "x-2.tar", "y-1.tar", "y-2.tar"]
    assert expand("plain") == ["plain"]


def tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a_jpg": b"x"}, r"a has no label; it takes a .cls"),
        ({"a_cls": b"1"}, r"a has no image"),
        ({"a_jpg": b"x", "a_cls": b"cat"}, r"a.cls has no number of a class, but b'cat'"),
        ({"a_jpg": b"x", "a_cls": b"-1"}, r"a.cls has no number"),
        ({"a_jpg": b"x", "a_cls": b"3000000000"}, r"train-0.tar: a.cls has no number .* from 0 to 1,000,000"),
        ({"a_jpg": b"x", "a_cls": b"1" * 70_000}, r"train-0.tar: a.cls has 70,000 bytes"),
        ({"a_jpg": b"x", "a_json": b"[" * 60_000}, r"train-0.tar: a.json has no number"),
        *(
            ({"a_jpg": b"x", "a_json": json.dumps(told).encode()}, r"train-0.tar: a.json has no number")
            for told in ({"label": math.inf}, {"label": [1]}, {"cls": {"a": 1}}, {"label": 10**20}, {"label": 1.0})
        ),
        ({"a_jpg": b"x", "a_json": b"{]"}, r"a.json has no number"),
        ({"a_jpg": b"x", "a_json": b"{}"}, r"a has no label"),
        ({"a_jpg": b"x", "a_png": b"x", "a_cls": b"1"}, r"a has two images, a.jpg and a.png"),
        ({}, r"has no images; remove it"),
    ],
)
def test_samples_that_cannot_be(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_data(f"wds:{tar(tmp_path / 'train-0.tar', **members)}", whole=True)


@pytest.mark.parametrize("size", [1 << 33, -1024])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_impossible_size_are_not_read(tmp_path: Path, kind: bytes, size: int) -> None:
    header = tarfile.TarInfo("odd")
    header.type, header.size = kind, size
    (tmp_path / "train-0.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(ValueError, match=rf"train-0.tar is not a whole .* header odd tells of {size:,} bytes"):
        open_data(f"wds:{tmp_path / 'train-0.tar'}", whole=True)
    with tarfile.open(tmp_path / "train-0.tar", "w") as file:  # a name of its own, and a size: back to its start
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"size": "-2048"}
        file.addfile(member)
    with pytest.raises(ValueError, match=r"train-0.tar is not a whole .*a.jpg has -2,048 bytes"):
        open_data(f"wds:{tmp_path / 'train-0.tar'}", whole=True)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("parts",), None, "its parts are not train"),
        (("parts",), {}, "its parts are not train"),
        (("parts", "extra"), {}, "its parts are not train"),
        (("classes",), [], "names no classes"),
        (("parts", "val"), {}, "val lacks its shards or its images"),
        (("parts", "train", "samples"), [], "train lacks its shards or its images"),
        (("parts", "train", "shards", 0, 0), "../x.tar", "train: the shard '../x.tar'"),
        (("parts", "train", "samples", 2, 0), 99, r"train: the image \[99, .* is in no shard"),
        (("parts", "train", "samples", 2, 1), 1 << 62, "is in no shard"),
        (("parts", "train", "samples", 2, 3), 7, "or of no class"),
        (("parts", "train", "samples", 2, 3), 1.0, r"is not \(shard, offset"),
        (("parts", "train", "samples", 2, 3), 10**20, "train lacks"),
    ],
)
def test_an_index_that_cannot_be(packed: Path, where: tuple[str | int, ...], value: object, said: str) -> None:
    told = at = json.loads((packed / "index.json").read_text())
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    (packed / "index.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=rf"index.json is not what `backbones data pack` writes \(.*{said}"):
        open_data(f"wds:{packed}")


def test_damaged_shards_are_named(tmp_path: Path, packed: Path) -> None:
    part = open_data(f"wds:{packed}").train
    first = packed / "train-000000.tar"
    whole = first.read_bytes()
    first.write_bytes(whole[:-512])
    with pytest.raises(OSError, match=r"train-000000.tar no longer has the .* bytes of its index"):
        part.image(0)
    with pytest.raises(OSError, match=r"train-000000.tar is another size"):
        open_data(f"wds:{packed}")
    first.write_bytes(whole[512:] + bytes(512))  # as long, but all lies elsewhere
    with pytest.raises(OSError, match=r"train-000000.tar: big.dog/07.jpg is not at byte 512 as the index says"):
        part.image(0)
    first.unlink()
    with pytest.raises(OSError, match=r"the shard .*train-000000.tar is gone"):
        part.image(0)
    with pytest.raises(OSError, match=r"is gone, .*index.json says"):
        open_data(f"wds:{packed}")
    theirs(tmp_path / "w")
    cut = tmp_path / "w/train-1.tar"
    for size in (cut.stat().st_size - 11_000, 1000, 0):
        cut.write_bytes(cut.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"train-1.tar is not a whole plain tar file .*copy it anew"):
            open_data(f"wds:{tmp_path}/w", whole=True)
    with pytest.raises(FileNotFoundError, match=r"no shard .*train-7.tar \(1 of 2 missing\)"):
        open_data(f"wds:{tmp_path}/w/train-{{0,7}}.tar")
    (packed / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index.json is not what `backbones data pack` writes"):
        open_data(f"wds:{packed}")


def test_bad_images_in_shards(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [path for path in hostile_folder(tmp_path / "photos", 60) if not path.is_symlink()]
    for path in (tmp_path / "photos").rglob("*.jpg"):
        if not path.exists():
            path.unlink()
    monkeypatch.setattr(sys.modules[pack.__module__], "check_all", lambda *_: [])  # as if they broke later
    pack(tmp_path / "photos", tmp_path / "packed", 20_000)
    part = open_data(f"wds:{tmp_path / 'packed'}").train
    named = [path.relative_to(tmp_path / "photos/train").as_posix() for path in bad if "train" in path.parts]
    assert [one.where.partition(": ")[2] for one in check_all(part)] == named
    assert json.loads(next((cache / "backbones/checked").iterdir()).read_text())["good"]


# on a web server


def test_shards_of_a_web_server(server: Server, packed: Path) -> None:
    here, address = open_data(f"wds:{packed}"), serve(server, packed)
    there = open_data(f"wds:{address}")
    assert there.info.mean == here.info.mean
    assert there.info.classes == here.info.classes
    for name, part in there.parts.items():
        assert same(part, here.parts[name])
    assert server.connections == 1  # it stays open
    assert all(asked for _, path, asked in server.seen if path.endswith(".tar"))  # pieces only
    some = open_data(f"wds:{address}/train-{{000001..000002}}.tar", whole=True).train
    assert same(some, here.train.take([2, 3, 4, 5]))
    loader = make_loader(there.train, lambda image: image.float(), batch_size=4, train=False, seed=0, workers=2)
    assert [label for _, labels in loader for label in labels.tolist()] == here.train.labels


def test_web_shards_without_an_index(server: Server, tmp_path: Path) -> None:
    written = theirs(tmp_path / "w")
    address = serve(server, tmp_path / "w")
    for _ in range(2):
        part = open_data(f"wds:{address}/train-{{0..2}}.tar", whole=True).train
        assert part.labels == [label for _, label in written]
        assert torch.equal(part.image(8), read_image(written[8][0], 3))
    with pytest.raises(ValueError, match=r"has no index.json, and a web server lists no files; name the shards"):
        open_data(f"wds:{address}")
    with pytest.raises(OSError, match="answered 404"):
        open_data(f"wds:{address}/train-{{0..3}}.tar", whole=True)


def test_servers_that_fail(server: Server, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbones.data.web.time.sleep", lambda seconds: None)
    address = serve(server, packed)
    part = open_data(f"wds:{address}").train
    page = server.pages["/d/train-000000.tar"]
    page.cuts = [100, 100]
    image = part.image(0)  # at the third try
    page.cuts = [100] * 9
    with pytest.raises(ConnectionError, match="failed 4 times, at last with"):
        part.image(0)
    page.cuts, page.ranges = [], False
    with pytest.raises(OSError, match="sends whole files only"):
        part.image(0)
    page.ranges, page.body = True, page.body + bytes(512)
    with pytest.raises(OSError, match="is not the file of the index, which has"):
        part.image(0)
    page.body = page.body[:-512]
    assert torch.equal(part.image(0), image)
    server.pages["/elsewhere"] = page
    server.pages["/d/train-000000.tar"] = Page(status=302, headers={"Location": "/elsewhere"})
    assert torch.equal(part.image(0), image)
    page.status = 503
    with pytest.raises(ConnectionError, match="failed 4 times, at last with: it answered 503"):
        part.image(0)
    del server.pages["/d/train-000000.tar"]
    with pytest.raises(OSError, match="answered 404"):
        part.image(0)


def test_only_what_has_a_version_is_remembered(server: Server, tmp_path: Path, cache: Path) -> None:
    """A web shard is exchanged for another of its size; its address has a signature."""
    theirs(tmp_path / "w", cls=lambda i: i % 2)
    one = (tmp_path / "w/train-0.tar").read_bytes()
    theirs(tmp_path / "w", cls=lambda i: (i + 1) % 2)
    two = (tmp_path / "w/train-0.tar").read_bytes()
    assert len(one) == len(two)
    labels = []
    for body, headers in ((one, {}), (two, {}), (one, {"ETag": "1"}), (two, {"ETag": "2"})):
        address = server.add("/t.tar?signed=a/b", Page(body, headers=headers))
        labels.append(open_data(f"wds:{address}", whole=True).train.labels)
    assert labels == [[0, 1, 0], [1, 0, 1]] * 2
    assert len(list((cache / "backbones/shards").iterdir())) == 2
    server.pages["/t.tar?signed=a/b"].length = False
    with pytest.raises(OSError, match="does not tell the size of"):
        open_data(f"wds:{address}", whole=True)


def test_pieces_come_through_the_proxy(server: Server, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server plays a proxy too: it is asked for whole addresses, of a host that there is not."""
    here = open_data(f"wds:{packed}")
    for file in packed.iterdir():
        server.add(f"http://nowhere.invalid/d/{file.name}", Page(file.read_bytes()))
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:a%20b@"))
    there = open_data("wds:http://nowhere.invalid/d")
    assert same(there.train, here.train)
    assert server.connections == 1
    assert set(server.proxied) == {"Basic bWU6YSBi"}
