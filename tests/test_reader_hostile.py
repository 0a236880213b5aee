"""Files that want to run, write, read or take what is not theirs: refused with a reason, and nothing happens."""

import io
import json
import pickle
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from hostile import Evaluates, Opens, Shell, legacy, quantised, saved, zipped
from safetensors.torch import save

from backbones.weights.reader import Entry, Sandbox, opened


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as one:
        yield one
        assert one.peak < 1.5e9


def refuse(path: Path, content: bytes, box: Sandbox, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error, opened(path, box) as file:
        file.load()
    assert "weights_only" not in str(error.value)  # no advice to switch the safety off
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("kind", [Shell, Opens, Evaluates])
def test_pickles_that_act(tmp_path: Path, box: Sandbox, kind: type[Shell]) -> None:
    marker = tmp_path / "marker"
    evil = kind(marker)
    with closing(made) if hasattr(made := pickle.loads(pickle.dumps(evil)), "close") else nullcontext():
        assert marker.exists()  # it does act
    marker.unlink()
    program = pickle.dumps({"state_dict": {"x": evil}}, protocol=2)
    named = r"holds more than tensors \(it asks for `[a-z._]+`\): refused; re-save its state_dict with safetensors"
    for held in (evil, [evil], {"state_dict": {"a": torch.ones(1), "b": evil}}, {"a": torch.ones(1), "epoch": evil}):
        refuse(tmp_path / "zip.pth", saved(held), box, named)
        refuse(tmp_path / "legacy.pt", saved(held, zip_format=False), box, named)
    for content in (program, zipped(program), legacy(program), legacy(pickle.dumps(1, protocol=2)) + program):
        refuse(tmp_path / "raw.bin", content, box, "holds")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        refuse(tmp_path / "raw.ckpt", pickle.dumps(evil, protocol=protocol), box, "holds more than tensors")
    for protocol in (0, 1):  # no program of torch's ever wrote these
        refuse(tmp_path / "old.pth", pickle.dumps(evil, protocol=protocol), box, "not a whole safetensors file")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (torch.nn.Linear(2, 2), r"asks for `torch\.nn\.modules\.linear\.Linear`"),
        ({"a": torch.zeros(1).expand(10**9)}, "declares 4,000,000,000 bytes of tensors, far more than it has"),
        ({f"a{i}": view for i, view in enumerate(torch.zeros(1, 10**6).expand(6, -1))}, "declares 24,000,000 bytes"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "'a' of type complex64; the types that are read are float64"),
        ({"a": torch.eye(2).to_sparse()}, "tensors of a special kind"),
        ({"a": quantised()}, "holds|damaged"),
        ({"a": torch.ones(1, device="meta")}, "without all of its values"),
        ({"a": torch.ones(1), "epoch": 3}, "holds 'epoch' of type int among the tensors; leave it out"),
        ({"net": {"a": torch.ones(1), 5: torch.ones(1)}}, "holds under 'net' '5' of type Tensor among"),
        ({"optimizer": {}, "lr": 0.1}, "no dict of tensors, but 'optimizer', 'lr'; looked under state_dict_ema"),
        ({}, "no dict of tensors, but an empty dict"),
        ([torch.ones(1)], "holds a list, not a dict of tensors"),
        (torch.ones(1), "holds a Tensor, not a dict of tensors"),
        ({"__metadata__": torch.ones(1)}, "which safetensors keeps for itself"),
        ({"\x1b[2J": torch.ones(1)}, "which cannot be printed"),
        ({"x": torch.ones(0, 2**50)}, "which no weight has"),
        ({"x": bytearray(10)}, "no dict of tensors"),
    ],
)
def test_what_is_not_plain_tensors(tmp_path: Path, box: Sandbox, held: Any, message: str) -> None:
    for zip_format in (True, False):
        if zip_format or "without" not in message:
            refuse(tmp_path / "x.pth", saved(held, zip_format), box, message)


