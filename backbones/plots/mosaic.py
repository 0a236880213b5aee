"""Grids of small pictures: images that a network got wrong, filters that it learned."""

import base64
import io
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from backbones.plots.style import INK, PNG_SCALE, load_altair, themed

Caption = tuple[str, str, float]
"""true class, predicted class, probability of the predicted one"""
MOST_MISTAKES, MOST_FILTERS = 25, 96
MISTAKE_SIDE, FILTER_SIDE = 120, 48
"""pixels on the page"""
MID_GREY = 128


def mistake_rows(captions: Sequence[Caption]) -> list[dict[str, Any]]:
    """The captions as data."""
    return [{"true": true, "predicted": predicted, "probability": p} for true, predicted, p in captions]


def mistakes(images: Sequence[NDArray[np.uint8]], captions: Sequence[Caption]) -> Any:
    """The first 25 images, uint8 (H, W) or (H, W, 3), each above its caption: "3 taken for 8, 97 %"."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images, but {len(captions)} captions; give one caption per image")
    if not images:
        alt = load_altair()
        words = alt.Chart(alt.Data(values=[{}])).mark_text(text="no mistakes", fontSize=15, color=INK)
        return themed(words.properties(width=240, height=60))
    texts = [
        "\n".join(wrap(f"{true} taken for {predicted}, {100 * p:.0f}\N{NO-BREAK SPACE}%", width=20))
        for true, predicted, p in captions[:MOST_MISTAKES]
    ]
    return _grid(images[:MOST_MISTAKES], MISTAKE_SIDE, columns=5, gap=20, texts=texts)


def filter_rows(weight: ArrayLike) -> list[dict[str, Any]]:
    """The filters of the picture as data: one row per weight."""
    names = ("filter", "channel", "row", "column", "weight")
    return [dict(zip(names, (*place, float(value)), strict=True)) for place, value in np.ndenumerate(_shown(weight))]


def filters(weight: ArrayLike) -> Any:
    """The first 96 filters of a layer, (out, in, kh, kw): in colour with 3 input channels, else the first of them.

    Each filter is scaled on its own; mid-grey is zero.
    """
    shown = _shown(weight)
    largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    pixels = np.round(MID_GREY + (MID_GREY - 1) * shown / np.where(largest > 0, largest, 1)).astype(np.uint8)
    images = pixels.transpose(0, 2, 3, 1) if shown.shape[1] == 3 else pixels[:, 0]
    return _grid(list(images), FILTER_SIDE, columns=12 if len(images) > 64 else 8, gap=6)


def _shown(weight: ArrayLike) -> NDArray[np.floating[Any]]:
    """The part of the weight in the picture: at most 96 filters, of 1 or 3 channels."""
    array = np.asarray(weight)
    if array.ndim != 4 or not array.size:
        raise ValueError(f"filters of shape {array.shape}; give the weight of a convolution, (out, in, kh, kw)")
    return array[:MOST_FILTERS, : 3 if array.shape[1] == 3 else 1]


def _grid(images: Sequence[NDArray[np.uint8]], side: int, columns: int, gap: int, texts: Sequence[str] = ()) -> Any:
    """Images in rows, their longer side `side` pixels, each above its text."""
    alt, line_height = load_altair(), 15
    image_height = round(side * max(image.shape[0] / max(image.shape[:2]) for image in images))
    text_height = max((6 + line_height * len(text.split("\n")) for text in texts), default=0)
    steps = side + gap, image_height + text_height + gap
    tiles = [
        {"x": i % columns * steps[0], "y": i // columns * steps[1], "url": _address(image, side * PNG_SCALE)}
        for i, image in enumerate(images)
    ]
    for tile, text in zip(tiles, texts, strict=bool(texts)):
        tile["text"] = text
    x, y = alt.X("x:Q").scale(None).axis(None), alt.Y("y:Q").scale(None).axis(None)
    base = alt.Chart(alt.Data(values=tiles)).encode(x=x, y=y)
    chart = base.mark_image(width=side, height=image_height, align="left", baseline="top").encode(url="url:N")
    if texts:
        style = {"fontSize": 12, "lineHeight": line_height, "lineBreak": "\n", "color": INK}
        chart += base.mark_text(align="left", baseline="top", dy=image_height + 6, **style).encode(text="text:N")
    width, height = steps[0] * min(columns, len(tiles)) - gap, steps[1] * -(-len(tiles) // columns) - gap
    return themed(chart.properties(width=width, height=height))


def _address(image: NDArray[np.uint8], side: int) -> str:
    """The image as a data URI, every pixel repeated until the longer side has at least `side` of them."""
    factor = -(-side // max(image.shape[:2]))
    file = io.BytesIO()
    Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
