"""What torchvision lacks, and what of it a recipe asks for: ranges, places, and torch's seed alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backbones.data import preprocessing_for, train_transform
from backbones.data.augment import CentralSquare, Cutout, FixedCrop, SideResize
from backbones.records import DataInfo, Recipe

INFO = DataInfo("d", ("a", "b"), 3, (32, 32), (0.5,) * 3, (0.2,) * 3, {"train": 1300}, "", mirror=False)
PLAIN = Recipe("", epochs=10, batch_size=16, lr=1.0)
SIXTEEN = preprocessing_for(replace(INFO, mean=(0.0,) * 3, std=(1.0,) * 3), (16, 16), 3)


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    "change",
    [
        {"auto_augment": "autoaugment"},
        {"auto_augment": "randaugment", "magnitude": 15},
        {"auto_augment": "trivialaugment"},
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
        {"crop": "area", "scale": (0.08, 1.0), "random_interpolation": True},
        {"crop": "side", "scale": (1.2, 2.0), "crop_from": "square", "fixed_crops": True},
        {"crop": "side", "scale": (1.2, 1.2), "crop_from": "squashed"},
        {"crop": "pad", "pad_mode": "reflect"},
        {"cutout": 0.5, "reprob": 0.5},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchs_seed_alone_decides(change: dict[str, object], channels: int) -> None:
    info = replace(INFO, channels=channels, mean=INFO.mean[:channels], std=INFO.std[:channels])
    transform = train_transform(preprocessing_for(info, (16, 16), channels), replace(PLAIN, **change), info)  # type: ignore[arg-type]
    image, seen = images(channels, 40, 30), []
    for seed in (*range(12), *range(12)):
        torch.manual_seed(seed)
        seen.append(transform(image))
    assert all(torch.equal(a, b) for a, b in zip(seen[:12], seen[12:], strict=True))
    different = {tuple(x.flatten().tolist()) for x in seen}
    assert len(different) > (0 if channels == 1 and "saturation" in change else 3)


def test_policies_take_colours_or_grey() -> None:
    info = replace(INFO, channels=4, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(ValueError, match="1 or 3 channels; these have 4"):
        train_transform(preprocessing_for(info, (16, 16), 4), replace(PLAIN, brightness=0.1), info)


def test_brightness_stays_in_its_range() -> None:
    grey = torch.full((3, 16, 16), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    transform = train_transform(SIXTEEN, replace(PLAIN, brightness=0.4), INFO)
    factors = torch.tensor([255 * transform(grey).mean().item() / 100 for _ in range(300)])
    assert 0.59 < factors.min() < 0.65
    assert 1.35 < factors.max() < 1.41
    assert abs(factors.mean() - 1) < 0.05
    coloured = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
    turned = train_transform(SIXTEEN, replace(PLAIN, hue=0.5), INFO)
    outcomes = torch.stack([turned(coloured)[:, 0, 0] for _ in range(50)])
    torch.testing.assert_close(outcomes.amax(1), torch.full((50,), 200 / 255), atol=0.01, rtol=0)  # the value of HSV


def test_reflection_brings_nothing_new() -> None:
    """Every pixel of a reflected crop is one of the image: rows run 4 3 2 1 0 1 2 ... past the edge."""
    rows = torch.arange(16, dtype=torch.uint8)[None, :, None].expand(3, 16, 16) * 10
    transform = train_transform(SIXTEEN, replace(PLAIN, crop="pad", crop_pad=4, pad_mode="reflect"), INFO)
    reflected = [*range(4, 0, -1), *range(16), *range(14, 10, -1)]
    allowed = [reflected[top : top + 16] for top in range(9)]
    torch.manual_seed(0)
    seen = [[round(v * 25.5) for v in transform(rows)[0, :, 0].tolist()] for _ in range(60)]
    assert all(column in allowed for column in seen)
    assert all(column in seen for column in allowed)
    with pytest.raises(ValueError, match="reflects more"):
        train_transform(SIXTEEN, replace(PLAIN, crop="pad", crop_pad=16, pad_mode="reflect"), INFO)


def test_where_crops_are_taken_from() -> None:
    wide = torch.arange(60, dtype=torch.uint8).expand(3, 30, 60)
    assert CentralSquare()(wide)[0, 0].tolist() == list(range(15, 45))
    mode = train_transform.__globals__["_mode"](SIXTEEN)
    assert SideResize(20, 20, True, mode)(wide).shape == (3, 20, 20)
    assert SideResize(20, 20, False, mode)(wide).shape == (3, 20, 40)
    torch.manual_seed(0)
    place = torch.arange(100, dtype=torch.uint8).view(1, 10, 10)
    corners = {FixedCrop((4, 4))(place)[0, 0, 0].item() for _ in range(80)}
    assert corners == {0, 6, 60, 66, 33}


def test_cutout() -> None:
    """A square of 8 where it fits, less at the edges, around every pixel."""
    white, areas = torch.ones(3, 16, 16), []
    torch.manual_seed(0)
    for _ in range(400):
        cut = Cutout(0.5)(white)
        assert torch.equal(cut[0], cut[1])
        rows, columns = (cut[0] == 0).any(1).sum().item(), (cut[0] == 0).any(0).sum().item()
        areas.append((cut[0] == 0).sum().item())
        assert areas[-1] == rows * columns
    assert max(areas) == 64
    assert min(areas) <= 25
    lengths = [min(c + 4, 16) - max(c - 4, 0) for c in range(16)]  # along one side, for each centre
    assert sum(areas) / 400 == pytest.approx((sum(lengths) / 16) ** 2, rel=0.05)
    assert white.min() == 1
