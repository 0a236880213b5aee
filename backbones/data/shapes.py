"""Drawn images, at any true resolution: a class is a shape, its texture, and where it lies from a cross."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from itertools import product
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backbones.data.decode import to_channels
from backbones.data.parts import Found, Part

SHAPES = ("circle", "square", "triangle")
TEXTURES = ("striped", "checked", "ringed")
RELATIONS = ("above", "below", "beside")
CLASSES = tuple(f"{t} {s} {r} cross" for s, t, r in product(SHAPES, TEXTURES, RELATIONS))
SIDES = (16, 512)
"""smallest and largest side"""
USUAL = {"train": 5400, "val": 540, "test": 540, "noise": 0.0, "seed": 0}
"""the options, and what they are where they are not given"""
FORM = "shapes:SIDE,train=5400,val=540,test=540,noise=0.05,seed=0, in which all is optional"
LUMA = (0.299, 0.587, 0.114)

Plane = NDArray[np.float32]
"""(H, W)"""
Colour = tuple[float, float, float]


class ShapesPart(Part):
    """Images that are drawn when asked for, each from (seed, part, number, side) alone.

    Args:
        count: number of images
        part: train, val or test
        side: of the images, in pixels
        channels: 1 or 3
        noise: share of the images that get the label of another class; `truth` keeps the right one
        seed: of all draws
    """

    def __init__(self, count: int, part: str, side: int, channels: int, noise: float, seed: int) -> None:
        self.part, self.side, self.channels, self.seed = part, side, channels, seed
        self.numbers: Sequence[int] = range(count)
        self.truth = [i % len(CLASSES) for i in range(count)]
        self.labels = list(self.truth)
        chances = [_random(seed, part, i, "label") for i in range(count)]
        draws = [(chance.random(), i) for i, chance in enumerate(chances)]
        for _, i in sorted(draws)[: round(noise * count)]:
            self.labels[i] = (self.truth[i] + 1 + int(chances[i].random() * (len(CLASSES) - 1))) % len(CLASSES)

    def image(self, index: int) -> Tensor:
        number = self.numbers[index]
        pixels = _draw(self.truth[index], self.side, _random(self.seed, self.part, number, "image"))
        return to_channels(torch.from_numpy(pixels), self.channels)

    def where(self, index: int) -> str:
        return f"shapes {self.part} {self.numbers[index]}"

    def take(self, indices: Sequence[int]) -> "ShapesPart":
        taken = ShapesPart(0, self.part, self.side, self.channels, 0, self.seed)
        taken.numbers, taken.truth, taken.labels = (
            [values[i] for i in indices] for values in (self.numbers, self.truth, self.labels)
        )
        return taken


def open_shapes(options: str, channels: int) -> Found:
    """The dataset with the options that follow `shapes:`. ValueError for what they cannot be."""
    side, given = _parse(options)
    noise, seed = given["noise"], int(given["seed"])
    counts = {part: int(given[part]) for part in ("train", "val", "test")}
    wrong = round(noise * counts["train"])
    said = f"; {wrong:,} of the {counts['train']:,} training labels are wrong on purpose" if wrong else ""
    train, val, test = (
        ShapesPart(count, part, side, channels, noise if part == "train" else 0, seed) if count else None
        for part, count in counts.items()
    )
    if train is None:
        raise ValueError(f"shapes:{options} has no training images; give train=1 or more, such as {FORM}")
    return Found(
        name="shapes",
        classes=CLASSES,
        channels=channels,
        size=(side, side),
        mirror=True,
        split=f"every part is drawn for itself, from seed {seed}{said}",
        train=train,
        val=val,
        test=test,
    )


def _parse(options: str) -> tuple[int, dict[str, float]]:
    """(side, the other options)"""
    side, given = 64, dict(USUAL)
    for i, word in enumerate(options.split(",") if options else []):
        name, equals, value = word.partition("=")
        try:
            if i == 0 and not equals:
                side = int(name)
            elif name not in USUAL:
                raise ValueError
            else:
                given[name] = float(value) if name == "noise" else int(value)
        except ValueError:
            raise ValueError(f"shapes has no option {word!r}; give it as {FORM}") from None
    if not SIDES[0] <= side <= SIDES[1]:
        raise ValueError(f"shapes are drawn from {SIDES[0]} to {SIDES[1]} pixels a side, not {side}")
    if not 0 <= given["noise"] <= 1 or min(given[part] for part in ("train", "val", "test")) < 0:
        raise ValueError(f"shapes:{options}: noise is a share from 0 to 1, and no part has less than 0 images")
    return side, given


def _random(*key: int | str) -> Random:
    """Numbers that depend on the key alone, the same on every machine: of a Random, only random() promises that."""
    return Random(int.from_bytes(blake2b(repr(key).encode(), digest_size=16).digest()))


def _draw(label: int, side: int, chance: Random) -> NDArray[np.uint8]:
    """(3, side, side). Lengths are in sides of the image; edges are one pixel wide, whatever the side.

    Only arithmetic that IEEE 754 fixes to the last bit is done on arrays, so that all machines draw the same.
    """
    shape, rest = divmod(label, len(TEXTURES) * len(RELATIONS))
    texture, relation = divmod(rest, len(RELATIONS))
    at = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    x, y = at[None, :], at[:, None]

    radius, cross = _between(chance, 0.16, 0.22), _between(chance, 0.08, 0.11)
    (target_x, target_y), (cross_x, cross_y) = _places(relation, radius, cross, chance)
    outline = _shape(shape, x - np.float32(target_x), y - np.float32(target_y), radius, chance)
    pattern = _texture(texture, x - np.float32(target_x), y - np.float32(target_y), radius, chance)
    marked = _cross(x - np.float32(cross_x), y - np.float32(cross_y), cross, chance)

    dark, bright = _colour(chance, 0.0, 0.25), _colour(chance, 0.75, 1.0)
    mark = _colour(chance, 0.0, 0.2) if chance.random() < 0.5 else _colour(chance, 0.8, 1.0)
    grounds = [_colour(chance, 0.35, 0.65) for _ in range(3)]
    slopes = [_between(chance, -0.5, 0.5) for _ in range(4)]
    ramps = [np.clip(np.float32(0.5) + a * (x - 0.5) + b * (y - 0.5), 0, 1) for a, b in (slopes[:2], slopes[2:])]

    inside, first, over = (np.clip(np.float32(0.5) - d * np.float32(side), 0, 1) for d in (outline, pattern, marked))
    image = np.empty((3, side, side), np.uint8)
    for i in range(3):
        ground = grounds[0][i] + ramps[0] * (grounds[1][i] - grounds[0][i])
        ground = ground + ramps[1] * (grounds[2][i] - ground)
        filled = np.float32(dark[i]) + first * np.float32(bright[i] - dark[i])
        plane = ground + inside * (filled - ground)
        plane += over * (np.float32(mark[i]) - plane)
        image[i] = plane * np.float32(255) + np.float32(0.5)
    return image


def _places(relation: int, radius: float, cross: float, chance: Random) -> tuple[tuple[float, float], ...]:
    """Where the centres of the shape and of the cross are, the pair anywhere in the image."""
    turn = _between(chance, -math.pi / 9, math.pi / 9) + (math.pi if chance.random() < 0.5 else 0)
    way = {
        "above": (math.sin(turn), -abs(math.cos(turn))),
        "below": (math.sin(turn), abs(math.cos(turn))),
        "beside": (math.cos(turn), math.sin(turn)),
    }[RELATIONS[relation]]
    apart = 1.3 * radius + cross + 0.02
    places: list[tuple[float, float]] = []
    for step in way:
        reach, beyond = 1.45 * radius, -step * apart  # nearly to a triangle's corner; from the shape to the cross
        low, high = min(-reach, beyond - cross), max(reach, beyond + cross)
        target = chance.random() * (1 - (high - low)) - low
        places.append((target, target + beyond))
    (target_x, cross_x), (target_y, cross_y) = places
    return (target_x, target_y), (cross_x, cross_y)


def _shape(shape: int, x: Plane, y: Plane, radius: float, chance: Random) -> Plane:
    """Distance to the outline, below 0 inside. All shapes have the area of a circle of the radius."""
    if SHAPES[shape] == "circle":
        return np.sqrt(x * x + y * y) - np.float32(radius)
    sides = 4 if SHAPES[shape] == "square" else 3
    inner = radius * math.sqrt(math.pi / (sides * math.tan(math.pi / sides)))
    turn = _between(chance, 0, 2 * math.pi)
    edges = [_along(x, y, turn + 2 * math.pi * i / sides) for i in range(sides)]
    return np.maximum.reduce(edges) - np.float32(inner)


def _texture(texture: int, x: Plane, y: Plane, radius: float, chance: Random) -> Plane:
    """Distance to the border between the two colours, of which each has half."""
    period, turn = radius * _between(chance, 0.9, 1.2), _between(chance, 0, 2 * math.pi)
    if TEXTURES[texture] == "ringed":
        return _waves(np.sqrt(x * x + y * y), period, chance)
    stripes = _waves(_along(x, y, turn), period, chance)
    if TEXTURES[texture] == "striped":
        return stripes
    others = _waves(_along(x, y, turn + math.pi / 2), period, chance)
    return np.maximum(np.minimum(stripes, others), -np.maximum(stripes, others))


def _cross(x: Plane, y: Plane, length: float, chance: Random) -> Plane:
    """Distance to the outline of a cross, below 0 inside."""
    turn = _between(chance, 0, math.pi / 2)
    u, v = np.abs(_along(x, y, turn)), np.abs(_along(x, y, turn + math.pi / 2))
    long, thick = np.float32(length), np.float32(0.35 * length)
    return np.minimum(np.maximum(u - long, v - thick), np.maximum(v - long, u - thick))


def _along(x: Plane, y: Plane, turn: float) -> Plane:
    return np.float32(math.cos(turn)) * x + np.float32(math.sin(turn)) * y


def _waves(at: Plane, period: float, chance: Random) -> Plane:
    """Distance to the nearest border of bands that are half a period wide."""
    turns = at * np.float32(1 / period) + np.float32(chance.random())
    return (np.abs(turns - np.floor(turns) - np.float32(0.5)) - np.float32(0.25)) * np.float32(period)


def _colour(chance: Random, darkest: float, brightest: float) -> Colour:
    """Any hue, its luma between the two, as near as colours from 0 to 1 come."""
    red, green, blue = (chance.random() for _ in range(3))
    shift = _between(chance, darkest, brightest) - (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    return tuple(min(max(part + shift, 0.0), 1.0) for part in (red, green, blue))  # type: ignore[return-value]


def _between(chance: Random, low: float, high: float) -> float:
    return low + (high - low) * chance.random()
