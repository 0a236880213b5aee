"""The same tensors under another library's names.

A peer is another library: which of its networks compute the same function as which of ours, and how its files call each
of our layers. The names stand in the order of our layers, so that every table reads both ways.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.records import Preprocessing
from backbones.weights.file import in_place
from backbones.weights.header import Entry
from backbones.weights.layers import family, leaves, own_tensors

LINES = 20
"""of misfits that an error shows"""


class Network(NamedTuple):
    """A peer's network and ours that computes the same function."""

    name: str
    """as the peer calls it"""
    ours: str
    settings: Mapping[str, Any] = {}
    """ours, over the variant's own"""
    kwargs: Mapping[str, Any] = {}
    """theirs, for their constructor"""


class Leaf(NamedTuple):
    """A peer's layer whose weight has another shape than ours: a 1x1 convolution for a matrix, or the reverse."""

    name: str
    shape: tuple[int, ...]
    """of their weight, after its output channels"""


class Slot(NamedTuple):
    """Where one of our tensors is in a peer's file, and how to turn it there and back."""

    name: str
    there: Callable[[Tensor], Tensor]
    here: Callable[[Tensor], Tensor]


Layers = Callable[[Backbone], Iterable[str | Leaf]]
"""A peer's names of our layers with tensors of their own, in the order in which our modules stand"""


@dataclass(frozen=True)
class Peer:
    """A library whose files we read and write."""

    name: str
    networks: Sequence[Network]
    """those without `kwargs` first"""
    layers: Mapping[str, Layers]
    """by family"""
    create: Callable[[Network], nn.Module]
    """the peer's own network with random weights; ImportError where the peer is not installed"""
    respell: Callable[[str], str] = str
    """from the spelling of the peer's older files to that of today"""
    suffix: str = ".pth"
    """of the peer's own files"""
    classes: str = "num_classes"
    """argument of its constructors"""
    hides: Mapping[str, str] = field(default_factory=dict)
    """its network -> what it does beside its layers, in a sentence that loading says"""
    alike: Mapping[str, str] = field(default_factory=dict)
    """our network -> others of theirs that have its tensors and another function"""

    def write(self, path: Path, tensors: Mapping[str, Tensor], network: Network) -> None:
        """A file that the peer's own `network` loads, in the format of the suffix; whole or not at all."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
            raise ValueError(
                f"{path.name}: {self.name} reads .safetensors, .pth, .pt and .bin files; give one of these"
            )
        with in_place(path) as temporary:
            if path.suffix == ".safetensors":
                save_file(tensors, temporary, {"format": "pt"})
            else:
                torch.save(tensors, temporary)

    def save(self, theirs: nn.Module, path: Path) -> None:
        """As the peer's users save: the whole state dict, pickled."""
        torch.save(theirs.state_dict(), path)

    def restore(self, theirs: nn.Module, path: Path) -> Mapping[str, Tensor]:
        """Load a file into the peer's own network, strictly; what it holds then."""
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        theirs.load_state_dict(state, strict=True)
        return self.tensors(theirs)

    def tensors(self, theirs: nn.Module) -> Mapping[str, Tensor]:
        """What the peer's own network holds, as its files name it."""
        return theirs.state_dict()

    def spelled(self, names: Iterable[str], metadata: Mapping[str, str], model: Backbone) -> dict[str, str]:
        """The peer's spelling of today -> the name in the file."""
        return {self.respell(name): name for name in names}

    def preprocessing(self, network: Network, tensors: Mapping[str, Tensor]) -> Preprocessing | None:
        """What the network expects of images, where the peer's files or functions fix it."""
        return None

    def ignores(self, name: str) -> bool:
        """Whether a tensor of theirs is no weight of the network."""
        return False

    def beside(self, names: Iterable[str]) -> set[str]:
        """The names in a file that are no tensors of a network at all, such as an optimiser's."""
        return set()

    def image_sizes(self, theirs: nn.Module) -> Sequence[tuple[int, int]]:
        """Heights and widths at which its network is compared with ours, the first that it reads; () leaves it open."""
        return ()

    def constant(self, key: str, shape: torch.Size) -> Tensor | None:
        """What a tensor of ours holds where the peer's file has none; None if it must be there."""
        return torch.zeros(shape, dtype=torch.long) if key.endswith("num_batches_tracked") else None

    def installed(self) -> bool:
        """Whether `create` can be called."""
        return find_spec(self.name) is not None

    def slots(self, model: Backbone) -> dict[str, Slot]:
        """Our tensor -> its place in the peer's file."""
        ours = list(leaves(model))
        theirs = [Leaf(name, ()) if isinstance(name, str) else name for name in self.layers[family(model)](model)]
        if not model.num_classes:  # the tables name a classifier, after everything but the auxiliary heads
            del theirs[len(ours)]
        return {
            f"{name}.{key}": _slot(f"{leaf.name}.{key}", tensor.shape, leaf.shape if key == "weight" else ())
            for (name, module), leaf in zip(ours, theirs, strict=True)
            for key, tensor in own_tensors(module).items()
        }


