"""Files that were damaged at random, or with knowledge of their format: read right, or refused by a documented error.

A few hundred of them every time, 20,000 with `-m slow -s`, which also prints what became of them.
"""

import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hostile import Shell, saved, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import backbones
from backbones import create_model
from backbones.recipes import MODERN
from backbones.records import Preprocessing
from backbones.weights import file as weights_file
from backbones.weights import reader
from backbones.weights.header import describe
from backbones.weights.reader import Sandbox, opened

FEW = int(os.environ.get("BACKBONES_FUZZ", "1000"))
MANY = 20_000
SIZES = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"\0",
    b"\xff",
    b".",
    b"(",
    b"t",
    b"R",
    b"Q",
    b"c",
    b"h\0",
    b"}",
    b"s",
    b"\x85",
    b"[",
    b"{",
    b'"',
    b"-",
    b"9e9",
    b"PK\1\2",
)
STATE = {
    "layer.weight": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.ones(3).half(),
    "layer.steps": torch.tensor(7),
}
VALUES = {"data/0": b"x" * 48, "data/1": b"x" * 6, "data/2": b"x" * 8}  # of STATE, for a pickle


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as one, patch.object(reader, "SECONDS", 2.0):
        yield one
        assert one.peak < 1.5e9, "a worker took more memory than it may"


def hdf5() -> bytes:
    h5py, whole = pytest.importorskip("h5py", reason="NO h5py: HDF5 files are not fuzzed"), io.BytesIO()
    with h5py.File(whole, "w") as file:
        file.attrs.update({"layer_names": ["layer"], "backend": b"tensorflow"})
        file.create_dataset("layer/layer/kernel:0", data=np.ones((3, 4), "f4"), chunks=(1, 4), compression="gzip")
        file["layer/layer/bias:0"] = np.ones(3)
        file["layer"].attrs["weight_names"] = [b"layer/kernel:0", b"layer/bias:0"]
    return whole.getvalue()


def ours(path: Path) -> bytes:
    backbones.save(create_model("lenet5", seed=0), path, classes=[str(i) for i in range(10)])
    return path.read_bytes()


def program(held: Any) -> bytes:
    return ZipFile(io.BytesIO(saved(held))).read("archive/data.pkl")


def seeds(kind: str, folder: Path) -> list[bytes]:
    evil = {"x": Shell(folder / "marker")}
    return {
        "safetensors": lambda: [save(STATE, {"source": "a stranger"}), save({"model.x": torch.ones(1)})],
        "zip": lambda: [saved(STATE), saved({"state_dict": STATE, "epoch": 3}), saved(evil)],
        "pickle": lambda: [program(STATE), program({"params": STATE}), program(evil)],
        "legacy": lambda: [saved(STATE, False), saved({"model": STATE, "epoch": 3}, False), saved(evil, False)],
        "hdf5": lambda: [hdf5()],
        "ours": lambda: [ours(folder / "ours.safetensors")],
    }[kind]()


