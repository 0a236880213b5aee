"""Data sets of the Hugging Face hub, or in its formats in a folder here: parquet, save_to_disk, folders of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.data.parts import Found, StoredPart

FORM = "hf:NAME, hf:NAME@CONFIG or hf:FOLDER, and where there are several columns hf:NAME,image=COLUMN,label=COLUMN"
PARTS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "val"
)
"""what they call a split -> our part"""


class RowsPart(StoredPart):
    """Images in the rows of a table, decoded when asked for.

    Args:
        rows: a `datasets.Dataset` of one column, with the images as bytes or paths
        labels: class number of every image
        name: of the part, such as 'beans train'
        channels: what the images are converted to, 1 or 3
        numbers: of the rows; all if not given
    """

    def __init__(
        self, rows: Any, labels: list[int], name: str, channels: int, numbers: Sequence[int] | None = None
    ) -> None:
        self.rows, self.labels, self.name, self.channels = rows, labels, name, channels
        self.numbers = range(len(labels)) if numbers is None else numbers

    def source(self, index: int) -> str | bytes:
        (stored,) = self.rows[self.numbers[index]].values()
        found: str | bytes | None = stored and (stored["bytes"] or stored["path"])
        if not found:
            raise ValueError(f"cannot read {self.where(index)}: the row has no image; remove it")
        return found

    def where(self, index: int) -> str:
        return f"{self.name} {self.numbers[index]}"

    def take(self, indices: Sequence[int]) -> "RowsPart":
        labels, numbers = [self.labels[i] for i in indices], [self.numbers[i] for i in indices]
        return RowsPart(self.rows, labels, self.name, self.channels, numbers)


def open_huggingface(spec: str, channels: int, val_split: float, whole: bool) -> Found:
    """The data set, from its cache where it has been loaded before."""
    try:
        import datasets  # here, because it is an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("hf: takes the library datasets; run: pip install datasets") from error
    name, config, chosen = _parse(spec)
    splits = _load(datasets, name, config)
    parts: dict[str, Any] = {}
    for split, rows in splits.items():
        part = PARTS.get(split)
        if part in parts:
            raise ValueError(f"{name} has more than one split for {part}, one of them {split!r}; save it with one only")
        if part:
            parts[part] = rows
    if "train" not in parts:
        raise ValueError(f"{name} has no split called train, but {', '.join(map(repr, splits))}; it cannot be used")
    columns = parts["train"].features
    image = _column(name, columns, chosen.get("image"), "image", lambda kind: isinstance(kind, datasets.Image))
    label = _column(name, columns, chosen.get("label"), "label", lambda kind: isinstance(kind, datasets.ClassLabel))
    said = [f"as the splits {', '.join(map(repr, splits))} have them"]
    made: dict[str, Any] = {}
    for part, rows in parts.items():
        if not {image, label} <= rows.features.keys() or _names(rows.features[label]) != _names(columns[label]):
            raise ValueError(
                f"{name}: {part} has not the columns {image!r} and {label!r} of train with the same class names in the "
                f"same order, but {_listed(rows.features)}; its class numbers would mean something else"
            )
        labels = _labels(name, label, rows)
        if min(labels, default=-1) < 0:
            said.append(f"{part} not used: not all of its images have a label")
            continue
        images = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        made[part] = RowsPart(images, labels, f"{name} {part}", channels)
    if "train" not in made:
        raise ValueError(f"{name}: not all images of train have a {label!r}; it cannot be trained on")
    if list(made) == ["train"] and not val_split and not whole:
        raise ValueError(
            f"{name} has no split for validation; add --val-split 0.2 to hold out a fifth of the training images"
        )
    seen = sorted(set(made["train"].labels))
    names = _names(columns[label]) or tuple(map(str, range(len(seen))))
    highest = max(max(part.labels) for part in made.values())
    if highest >= len(names) or (not _names(columns[label]) and seen[-1] >= len(seen)):
        raise ValueError(
            f"{name}: the {len(seen):,} class numbers of train in {label!r} go from {seen[0]} to {seen[-1]}, of all "
            f"parts up to {highest}; number {len(names):,} classes from 0 on, or make the column a ClassLabel"
        )
    if list(made) == ["train"] and whole:
        made["val"] = made["train"]
    return Found(name.rstrip("/").rpartition("/")[2], names, channels, None, True, "; ".join(said), **made)


def _parse(spec: str) -> tuple[str, str | None, dict[str, str]]:
    """(name or folder, configuration, chosen columns)"""
    whole, *words = spec.split(",")
    chosen = dict(word.partition("=")[::2] for word in words)
    if not chosen.keys() <= {"image", "label"} or not all(chosen.values()):
        raise ValueError(f"hf:{spec} is not understood; give {FORM}")
    if Path(whole).expanduser().exists():
        return str(Path(whole).expanduser()), None, chosen
    name, _, config = whole.partition("@")
    return str(Path(name).expanduser()) if name.startswith("~") else name, config or None, chosen


def _load(datasets: Any, name: str, config: str | None) -> dict[str, Any]:
    """Split -> rows."""
    if name.startswith(("/", ".", "~")) and not Path(name).exists():
        raise FileNotFoundError(f"{name} does not exist; give {FORM}")
    try:
        if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; check the name and the network, or give a folder") from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} could not be loaded ({said}); give {FORM}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _column(name: str, columns: Any, chosen: str | None, what: str, fits: Any) -> str:
    """The column that was chosen, or the only one that fits, or of several the one that is called so."""
    fitting = [column for column, kind in columns.items() if fits(kind)]
    if chosen is None and (len(fitting) == 1 or what in fitting):
        return what if what in fitting else fitting[0]
    if chosen in columns and (chosen in fitting or what == "label"):
        return str(chosen)
    kind = {"image": "Image", "label": "ClassLabel"}[what]
    found = f"{len(fitting)} columns of kind {kind}" if chosen is None else f"no column {chosen!r} of kind {kind}"
    raise ValueError(f"{name} has {found}; its columns are {_listed(columns)}; choose one with hf:{name},{what}=COLUMN")


def _listed(columns: Any) -> str:
    """Their names and kinds."""
    return ", ".join(f"{column} ({_told(kind)})" for column, kind in columns.items())


def _names(kind: Any) -> tuple[str, ...]:
    """What a column calls its classes; () if it has numbers only."""
    return tuple(getattr(kind, "names", None) or ())


def _told(kind: Any) -> str:
    """A kind of column in a word."""
    return str(getattr(kind, "dtype", None) if type(kind).__name__ == "Value" else type(kind).__name__)


def _labels(name: str, column: str, rows: Any) -> list[int]:
    """Class numbers; -1 where there is none."""
    values = list(rows[column])
    if odd := [value for value in values if value is not None and type(value) is not int]:
        raise ValueError(f"{name}: the column {column!r} has no class numbers but such as {odd[0]!r}; choose another")
    return [-1 if value is None else int(value) for value in values]