class Fit(NamedTuple):
    """How a file's tensors fit a peer's network."""

    peer: Peer
    network: Network
    model: Backbone
    """ours on the meta device, with the file's classes, channels and auxiliary heads"""
    spelled: Mapping[str, str]
    """the peer's name -> the name in the file"""
    misfits: Sequence[str]
    """a line for each tensor without a partner; none where the file is this network's"""

    @property
    def shape(self) -> dict[str, Any]:
        """The settings that the file decides."""
        aux = {"aux": bool(self.model.aux)} if "aux" in self.model.settings else {}
        return {"num_classes": self.model.num_classes, "in_channels": self.model.in_channels, **aux}

    def places(self) -> dict[str, str]:
        """Our tensor -> its name in the file, where it has one."""
        slots = self.peer.slots(self.model)
        return {key: self.spelled[slot.name] for key, slot in slots.items() if slot.name in self.spelled}

    def ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors under our names, in our layout and dtypes."""
        slots, state = self.peer.slots(self.model), {}
        for key, like in self.model.state_dict().items():
            found = tensors.get(self.spelled.get(slots[key].name, "")) if key in slots else None
            made = self.peer.constant(key, like.shape) if found is None else slots[key].here(found)
            assert made is not None, key
            state[key] = made.to(like.dtype).contiguous()
        return state


def fit(
    shapes: Mapping[str, Sequence[int]],
    metadata: Mapping[str, str],
    peer: Peer,
    network: Network,
    build: Callable[..., Backbone],
) -> Fit:
    """Compare a file's names and shapes with those of a peer's network; `build(**settings)` makes ours on meta."""
    model = build(**network.settings)
    spelled = peer.spelled(shapes, metadata, model)
    slots = peer.slots(model)
    found: dict[str, Any] = {}
    if model.aux and not any(slot.name in spelled for key, slot in slots.items() if key.startswith("aux.")):
        found["aux"] = False
    first = next(key for key, tensor in model.state_dict().items() if tensor.ndim == 4)
    ends = {"num_classes": "head.classifier.weight", "in_channels": first}
    if any(slots[key].name in spelled for key in ends.values()):  # else it is not this peer's file
        for setting, key in ends.items():
            name, number = spelled.get(slots[key].name), getattr(model, setting)
            each = model.state_dict()[key].numel() // number
            size = 0 if name is None else prod(shapes[name]) // each
            if size != number and (size or setting == "num_classes"):
                found[setting] = size
    if found.get("num_classes") == 0 and model.aux:
        found["aux"] = False
    if found:
        model = build(**{**network.settings, **found})
        slots = peer.slots(model)
    state = model.state_dict()
    lines, expected = [], set()
    for key, slot in slots.items():
        expected.add(slot.name)
        shape = tuple(slot.there(state[key]).shape)
        if slot.name not in spelled:
            if peer.constant(key, state[key].shape) is None:
                lines.append(f"missing: {slot.name} {shape}")
        elif (there := tuple(shapes[spelled[slot.name]])) != shape:
            lines.append(f"shape: {spelled[slot.name]} is {there}, the network has {shape}")
    placed = {old for name, old in spelled.items() if name in expected or peer.ignores(name)}
    placed |= peer.beside(shapes)
    lines += [f"no place for: {name} {tuple(shape)}" for name, shape in shapes.items() if name not in placed]
    return Fit(peer, network, model, spelled, lines)


def misfits(expected: Mapping[str, Tensor], header: Mapping[str, Entry]) -> Iterator[str]:
    """Our own tensors against a file's, by name, shape and kind of number: a line for each that differs."""
    for name, here in expected.items():
        there = header.get(name)
        if there is None:
            yield f"missing: {name} {tuple(here.shape)}"
        elif tuple(here.shape) != there.shape or here.is_floating_point() != ("float" in there.dtype):
            yield f"shape: {name} is {there.shape} {there.dtype}, the network has {tuple(here.shape)} {here.dtype}"
    yield from (f"no place for: {name} {there.shape}" for name, there in header.items() if name not in expected)


def told(lines: Sequence[str]) -> str:
    """At most a screen of misfits."""
    more = [f"... and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return "".join(f"\n  {line}" for line in [*lines[:LINES], *more])


def _slot(name: str, shape: torch.Size, tail: tuple[int, ...]) -> Slot:
    if not tail:
        return Slot(name, _same, _same)
    return Slot(name, lambda t: t.reshape(t.shape[0], *tail), lambda t: t.reshape(shape))


def _same(tensor: Tensor) -> Tensor:
    return tensor
