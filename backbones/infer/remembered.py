"""Searches made on this machine before: a JSON file each, beside the measured latencies. Deleting them does no harm."""

import hashlib
import logging
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

from backbones import machine
from backbones.infer.report import Report
from backbones.infer.source import Source
from backbones.places import cache_folder
from backbones.weights.file import in_place

log = logging.getLogger("backbones")

PACKAGES = ("backbones", "torch", "openvino", "nncf", "onnxruntime")


def versions() -> dict[str, str]:
    """Of what the times depend on, as far as it is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Memory:
    """Where the search for one network, asked for in one way, is kept: not by the values of its weights."""

    def __init__(self, source: Source, *asked: object) -> None:
        shapes = [
            (name, tuple(value.shape), str(value.dtype))
            for name, value in source.module.state_dict().items()
            if isinstance(value, Tensor)
        ]
        images = [(tuple(x.shape), str(x.dtype)) for x in source.example]
        here = asdict(machine.this(str(source.example[0].device)))
        told = repr((source.module, shapes, images, source.threads, asked, here, versions()))
        self.file: Path = cache_folder() / "optimized" / f"{hashlib.sha256(told.encode()).hexdigest()[:20]}.json"

    def read(self) -> Report | None:
        """What was found before."""
        try:
            report = replace(Report.from_json(self.file.read_text()), remembered=True)
            return report if report.taken else None
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration, OSError) as error:
            log.warning("%s cannot be used (%s); the search is made again", self.file, error)
            return None

    def write(self, report: Report) -> None:
        """Keep it, in a file that is replaced whole."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with in_place(self.file) as whole:
                Path(whole).write_text(report.to_json())
        except OSError as error:
            log.warning("the search cannot be kept: %s", error)
