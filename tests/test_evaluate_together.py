"""Several processes evaluate: each image once, and the result of one process."""

import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from backbones.data.parts import ArrayPart
from backbones.evaluate import Collected, Member, answers, answers_together, prepare
from backbones.records import Preprocessing

IMAGES, BATCH = 23, 40  # ten views each: groups of four images, the last one of three


class Noted(ArrayPart):
    """Writes down which image was read by which process; image `broken` cannot be."""

    def __init__(self, file: Path, broken: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (IMAGES, 1, 12, 12), dtype=torch.uint8, generator=generator)
        super().__init__(images, [i % 3 for i in range(IMAGES)], "noted", 1)
        self.file, self.broken = file, broken

    def image(self, index: int) -> Tensor:
        if index == self.broken:
            raise ValueError("its pixels are gone")
        with self.file.open("a") as file:
            file.write(f"{index}\n")
        return super().image(index)


def member() -> Member:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
    return Member(network, prepare("10-crop", Preprocessing(1, (8, 8), (0.5,), (0.3,)), scales=(12,)))


def one_of(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    try:
        found = answers_together([member()], Noted(folder / f"read.{rank}"), BATCH, workers=0)
        assert (found is None) == bool(rank)
        if found:
            torch.save(tuple(found), folder / "found.pt")
        try:
            answers_together([member()], Noted(folder / "again", broken=17), BATCH, workers=0)
        except ValueError as error:
            (folder / f"error.{rank}").write_text(str(error))
    except Exception:
        (folder / f"failed.{rank}").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_are_one(tmp_path: Path, world_size: int) -> None:
    mp.spawn(one_of, (world_size, tmp_path), nprocs=world_size)
    alone = answers([member()], Noted(tmp_path / "alone"), BATCH, workers=0)
    found = Collected(*torch.load(tmp_path / "found.pt", weights_only=True))
    assert torch.equal(found.logits, alone.logits), "to the last bit"
    assert torch.equal(found.labels, alone.labels)
    read = [(tmp_path / f"read.{rank}").read_text().split() for rank in range(world_size)]
    assert all(read)
    assert sorted(int(index) for share in read for index in share) == list(range(IMAGES)), "each exactly once"
    told = {(tmp_path / f"error.{rank}").read_text() for rank in range(world_size)}
    assert told == {f"process {17 // 4 % world_size} of {world_size}: noted 17: its pixels are gone"}
