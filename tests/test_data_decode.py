"""Every kind of image file is read as people see it, or refused by name."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.data import read_image

RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]


def stored(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    """RGB, 5 wide, 3 high, no two pixels alike"""
    return Image.fromarray((np.arange(45) * 5).astype(np.uint8).reshape(3, 5, 3))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_colours_are_exact(picture: Image.Image, kind: str) -> None:
    image = read_image(stored(picture, kind), 3)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 3, 5)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_path_bytes_and_image_are_one_road(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    first = read_image(tmp_path / "a.jpg", 3)
    with Image.open(io.BytesIO(content)) as opened:
        assert np.array_equal(first.permute(1, 2, 0).numpy(), np.asarray(opened))
        assert torch.equal(first, read_image(opened, 3))
    assert torch.equal(first, read_image(str(tmp_path / "a.jpg"), 3))
    assert torch.equal(first, read_image(content, 3))


def test_gray(picture: Image.Image) -> None:
    luma = np.asarray(picture.convert("L"))
    assert np.array_equal(read_image(stored(picture, "PNG"), 1).numpy(), luma[None])
    gray = stored(picture.convert("L"), "PNG")
    assert np.array_equal(read_image(gray, 1).numpy(), luma[None])
    assert np.array_equal(read_image(gray, 3).numpy(), np.stack([luma] * 3))
    bilevel = Image.fromarray(np.array([[True, False]]))
    assert bilevel.mode == "1"
    assert read_image(stored(bilevel, "PNG"), 1).tolist() == [[[255, 0]]]


def test_cmyk() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert read_image(stored(cyan, "TIFF"), 3)[:, 0, 0].tolist() == [0, 255, 255]
    assert read_image(stored(cyan, "JPEG", quality=100), 3)[:, 4, 4].tolist() == pytest.approx([0, 255, 255], abs=3)


def test_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([1, 0])
    assert read_image(stored(image, "PNG"), 3)[:, 0].T.tolist() == [BLUE, RED]
    assert read_image(stored(image, "PNG", transparency=1), 3)[:, 0].T.tolist() == [[255, 255, 255], RED]


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 51)), ("LA", (0, 51))])
def test_transparent_parts_lie_on_white(mode: str, colour: tuple[int, ...]) -> None:
    for channels in (1, 3):
        image = read_image(stored(Image.new(mode, (2, 2), colour), "PNG"), channels)
        assert image.shape == (channels, 2, 2)
        assert (image == 204).all()  # a fifth of black
    assert (read_image(Image.new("La", (2, 2), (0, 51)), 1) == 204).all()
    assert (read_image(stored(Image.new("RGB", (2, 2), (9, 9, 9)), "PNG", transparency=(9, 9, 9)), 3) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 40000, 65406, 65535]], dtype=np.uint16)
    content = stored(Image.fromarray(values), kind)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode == "I;16"
    expected = [[0, 0, 1, 1], [128, 156, 254, 255]]
    assert read_image(content, 1).tolist() == [expected]
    assert read_image(content, 3).tolist() == [expected] * 3
    assert read_image(stored(Image.fromarray(values.astype(np.int32)), "TIFF"), 1).tolist() == [expected]  # mode I
    assert read_image(Image.frombytes("I;16B", (4, 2), values.astype(">u2").tobytes()), 1).tolist() == [expected]


@pytest.mark.parametrize("values", [[[0, 65536]], [[-1, 5]]])
def test_more_than_sixteen_bits(values: list[list[int]]) -> None:
    image = stored(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF")
    with pytest.raises(ValueError, match=f"go from {values[0][0]} to {values[0][1]}, more than 16 bits; save it"):
        read_image(image, 1)


def test_floating_point() -> None:
    with pytest.raises(ValueError, match="floating-point numbers of unknown range; save it with 8 or 16 bits"):
        read_image(stored(Image.new("F", (2, 2), 0.5), "TIFF"), 1)


def test_orientation(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image = read_image(stored(picture, "PNG", exif=exif), 3)
    assert image.shape == (3, 5, 3)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(np.asarray(picture), -1))


def test_damaged_exif_hurts_nobody(picture: Image.Image) -> None:
    content = stored(picture, "PNG", exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x05\x01\x12")
    assert read_image(content, 3).shape == (3, 3, 5)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_of_several_frames(kind: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), tuple(colour)) for colour in (RED, BLUE))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = stored(red, kind, save_all=True, append_images=[blue], **lossless)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.n_frames == 2  # type: ignore[attr-defined]
    assert read_image(content, 3)[:, 1, 1].tolist() == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"])
def test_cut_short(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = stored(noise, kind)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot read .*/cut: it is .*; remove it or co"):
        read_image(tmp_path / "cut", 3)


def test_not_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read .*empty.jpg: it is empty; remove it or copy it again"):
        read_image(tmp_path / "empty.jpg", 3)
    with pytest.raises(ValueError, match="the given 0 bytes: it is empty"):
        read_image(b"", 3)
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page.jpg: it is not an image of a known format \(JPEG, PNG, .*remove it"):
        read_image(tmp_path / "page.jpg", 3)
    with pytest.raises(ValueError, match="it is a folder; give an image file"):
        read_image(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match=r"no image file .*nowhere.jpg; check the path"):
        read_image(tmp_path / "nowhere.jpg", 3)
    with pytest.raises(ValueError, match="not 4; choose channels=1 or 3"):
        read_image(b"", 4)
    Image.new("RGB", (20, 20)).save(tmp_path / "bomb.png")
    for limit in (390, 100):  # Pillow warns above the limit and refuses above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=f"bomb.png: it has more than {limit} pixels, the limit.*; shrink it"):
            read_image(tmp_path / "bomb.png", 3)