def test_memory(tmp_path: Path, box: Sandbox) -> None:
    program = b"\x80\x02}X\1\0\0\0xcbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85Rs."  # bytearray(2 GiB)
    for content in (zipped(program), legacy(program)):
        refuse(tmp_path / "x.pth", content, box, "needs more memory than a file of its size is given")
    large = saved({"x": torch.ones(3)}, zip_format=False).replace(b"K\3Ntq", b"J\xff\xff\xff\x7fNtq", 1)
    refuse(tmp_path / "x.pth", large, box, "memory|damaged")


def test_zip_files(tmp_path: Path, box: Sandbox) -> None:
    whole = saved({"x": torch.zeros(1000)})
    squeezed = io.BytesIO()
    with ZipFile(io.BytesIO(whole)) as old, ZipFile(squeezed, "w", ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refuse(tmp_path / "x.pth", squeezed.getvalue(), box, "compressed entries")
    at = whole.rindex(b"PK\1\2", 0, whole.rindex(b"/data/0"))  # the directory's line for the values
    for offset, value, message in ((24, 2**31, "compressed"), (20, 2**31, "compressed"), (42, 2**31, "beyond its end")):
        refuse(
            tmp_path / "x.pth", whole[: at + offset] + struct.pack("<I", value) + whole[at + offset + 4 :], box, message
        )
    both = whole[: at + 20] + struct.pack("<II", 2**31, 2**31) + whole[at + 28 :]
    refuse(tmp_path / "x.pth", both, box, "beyond its end")
    program = ZipFile(io.BytesIO(whole)).read("archive/data.pkl")
    few = zipped(program, **{"data/0": b"\0" * 3999})
    refuse(tmp_path / "x.pth", few, box, "'x' without all of its values")
    refuse(
        tmp_path / "x.pth",
        zipped(program, **{"model.weights.h5": b""}).replace(b"x/m", b"m"[:1] * 3),
        box,
        "holds|damaged",
    )
    with warnings.catch_warnings(action="ignore"), ZipFile(twice := io.BytesIO(), "w") as file:
        file.writestr("x/data.pkl", program)
        file.writestr("x/data.pkl", program)
    refuse(tmp_path / "x.pth", twice.getvalue(), box, "two entries 'x/data.pkl'")
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "x.pth"
    path.write_bytes(zipped(program, **{"data/0": b"\0" * 4000, "../../../evil": b"x", "/tmp/evil": b"x"}))
    with opened(path, box) as file:
        assert file.load()["x"].shape == (1000,)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "x.pth", "x.pth"]


def test_hdf5_files_that_lead_elsewhere_or_lie(tmp_path: Path, box: Sandbox) -> None:
    h5py = pytest.importorskip("h5py", reason="NO h5py: HDF5 files are not tested")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(3)
    (tmp_path / "secret").write_bytes(b"12345678")

    def external(f: Any) -> None:
        f["x"] = h5py.ExternalLink("secret.h5", "/x")

    def soft(f: Any) -> None:
        f["group/x"] = h5py.SoftLink("/y")

    def virtual(f: Any) -> None:
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource("secret.h5", "x", (3,))
        f.create_virtual_dataset("x", layout)

    def outside(f: Any) -> None:
        f.create_dataset("x", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])

    def unwritten(f: Any) -> None:
        f.create_dataset("x", (10**12,), "f4", chunks=(2**20,))

    def contiguous(f: Any) -> None:
        f.create_dataset("x", (10**12,), "f4")

    def bomb(f: Any) -> None:
        f.create_dataset("x", data=np.zeros(10**7, "f4"), chunks=(10**6,), compression="gzip")

    def complex_numbers(f: Any) -> None:
        f["x"] = np.ones(3, "c8")

    def texts(f: Any) -> None:
        f.attrs["layer_names"] = ["x" * 2000] * 600

    elsewhere = "has a link to elsewhere at"
    for make, message in (
        (external, elsewhere),
        (soft, elsewhere),
        (virtual, "keeps the values of 'x' in another file"),
        (outside, "keeps the values of 'x' in another file"),
        (unwritten, "declares 4,000,000,000,000 bytes for 'x' and has 0"),
        (contiguous, "declares 4,000,000,000,000 bytes for 'x' and has 0"),
        (bomb, "declares 40,000,000 bytes for 'x'"),
        (texts, "more than 1,048,576 characters of attributes"),
    ):
        with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
            make(file)
        refuse(tmp_path / "x.h5", (tmp_path / "x.h5").read_bytes(), box, message)
    with h5py.File(tmp_path / "x.h5", "w") as file:  # a group that contains itself
        complex_numbers(file)
        file["a/b"] = np.ones(3)
        file["a/again"] = file["a"]
    with opened(tmp_path / "x.h5", box) as file:
        assert file.header == {"a/b": Entry((3,), "float64")}


