"""The checkpoint record, out of JSON that anybody may have written."""

import json
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from backbones.recipes import tuples
from backbones.records import Checkpoint, Preprocessing, Recipe
from backbones.weights.header import short

LARGEST = 100_000  # a whole number of the settings, unless a tensor of the file is larger
LONGEST = 1000  # characters, or parts of a list
DEEPEST = 4  # lists in lists


def parse(told_json: str, largest: int) -> Checkpoint:
    """The record. ValueError for anything but the JSON of `asdict(Checkpoint(...))` with settings of sane size."""
    try:
        told = json.loads(told_json)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(told, dict):
        raise ValueError(f"it is {short(told)}")
    for key, build in (("preprocessing", Preprocessing), ("recipe", Recipe)):
        if told.get(key) is not None:
            told[key] = _record(build, told[key])
    checkpoint: Checkpoint = _record(Checkpoint, told)
    _check_size({**checkpoint.settings, "network": checkpoint.network}, max(LARGEST, largest))
    if checkpoint.preprocessing:
        _check_size(vars(checkpoint.preprocessing), max(LARGEST, largest))
    return checkpoint


def _record(build: type[Any], values: Any) -> Any:
    """The frozen record of these values, each of which has the type that the record declares."""
    if not isinstance(values, dict):
        raise ValueError(f"its {build.__name__.lower()} is {short(values)}")
    values, hints = tuples(values), get_type_hints(build)
    try:
        record = build(**values)
    except TypeError as error:
        raise ValueError(str(error)[:300]) from None
    for one in fields(build):
        if not _fits(getattr(record, one.name), hints[one.name]):
            raise ValueError(f"its {build.__name__.lower()} has {one.name}={short(getattr(record, one.name))}")
    return record


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON has the type of a field."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in parts
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is tuple:
        wanted = parts[:1] * len(value) if parts[-1] is ... and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if kind and issubclass(kind, Mapping):
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _check_size(settings: Mapping[str, Any], largest: int) -> None:
    """No network is built from a number, text or list that no network has."""
    waiting = [(key, value, 0) for key, value in settings.items()]
    for key, value, depth in waiting:
        if isinstance(value, list | tuple) and len(value) <= LONGEST and depth < DEEPEST:
            waiting += [(key, part, depth + 1) for part in value]
        elif isinstance(value, int | float) and abs(value) <= largest:
            continue
        elif value is not None and not (isinstance(value, str) and len(value) <= LONGEST):
            raise ValueError(f"its setting {short(key)} is {short(value)}")