@st.composite
def damaged(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """One of these files after a few mutations, most of them near its start or end, where its structure is."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        end = max(len(content) - 1, 0)
        at = draw(st.integers(0, end) | st.integers(0, min(end, 600)) | st.integers(max(0, end - 600), end))
        match draw(st.integers(0, 6)):
            case 0 if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del content[at:]
            case 2:
                word = draw(st.binary(min_size=1, max_size=16) | st.sampled_from(WORDS))
                content[at : at + len(word)] = word
            case 3:
                size = draw(st.sampled_from(SIZES)).to_bytes(8, draw(st.sampled_from(["little", "big"])))
                content[at : at + 8] = size[: draw(st.sampled_from([2, 4, 8]))].ljust(8, b"\0")
            case 4:
                content[at:at] = draw(st.binary(min_size=1, max_size=16) | st.sampled_from(WORDS))
            case 5:
                del content[at : at + draw(st.integers(1, 16))]
            case _:
                part = content[at : at + draw(st.integers(1, 300))]
                to = draw(st.integers(0, end))
                content[to : to + len(part)] = part
    return bytes(content) if draw(st.integers(0, 50)) else draw(st.binary(max_size=300))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(SIZES)
    | st.floats()
    | st.text(max_size=5)
    | st.just("x" * 2000),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=5,
)


@st.composite
def lies(draw: st.DrawFn, whole: bytes) -> tuple[str, str]:
    """A checkpoint record with a few changes, as JSON, and a name of a tensor to leave out."""
    told = json.loads(whole)
    for _ in range(draw(st.integers(0, 3))):
        part = draw(st.sampled_from([told, told["settings"], told["settings"], told["recipe"], told["preprocessing"]]))
        if not isinstance(part, dict):
            continue
        key = draw(st.sampled_from(sorted(part)) | st.text(max_size=5)) if part else ""
        if draw(st.integers(0, 3)):
            part[key] = draw(JSON)
        else:
            part.pop(key, None)
        if not all(isinstance(told.get(name), dict) for name in ("settings", "recipe", "preprocessing")):
            break
    told_json = json.dumps(told) if draw(st.integers(0, 30)) else "[" * 10**5
    return told_json, draw(st.sampled_from(["", "", "", "", "stem.0.bias", "head"]))


class Outcomes:
    """What became of the files."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest = 0.0

    def note(self, act: Any) -> None:
        start, text = time.perf_counter(), ""
        try:
            act()
            self.counts["read"] += 1
        except (KeyError, IndexError):  # mistakes of ours, not errors for a user
            raise
        except (ValueError, LookupError) as error:
            text = str(error)
            reason = next(
                (word for word in ("took longer", "memory", "ended with", "more than tensors") if word in text),
                "",
            )
            self.counts[f"{type(error).__name__} {reason}".strip()] += 1
        assert len(text) < 3000
        assert "weights_only" not in text
        self.longest = max(self.longest, time.perf_counter() - start)


def fuzz(strategy: Any, examples: int, act: Any) -> Outcomes:
    outcomes = Outcomes()

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def one(content: Any) -> None:
        outcomes.note(lambda: act(content))

    one()
    return outcomes


def run(kind: str, examples: int, folder: Path, box: Sandbox) -> Outcomes:
    path = folder / "damaged"

    def written(content: bytes) -> None:
        path.unlink(missing_ok=True)  # tensors of the one before may still be mapped
        path.write_bytes(content)

    def read(content: bytes) -> None:
        written(zipped(content, **VALUES) if kind == "pickle" else content)
        with opened(path, box) as file:
            assert {name: describe(tensor) for name, tensor in file.load().items()} == file.header

    def load(content: bytes) -> None:
        written(content)
        backbones.load(path)

    def load_lie(lie: tuple[str, str]) -> None:
        told_json, left_out = lie
        kept = {name: tensor for name, tensor in state.items() if not (left_out and name.startswith(left_out))}
        with patch.object(weights_file.json, "dumps", lambda *_, **__: told_json):
            weights_file.write(path, kept, told)
        backbones.load(path)

    if kind == "record":
        ours(folder / "ours.safetensors")
        told, state = weights_file.read(folder / "ours.safetensors")
        preprocessing = Preprocessing(1, (32, 32), (0.5,), (0.2,))
        told = replace(told, recipe=MODERN, preprocessing=preprocessing)
        outcomes = fuzz(lies(json.dumps(asdict(told)).encode()), examples, load_lie)
    else:
        outcomes = fuzz(damaged(seeds(kind, folder)), examples, load if kind == "ours" else read)
    assert not (folder / "marker").exists()
    return outcomes


KINDS = {"safetensors": 0.15, "zip": 0.1, "pickle": 0.2, "legacy": 0.15, "hdf5": 0.2, "ours": 0.1, "record": 0.1}


@pytest.mark.parametrize("kind", KINDS)
def test_some(kind: str, tmp_path: Path, box: Sandbox) -> None:
    run(kind, round(FEW * KINDS[kind]), tmp_path, box)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind: str, tmp_path: Path, box: Sandbox) -> None:
    outcomes = run(kind, round(MANY * KINDS[kind]), tmp_path, box)
    print(f"\n{kind}: {dict(outcomes.counts)}; longest {outcomes.longest:.2f} s; peak {box.peak / 2**20:.0f} MiB")
