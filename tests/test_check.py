"""Every image is decoded, once; what cannot be used is listed exactly, and can be left out."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damaged import ODD, UNUSABLE, hostile_folder, photo

from backbones.data import Bad, Part, check_all, check_part, leave_out, open_data
from backbones.data import parts as parts_module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that this process has decoded."""
    names: list[str] = []
    read = parts_module.read_image

    def noted(source: str | bytes, channels: int, name: str = "") -> torch.Tensor:
        names.append(name)
        return read(source, channels, name)

    monkeypatch.setattr(parts_module, "read_image", noted)
    return names


def found(parts: dict[str, Part], processes: int = 0) -> list[str]:
    return [one.where for part in parts.values() for one in check_all(part, processes)]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_hostile_folder(tmp_path: Path, processes: int) -> None:
    bad = hostile_folder(tmp_path / "photos", 200)
    assert len(bad) == 20
    data = open_data(f"folder:{tmp_path / 'photos'}")
    assert found(data.parts, processes) == [str(path) for path in bad]
    reasons = [one.reason for one in check_all(data.train)]
    for said in (
        "it is empty",
        "damaged or cut short",
        "not an image of a known",
        "more than .* pixels",
        "no such file",
    ):
        assert any(re.search(said, reason) for reason in reasons), said


def test_every_kind_is_in_the_folder(tmp_path: Path) -> None:
    """The fixture itself: with a share of a half, all kinds come, and only the unusable ones are listed."""
    bad = hostile_folder(tmp_path, 60, share=0.4, parts=("train",))
    assert len(bad) == 24
    assert len(UNUSABLE) + len(ODD) == 11
    assert found({"train": open_data(f"folder:{tmp_path}").train}) == [str(path) for path in bad]


def test_only_what_changed_is_decoded_again(tmp_path: Path, decoded: list[str], cache: Path) -> None:
    bad = [str(path) for path in hostile_folder(tmp_path / "photos", 40)]
    part = open_data(f"folder:{tmp_path / 'photos'}").train
    whole = [part.where(i) for i in range(40) if part.where(i) not in bad]
    first = check_all(part)
    decoded.clear()
    assert check_all(part) == first
    assert decoded == [one.where for one in first]  # a bad one may have been repaired, or given its permission
    Path(whole[3]).write_bytes(photo(99, side=20))
    before = os.stat(whole[5])
    Path(whole[5]).write_bytes(bytes(before.st_size))  # as long as it was
    os.utime(whole[5], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    decoded.clear()
    assert {one.where for one in check_all(part)} == {*(one.where for one in first), whole[5]}
    assert set(decoded) == {*(one.where for one in first), whole[3], whole[5]}
    for file in (cache / "backbones/checked").iterdir():
        file.write_text('{"good": [1')
    decoded.clear()
    check_all(part)
    assert len(decoded) == 40  # a broken memory is none


def test_leave_out(tmp_path: Path) -> None:
    bad = hostile_folder(tmp_path / "photos", 60)
    data = open_data(f"folder:{tmp_path / 'photos'}")
    faults = [one for part in data.parts.values() for one in check_all(part)]
    left = leave_out(data, faults)
    assert dict(left.info.images) == {"train": 57, "val": 57}
    assert "6 images that cannot be used left out" in left.info.split
    for part in left.parts.values():
        check_part(part, samples=60)
        assert not {part.where(i) for i in range(len(part))} & {str(path) for path in bad}
    first = data.train.labels.index(1)
    assert left.train.labels.count(1) == 60 - first - sum("train/dog" in one.where for one in faults)
    assert leave_out(data, []) is data
    with pytest.raises(ValueError, match="no training image of 'dog' can be read"):
        leave_out(data, [Bad(data.train.where(i), "") for i in range(first, 60)])
    assert data.val is not None
    with pytest.raises(ValueError, match="none of the 60 images of val can be used"):
        leave_out(data, [Bad(data.val.where(i), "") for i in range(60)])


def test_one_file_that_the_system_refuses_is_one_bad_image(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """A link to itself is listed, and what is no file at all, such as a pipe, is not waited for."""
    hostile_folder(tmp_path / "photos", 20, share=0)
    loop = tmp_path / "photos/train/cat/loop.jpg"
    loop.symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "photos/train/cat/pipe.jpg")
    data = open_data(f"folder:{tmp_path / 'photos'}")
    assert len(data.train) == 21
    (one,) = check_all(data.train)
    assert (one.where, "symbolic links; repair or remove it" in one.reason) == (str(loop), True)
    assert dict(leave_out(data, [one]).info.images) == {"train": 20, "val": 20}
    with pytest.raises(ValueError, match="workers=-1; give a number of processes"):
        check_all(data.train, -1)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_fault_of_the_system_is_not_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No more files may be open: that says nothing of an image; that this one cannot be read does."""

    def fails(*args: object, **words: object) -> None:
        raise OSError(number, os.strerror(number))

    hostile_folder(tmp_path, 2, share=0, parts=("train",))
    part = open_data(f"folder:{tmp_path}").train
    monkeypatch.setattr("backbones.data.decode.Image.open", fails)
    if number == errno.EIO:
        assert len(check_all(part)) == 2
        return
    with pytest.raises(OSError, match="Too many open files"):
        check_all(part)


def test_the_command(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    bad = hostile_folder(tmp_path / "photos", 20)
    code, out, _ = run("data", "check", str(tmp_path / "photos"), "--workers", "0")
    assert code == 2
    assert [line.partition(": ")[0] for line in out.splitlines()[:-1]] == [str(path) for path in bad]
    assert out.splitlines()[-1].startswith("2 of 40 images cannot be used")
    code, out, _ = run("data", "check", f"folder:{tmp_path / 'photos'}", "--workers", "0", "--json")
    told = json.loads(out)
    assert (code, told["images"]) == (2, {"train": 20, "val": 20})
    assert [(one["part"], one["where"]) for one in told["bad"]] == [("train", str(bad[0])), ("val", str(bad[1]))]
    for path in bad:
        path.unlink()
    code, out, _ = run("data", "check", str(tmp_path / "photos"), "--workers", "0")
    assert (code, out) == (0, "all 38 images can be used\n")
    code, _, err = run("data", "check", str(tmp_path / "nowhere"))
    assert code == 2
    assert "nowhere does not exist" in err
