"""From an image file to a tensor: the one road that training, evaluation and prediction share."""

import errno
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""endings of the files that count as images, in any case"""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")

OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""what the system says where the fault is not the file's"""

Source = str | PathLike[str] | bytes | Image.Image
"""what an image can be read from"""


def read_image(source: Source, channels: int, name: str = "") -> Tensor:
    """The image as people see it, in uint8: (channels, H, W), with 1 channel (luma) or 3 (RGB).

    Turned as its EXIF tag says; transparent parts on white; 16 bits scaled to 8; of several frames the first. What the
    file holds counts, not its ending. `name` is what errors call it, where bytes are given.
    ValueError for what is not a whole image, FileNotFoundError for a path where there is no file.
    """
    if channels not in (1, 3):
        raise ValueError(f"images can be read with 1 channel (gray) or 3 (RGB), not {channels}; choose channels=1 or 3")
    with _opened(source, name) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if not turned and (pixels := _jpeg(image, channels)) is not None:
            return pixels
        picture = _eight_bits(ImageOps.exif_transpose(image) if turned else image)
        mode = "L" if channels == 1 else "RGB"
        array = np.array(picture if picture.mode == mode else picture.convert(mode))  # each copy costs 0.5 ms
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)


def read_crop(
    source: Source,
    channels: int,
    size: tuple[int, int],
    box: Callable[[int, int], tuple[int, int, int, int]],
    name: str = "",
) -> tuple[Tensor, tuple[int, int, int, int]]:
    """An image to be cropped to a box and resized to `size`, and the box in it; errors as in `read_image`.

    A JPEG is decoded at a half, a quarter or an eighth of its sides, as small as the box stays no smaller than `size`.
    The decoder means the pixels in its own way, so they are near, not equal, to those of the whole image resized; and
    the box comes to lie up to half a decoded pixel aside.

    Args:
        box: (H, W) of the image -> (top, left, height, width)
    """
    with _opened(source, name) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        mode = "L" if channels == 1 else "RGB"
        if isinstance(image, JpegImageFile) and image.mode == mode and not turned:
            wanted = box(height, width)
            parts = next((n for n in (8, 4, 2) if wanted[2] >= n * size[0] and wanted[3] >= n * size[1]), 1)
            if parts > 1:
                image.draft(None, (width // parts, height // parts))
                array = np.array(image)
                here = torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1)
                return here, _within(wanted, parts, (image.height, image.width))
            if (pixels := _jpeg(image, channels)) is not None:
                return pixels, wanted
            return read_image(image, channels, name), wanted
    whole = read_image(source, channels, name)
    return whole, box(whole.shape[1], whole.shape[2])


def read_header(source: Source, name: str = "") -> tuple[int, int]:
    """(H, W) as stored, without decoding the pixels. Errors as in `read_image`."""
    with _opened(source, name) as image:
        return image.height, image.width


def to_channels(image: Tensor, channels: int) -> Tensor:
    """(1 or 3, H, W) -> (channels, H, W) in uint8, with the same luma as `read_image`."""
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.repeat(3, 1, 1)
    red, green, blue = image.int()
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).to(torch.uint8)[None]


def _within(box: tuple[int, int, int, int], parts: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in an image that is so many times smaller."""
    top, left, height, width = (round(side / parts) for side in box)
    height, width = min(height, size[0]), min(width, size[1])
    return min(top, size[0] - height), min(left, size[1] - width), height, width


def _jpeg(image: Image.Image, channels: int) -> Tensor | None:
    """The pixels of an opened JPEG by torchvision's decoder: the same, sooner. None where Pillow is to read it."""
    if not isinstance(image, JpegImageFile) or image.mode != ("L" if channels == 1 else "RGB") or image.fp is None:
        return None
    image.fp.seek(0)
    content = torch.frombuffer(bytearray(image.fp.read()), dtype=torch.uint8)
    with suppress(RuntimeError):  # it is damaged, which Pillow says better, or torchvision came without the decoder
        pixels = decode_jpeg(content, ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB)
        return pixels if pixels.shape[1:] == (image.height, image.width) else None
    return None


@contextmanager
def _opened(source: Source, name: str) -> Iterator[Image.Image]:
    """The source as a Pillow image; what goes wrong with it becomes an error that names it, and no warning leaks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. of a damaged EXIF block, which does not hurt the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                yield source
                return
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {name or _name(source)}; check the path") from None
    except _Unread:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        raise _Unread(f"cannot read {name or _name(source)}: {_why(source, error)}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel and nothing transparent."""
    if image.mode == "F":
        raise _Unsuitable("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise _Unsuitable(
                f"its pixels go from {values.min()} to {values.max()}, more than 16 bits; save it with 8 or 16 bits"
            )
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        opaque = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB")
    return image


class _Unread(ValueError):
    """Told already, with the image's name."""


class _Unsuitable(Exception):
    """A whole image that has no meaning as a picture of 8 bits; the message says why, and what to do."""


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return f"the given {len(source):,} bytes"
    return "the given image" if isinstance(source, Image.Image) else fspath(source)


def _why(source: Source, error: Exception) -> str:
    """The reason in words, and what to do."""
    if isinstance(error, _Unsuitable):
        return str(error)
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the limit for one image; shrink it"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; give an image file"
    if isinstance(error, PermissionError):
        return "no permission; make the file readable"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; repair or remove it"
    if _is_empty(source):
        return "it is empty; remove it or copy it again"
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image of a known format ({', '.join(FORMATS)}); remove it or convert it"
    return f"it is damaged or cut short ({str(error) or type(error).__name__}); remove it or copy it again"


def _is_empty(source: Source) -> bool:
    if isinstance(source, Image.Image):
        return False
    if isinstance(source, bytes):
        return not source
    with suppress(OSError), open(source, "rb") as file:
        return not file.read(1)
    return False
