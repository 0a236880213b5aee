"""Images in folders, one per class: PATH/train/<class>/* with PATH/val and PATH/test beside it, or PATH/<class>/*."""

import os
from pathlib import Path
from typing import Any

from backbones.data.decode import EXTENSIONS
from backbones.data.parts import FilePart, Found

LAYOUT = (
    "expected PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg, "
    "or PATH/<class>/*.jpg with --val-split 0.2 to hold out a fifth of them"
)
ENDINGS = ", ".join(ending[1:] for ending in EXTENSIONS)
MISNAMED = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "testing": "test"}


def open_folder(path: str, channels: int, val_split: float, whole: bool = False) -> Found:
    """The images under a path. FileNotFoundError or ValueError for a layout that is not the expected one."""
    root = Path(path).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {what}; give a folder of images: {LAYOUT}")
    folders = {folder.name: folder for folder in _folders(root)}
    for name in folders:
        right = MISNAMED.get(name.lower(), name.lower())
        if right in ("train", "val", "test") and right != name and _folders(folders[name]):
            raise ValueError(
                f"{root} has a part called {name!r}; parts are called train, val and test: rename it {right!r}"
            )
    if "train" in folders and (_folders(folders["train"]) or folders.keys() <= {"train", "val", "test"}):
        return _with_parts(root, folders, channels)
    return _flat(root, channels, val_split, whole)


def _with_parts(root: Path, folders: dict[str, Path], channels: int) -> Found:
    """PATH/train/<class>/*, and val and test where they are."""
    names = [name for name in ("train", "val", "test") if name in folders]
    files = {name: _files_by_class(folders[name]) for name in names}
    classes = tuple(files["train"])
    _require_two(root / "train", classes)
    said = [f"as the folders {', '.join(names)} have them"]
    for name in names[1:]:
        if unknown := sorted(files[name].keys() - files["train"].keys()):
            raise ValueError(
                f"{root / name} has classes that {root / 'train'} lacks: {_some(unknown)}; "
                "give both the same class folders, with the same names"
            )
        if absent := sorted(files["train"].keys() - files[name].keys()):
            said.append(f"{name} has no images of {_some(absent)}")
    if ignored := sorted(folders.keys() - set(names)):
        said.append(f"not used: {_some(ignored)}")
    parts: dict[str, Any] = {name: _part(files[name], classes, channels) for name in names}
    return Found(root.resolve().name, classes, channels, None, True, "; ".join(said), **parts)


def _flat(root: Path, channels: int, val_split: float, whole: bool) -> Found:
    """PATH/<class>/*"""
    files = _files_by_class(root)
    _require_two(root, tuple(files))
    if not val_split and not whole:
        raise ValueError(
            f"{root} has classes ({_some(list(files))}) but no train and val folders; "
            "add --val-split 0.2 to hold out a fifth of the images for validation, or make the two folders"
        )
    part = _part(files, tuple(files), channels)
    val = part if whole else None
    return Found(root.resolve().name, tuple(files), channels, None, True, "one folder per class, no parts", part, val)


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class folder, both sorted by name."""
    if loose := _images(folder):
        raise ValueError(
            f"{len(loose):,} images, such as {loose[0].name}, lie directly in {folder}, in no class folder; {LAYOUT}"
        )
    files = {child.name: _images(child) for child in _folders(folder)}
    if not any(files.values()):
        found = f"folders {_some(list(files))} without images" if files else "no folders"
        raise ValueError(f"no images ({ENDINGS}) under {folder}, but {found}; {LAYOUT}")
    if empty := [name for name, images in files.items() if not images]:
        raise ValueError(
            f"no images ({ENDINGS}) in {_some(empty)} of {folder}; put some directly into it, or remove the folder"
        )
    return files


def _part(files: dict[str, list[Path]], classes: tuple[str, ...], channels: int) -> FilePart:
    number = {name: i for i, name in enumerate(classes)}
    paths = [path for name in files for path in files[name]]
    return FilePart(paths, [number[name] for name in files for _ in files[name]], channels)


def _require_two(folder: Path, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise ValueError(f"{folder} has only one class, {classes[0]!r}; it takes at least two to tell apart; {LAYOUT}")


def _folders(folder: Path) -> list[Path]:
    """Its folders by name, without hidden ones and those that macOS puts into archives."""
    children = (child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX")))
    return sorted((child for child in children if child.is_dir()), key=lambda child: child.name)


def _images(folder: Path) -> list[Path]:
    """Its image files by name; no pipes and devices, but links that lead nowhere, to be found out when read."""
    children = (child for child in folder.iterdir() if not child.name.startswith("."))
    images = (child for child in children if child.suffix.lower() in EXTENSIONS)
    files = (child for child in images if os.path.isfile(child) or not os.path.exists(child))
    return sorted(files, key=lambda child: child.name)


def _some(names: list[str], most: int = 5) -> str:
    """The first few names, quoted."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