def test_safetensors_headers(tmp_path: Path, box: Sandbox) -> None:
    def one(dtype: str = "F32", shape: Any = (1,), end: int = 4, start: int = 0) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}

    whole = save({"x": torch.ones(8)})
    refuse(tmp_path / "x", whole[:-1], box, "not a whole safetensors file")
    refuse(tmp_path / "x", struct.pack("<Q", 2**62) + whole[8:], box, "a header of 4,611,686,018,427,387,904 bytes")
    refuse(tmp_path / "x", struct.pack("<Q", 17 * 2**20) + b"{" * 18 * 2**20, box, "at most 16,777,216 are read")
    cases: list[tuple[Any, str]] = [
        ({"x": one("F8_E4M3", (4,))}, "'x' is of type F8_E4M3; float64, float32"),
        ({"x": one("C64", (1,), 8)}, "not a whole|type C64"),
        ({"x": one("F31")}, "not a whole"),
        ({"x": one(shape=(-1,))}, "not a whole"),
        ({"x": one(shape=(2**40, 2**40))}, "not a whole"),
        ({"x": one(shape=(0, 2**62), end=0)}, "which no weight has"),
        ({"x": one(shape=[1] * 17)}, "which no weight has"),
        ({"x": one(end=2**40)}, "not a whole"),
        ({"x": one(), "y": one()}, "not a whole"),
        ({"x": one(start=4, end=8)}, "not a whole"),
        ({"x": {"dtype": "F32"}}, "not a whole"),
        ({f"x{i}": one(shape=(0,), end=0) for i in range(100_001)}, "declares 100,001 tensors; at most 100,000"),
    ]
    for header, message in cases:
        told = json.dumps(header).encode()
        values = b"\0" * (0 if "[0, 0]" in json.dumps(header) else 4)
        refuse(tmp_path / "x", struct.pack("<Q", len(told)) + told + values, box, message)


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of other kernels differ")
def test_a_worker_can_do_nothing_else(tmp_path: Path) -> None:
    """Python's own ways, and those of C code that asks the kernel itself."""
    (tmp_path / "file").write_text("content")
    script = """if 1:
        import ctypes, os, socket
        from backbones.weights import sandbox
        libc = ctypes.CDLL(None)
        kernel, opened, unlink, execl, kill = libc.syscall, libc.open, libc.unlink, libc.execl, libc.kill
        sandbox._confine({"path": "file", "out": "", "seconds": 5, "declared": 0, "largest": 1000})
        done = []
        for act in (
            lambda: os.system("touch marker"), lambda: open("marker", "w"), lambda: os.open("marker", os.O_CREAT),
            lambda: os.mkdir("marker"), lambda: os.remove("file"), lambda: os.fork(), lambda: socket.socket(),
            lambda: os.execv("/bin/true", ["true"]), lambda: bytearray(2**31), lambda: open("file", "a"),
        ):
            try:
                act()
                done.append(act)
            except (PermissionError, MemoryError):
                pass
        assert not done, done
        assert open("file").read() == "content"
        if kernel(444, None, 0, 1) > 0:
            assert opened(b"marker", os.O_CREAT | os.O_WRONLY, 0o600) < 0
            assert unlink(b"file") < 0
            assert kill(os.getppid(), 0) < 0 or kernel(444, None, 0, 1) < 6
            execl(b"/bin/touch", b"touch", b"marker", None)
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
