"""Other people's weight files are read right, whatever their format; the child that does it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hostile import SLOW, legacy, zipped
from safetensors.torch import save_file
from torch import Tensor, nn

from backbones.weights import reader
from backbones.weights.reader import Entry, Sandbox, not_finite, opened

STATE = {
    "stem.weight": torch.arange(12.0).reshape(4, 3).t(),
    "stem.bias": nn.Parameter(torch.tensor([1.0, float("inf")])),
    "half": torch.ones(3).half(),
    "brain": torch.ones(5).bfloat16(),
    "double": torch.tensor([[1e300]], dtype=torch.float64),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4),
}
HEADER = {name: Entry(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in STATE.items()}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as one:
        yield one


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(state) == list(expected) and all(
        state[name].dtype == t.dtype and torch.equal(state[name], t) for name, t in expected.items()
    )


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("held", "notes"),
    [
        (STATE, ()),
        (OrderedDict(STATE), ()),
        ({"epoch": 3, "args": [1, "x"], "state_dict": STATE}, ("weights under 'state_dict'",)),
        ({"model": STATE, "state_dict_ema": STATE, "net": 1}, ("weights under 'state_dict_ema'",)),
        ({"state_dict": {"x": 1}, "params": STATE}, ("weights under 'params'",)),
        (
            {"net": {f"module._orig_mod.{name}": t for name, t in STATE.items()}},
            ("weights under 'net'", "prefix 'module.' left out", "prefix '_orig_mod.' left out"),
        ),
    ],
)
def test_torch(tmp_path: Path, box: Sandbox, held: Any, notes: tuple[str, ...], zip_format: bool) -> None:
    for name in ("weights.pth", "misnamed.safetensors"):
        torch.save(held, tmp_path / name, _use_new_zipfile_serialization=zip_format)
        with opened(tmp_path / name, box) as file:
            assert (file.kind, file.header, file.notes, file.metadata) == ("torch", HEADER, notes, {})
            assert same(file.load(), STATE)


def test_a_model_with_buffers_and_shared_storage(tmp_path: Path, box: Sandbox) -> None:
    big = torch.arange(100.0)
    tied = nn.Linear(4, 4)
    state = {"a": big[10:20], "b": big[::7], "c": big.reshape(10, 10).t(), **tied.state_dict(), "tied": tied.weight}
    torch.save(state, tmp_path / "x.bin")
    with opened(str(tmp_path / "x.bin"), box) as file:
        assert same(file.load(), state)
        assert same(file.load(), state)


def test_safetensors(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor.detach().contiguous() for name, tensor in STATE.items()}
    for padding in range(0, 256, 8):  # the first byte, the header's length, may be that of a pickle
        save_file(state, tmp_path / "x.pth", {"source": "x" * padding})
        with opened(tmp_path / "x.pth") as file:
            assert (file.kind, file.header, file.metadata) == ("safetensors", HEADER, {"source": "x" * padding})
            assert file.notes == ("prefix 'model.' left out",)
            loaded = file.load()
    assert same({name: loaded[name] for name in STATE}, STATE)
    assert not_finite(loaded) == ["stem.bias"]


def test_hdf5(tmp_path: Path, box: Sandbox) -> None:
    h5py, path = pytest.importorskip("h5py", reason="NO h5py: HDF5 files are not tested"), tmp_path / "x.weights.h5"
    values = torch.arange(12.0).reshape(3, 4)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"layer_names": ["conv", "bn"], "keras_version": "3.0", "secret": "kept out", "backend": b"tf"}
        )
        file.create_dataset("conv/conv/kernel:0", data=values.numpy(), compression="gzip", chunks=(1, 4), shuffle=True)
        file["conv"].attrs["weight_names"] = [b"conv/kernel:0"]
        file.create_dataset("bn/gamma:0", data=values.numpy().astype(">f8")[0])
        file["bn/half"] = values.half().numpy()
        file["bn/steps"], file["bn/flag"], file["bn/text"], file["bn/empty"] = 3, True, "words", h5py.Empty("f4")
    expected = {
        "bn/flag": torch.tensor(True),
        "bn/gamma:0": values[0].double(),
        "bn/half": values.half(),
        "bn/steps": torch.tensor(3),
        "conv/conv/kernel:0": values,
    }
    with opened(path, box) as file:
        assert file.kind == "hdf5"
        assert same(file.load(), expected)
        assert file.notes == ("parts without numbers left out: 2",)
        texts = {"layer_names": ["conv", "bn"], "keras_version": "3.0", "backend": "tf"}
        assert json.loads(file.metadata["attributes"]) == {"/": texts, "conv": {"weight_names": ["conv/kernel:0"]}}


def test_no_file(tmp_path: Path) -> None:
    cases: Sequence[tuple[str, type[Exception], str]] = [
        ("missing.pth", FileNotFoundError, r"no file '.*missing.pth'; give"),
        ("folder", ValueError, "folder is no file; give"),
        ("pipe", ValueError, "pipe is no file; give"),
        ("empty", ValueError, "is empty"),
        ("text/x.pth", ValueError, "cannot be read: Not a directory"),
        ("text", ValueError, "not a whole safetensors file, nor one of torch or HDF5"),
        ("tar", ValueError, "tar file, as torch wrote before"),
    ]
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("weights: none")
    (tmp_path / "tar").write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar\0")
    for name, kind, message in cases:
        with pytest.raises(kind, match=message), opened(tmp_path / name):
            pass


def test_platforms_and_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "x.pth")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    monkeypatch.setattr(reader, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'backbones\[keras\]'"), opened(tmp_path / "x.h5"):
        pass
    monkeypatch.setattr(reader, "os", SimpleNamespace())  # one without fork
    with (
        pytest.raises(NotImplementedError, match="convert it to safetensors on Linux or macOS"),
        opened(tmp_path / "x.pth"),
    ):
        pass
    with opened(tmp_path / "x.safetensors") as file:
        assert file.load()["x"] == 1


def test_nothing_is_left(tmp_path: Path, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    torch.save(STATE, tmp_path / "x.pth")
    torch.save(print, tmp_path / "bad.pth")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    before = os.listdir("/proc/self/fd") if os.path.exists("/proc") else []
    with opened(tmp_path / "x.pth") as file:  # with a child of its own
        file.load()
    with pytest.raises(ValueError, match="is closed"):
        file.load()
    for name in ("x.pth", "x.safetensors"):
        with opened(tmp_path / name, box) as file:
            loaded = file.load()
    with pytest.raises(ValueError, match="more than tensors"), opened(tmp_path / "bad.pth", box):
        pass
    assert not before or len(os.listdir("/proc/self/fd")) == len(before)
    assert os.listdir(tmp_path / "temporary") == []
    assert loaded["x"] == 1


def children(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def sandbox_of(process: int) -> list[int]:
    return [n for n in children(process) if b"sandbox" in Path(f"/proc/{n}/cmdline").read_bytes()]


def wait_for(happened: Any) -> Any:
    """The first true answer; the test's time limit is the machine's."""
    for _ in range(3000):
        if answer := happened():
            return answer
        time.sleep(0.01)
    raise TimeoutError


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")


@needs_proc
def test_a_worker_or_child_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.pth").write_bytes(zipped(SLOW))
    torch.save(STATE, tmp_path / "x.pth")
    for depth, message in ((2, "ended with signal 9"), (1, "no answer from the process that reads files")):
        others = sandbox_of(os.getpid())
        with Sandbox() as box, opened(tmp_path / "x.pth", box) as file:
            (child,) = set(sandbox_of(os.getpid())) - set(others)

            def kill(child: int = child, depth: int = depth) -> None:
                (worker,) = wait_for(lambda: children(child))
                os.kill(worker if depth == 2 else child, signal.SIGKILL)

            thread = threading.Thread(target=kill)
            thread.start()
            with pytest.raises(ValueError, match=message), opened(tmp_path / "slow.pth", box):
                pass
            thread.join()
            assert same(file.load(), STATE)  # by a new worker, or a new child


@needs_proc
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_orphan(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "slow.pth").write_bytes(legacy(SLOW))
    script = f"""if 1:
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from backbones.weights.reader import opened
        with opened({str(tmp_path / "slow.pth")!r}): pass
    """
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as parent:
        (child,) = wait_for(lambda: sandbox_of(parent.pid))
        (worker,) = wait_for(lambda: children(child))
        parent.send_signal(end)
        _, errors = parent.communicate()
    assert b"KeyboardInterrupt" in errors if end == signal.SIGINT else parent.returncode == -end
    wait_for(lambda: not os.path.exists(f"/proc/{child}") and not os.path.exists(f"/proc/{worker}"))


def test_the_time_limit(tmp_path: Path, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS", 0.3)
    for name, content in (("zip", zipped(SLOW)), ("legacy", legacy(SLOW))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"took longer to read than the 0\.3 s"), opened(tmp_path / name, box):
            pass
