"""Checkpoints under faults: a failure at every file operation of a save, a full disk, flipped bits, a cut file."""

import os
import random
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.train.folder import CHECKPOINTS, sweep
from backbones.train.store import KEPT, PATTERN, Store
from backbones.weights import file as weights_file
from backbones.weights import header as weights_header

OPERATIONS = (
    (os, "open"),
    (os, "close"),
    (os, "fsync"),
    (os, "chmod"),
    (os, "replace"),
    (os, "unlink"),
    (os, "scandir"),
    (os, "mkdir"),
    (tempfile, "mkstemp"),
    (weights_file, "write_tensors"),
    (weights_header, "safe_open"),
)
"""everything by which a save touches the disk"""


def state(step: int) -> dict[str, Any]:
    """What a run has: tensors of several types, odd keys, no number."""
    torch.manual_seed(step)
    return {
        "step": step,
        "model": {"a.weight": torch.randn(40, 30), "b": torch.tensor(step), "empty": torch.zeros(0, 3)},
        "optimiser": {"state": {0: {"m": torch.randn(7).bfloat16(), "on": torch.tensor([True, False])}}},
        "groups": [{"betas": (0.9, 0.999), "lr": 0.1, "worst": float("inf"), "none": None}],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def save(folder: Path, step: int) -> Store:
    store = Store(folder)
    store.save(step, state(step))
    store.wait()
    return store


@contextmanager
def failing(at: int | None) -> Iterator[list[str]]:
    """Let the operation of this number fail, as on a broken disk; the names of all that were done."""
    done: list[str] = []

    def wrap(module: Any, name: str) -> Callable[..., Any]:
        real = getattr(module, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) - 1 == at:
                raise OSError(5, "Input/output error")
            return real(*args, **kwargs)

        return operation

    with pytest.MonkeyPatch.context() as patched:
        for module, name in OPERATIONS:
            patched.setattr(module, name, wrap(module, name))
        yield done


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found, said = Store(tmp_path).newest()
    assert same(found, state(7))
    assert said == []
    with pytest.raises(TypeError, match="a set, which a checkpoint cannot hold"):
        Store(tmp_path).save(8, {"oops": {1, 2}})


def test_two_generations_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in range(5):
        store.save(step, state(step))
    store.wait()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-000000003.safetensors",
        "step-000000004.safetensors",
    ]
    assert len(list(tmp_path.glob(PATTERN))) == KEPT


def test_a_copy_is_taken_at_once(tmp_path: Path) -> None:
    """What the training changes while the file is written is not in it."""
    store, weight = Store(tmp_path), torch.zeros(1000, 1000)
    store.save(1, {"weight": weight, "part": weight[:, 3]})
    weight.fill_(1)
    store.wait()
    found, _ = Store(tmp_path).newest()
    assert not found["weight"].any()
    assert not found["part"].any()


def test_a_failure_at_every_file_operation(tmp_path: Path) -> None:
    """Whichever operation of a save fails: it is said, and the checkpoints before are whole; the next save works."""
    with failing(None) as operations:
        save(tmp_path / "clean", 0)
    assert {"mkstemp", "write_tensors", "fsync", "replace", "safe_open"} <= set(operations)
    for at, name in enumerate(operations):
        folder = tmp_path / str(at)
        save(folder, 1)
        save(folder, 2)
        store = Store(folder)
        said = ""
        with failing(at) as done:
            try:
                store.save(3, state(3))
                store.wait()
            except OSError as error:
                said = str(error)
        assert len(done) > at, name
        found, damaged = Store(folder).newest()
        assert not damaged
        assert found["step"] in (2, 3)
        assert same(found, state(found["step"]))
        if found["step"] == 2:
            assert "the checkpoint of step 3 could not be written" in said, name
        save(folder, 4)
        assert Store(folder).newest()[0]["step"] == 4
        assert {path.name[:4] for path in folder.glob("[!.]*")} == {"step"}


@pytest.mark.parametrize("room", [0, 100, 2000, 4000])
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    """The system refuses to write more than so many bytes of a file, wherever in the file that is."""
    save(tmp_path, 1)
    size = (tmp_path / "step-000000001.safetensors").stat().st_size
    assert size > 4000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        store = Store(tmp_path)
        store.newest()
        store.save(2, state(2))
        with pytest.raises(OSError, match=r"step 2 could not be written .*; step-000000001\.safetensors is whole"):
            store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert same(Store(tmp_path).newest()[0], state(1))


@pytest.mark.parametrize("trials", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_flipped_bits_are_found(tmp_path: Path, trials: int) -> None:
    """A bit that flips anywhere in the newest file: the one before is used and it is said, or nothing is lost."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest, draw = tmp_path / "step-000000002.safetensors", random.Random(0)
    whole = newest.read_bytes()
    found_out = 0
    for trial in range(trials):
        place = draw.randrange(len(whole)) if trial % 2 else trial // 2 % 600  # every other one in the header
        broken = bytearray(whole)
        broken[place] ^= 1 << draw.randrange(8)
        newest.write_bytes(broken)
        found, said = Store(tmp_path).newest()
        if said:
            found_out += 1
            assert "step-000000002.safetensors is damaged and set aside" in said[0]
            (tmp_path / "step-000000002.damaged").unlink()
            assert same(found, state(1)), place
        else:
            assert same(found, state(2)), place
    assert found_out > 0.9 * trials


@pytest.mark.parametrize("length", [0, 1, 8, 100, -1])
def test_cut_files_are_found(tmp_path: Path, length: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "step-000000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:length])
    found, said = Store(tmp_path).newest()
    assert same(found, state(1))
    assert len(said) == 1
    (tmp_path / "step-000000001.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no whole checkpoint in .*; start the run again"):
        Store(tmp_path).newest()


def test_a_folder_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere, so the system's refusal is played."""
    store = save(tmp_path, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    store.save(2, state(2))
    with pytest.raises(OSError, match=r"step 2 could not be written .*Permission denied"):
        store.wait()
    assert same(Store(tmp_path).newest()[0], state(1))


def test_half_written_files_are_swept_away(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINTS
    save(folder, 1)
    (folder / ".step-000000002.safetensors.abc").write_bytes(b"half")
    (tmp_path / ".best.safetensors.abc").write_bytes(b"half")
    (tmp_path / ".snapshot-010.safetensors.abc").write_bytes(b"half")
    for name in (".lock", ".gitignore", ".env"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["step-000000001.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINTS, ".lock", ".gitignore", ".env"}


def test_what_cannot_be_read_now_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, a network that is away: the error is raised, and the files stay what they are."""
    save(tmp_path, 1)
    save(tmp_path, 2)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            Store(tmp_path).newest()
    assert same(Store(tmp_path).newest()[0], state(2))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        Store(tmp_path).newest()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 2
