"""backbones data: check that every image can be used; pack a folder into shards."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from backbones.cli.show import Json


@dataclass(frozen=True)
class Check:
    """Decode every image once and list those that cannot be used; exit code 2 if there are any.

    What was good and has not changed since is not decoded again.
    """

    data: Positional[str]
    """a folder of images, or what `backbones train --data` takes"""
    workers: int | None = None
    """processes that decode; as many as there are cores by default, 0 for none but this one"""
    json_: Json = False
    """print the list as JSON"""

    def run(self) -> None:
        """Carry it out."""
        from backbones.data import check_data, open_data
        from backbones.machine import processors

        spec = f"folder:{self.data}" if ":" not in self.data or Path(self.data).exists() else self.data
        opened = open_data(spec, whole=True)
        processes = len(processors()) if self.workers is None else self.workers
        images, found = check_data(opened, processes, Console(stderr=True))
        bad = [{"part": name, **asdict(one)} for name, ones in found.items() for one in ones]
        if self.json_:
            print(json.dumps({"data": self.data, "images": images, "bad": bad}, indent=1))
        else:
            for one in bad:
                print(f"{one['where']}: {one['reason']}")
            total = f"{sum(images.values()):,} images"
            print(f"{len(bad):,} of {total} cannot be used" if bad else f"all {total} can be used")
        if bad:
            sys.exit(2)


@dataclass(frozen=True)
class Pack:
    """Copy a folder of images, byte for byte, into WebDataset shards, with an index of where each image lies.

    First every image is decoded once, as by `data check`; if some cannot be used, nothing is written.
    """

    folder: Positional[Path]
    """with train/<class>/*, val/<class>/* and test/<class>/*, or with <class>/*"""
    out: Positional[Path]
    """a folder that does not exist yet; train on it with --data wds:OUT"""
    shard_size: Annotated[float, arg(metavar="MB")] = 256
    """of a shard, in megabytes; its last image may exceed it"""

    def run(self) -> None:
        """Carry it out."""
        from backbones.data import pack
        from backbones.machine import processors

        packed = pack(self.folder, self.out, round(self.shard_size * 1e6), len(processors()))
        for name, (shards, images) in packed.items():
            print(f"{name}: {images:,} images in {shards:,} shards")
        print(f"train on them with: backbones train NETWORK --data wds:{self.out}")


def data(
    command: OmitSubcommandPrefixes[Annotated[Check, subcommand("check")] | Annotated[Pack, subcommand("pack")]],
) -> None:
    """Check that every image can be used; pack a folder of images into shards."""
    command.run()
