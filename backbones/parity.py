"""The same logits as a peer's, proved: its file loaded here, and written back for it to load again."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.factory import create_model, model_info, save
from backbones.recognise import networks, twins
from backbones.weights.convert import Network, Peer
from backbones.weights.layers import convs
from backbones.weights.reader import opened

SIDE = 97
"""of the images, where the network reads so small ones: odd, so that paddings show"""
APART = 1e-6
"""of the range of its values, in float64: from here on a layer's outputs differ"""


@dataclass(frozen=True)
class Difference:
    """Between two networks' logits for the same images."""

    largest: float
    mean: float
    relative: float
    """the largest over the range of the peer's logits"""
    top1: float
    """share of the images with the same class on top"""


@dataclass(frozen=True)
class Parity:
    """What was compared, and how far it was apart."""

    ours: str
    peer: str
    theirs: str
    settings: Mapping[str, object]
    """of ours, that the peer's weights brought"""
    images: tuple[int, ...]
    fp64: Difference
    fp32: Difference
    rounding: float
    """the peer's own fp32 logits against its fp64 logits, relative to their range"""
    tensors: int
    """of the peer's, written back and loaded by it strictly"""
    changed: int
    """of these, not equal to the last bit"""
    parts_at: str
    """the first layer of ours whose output differs; "" if none does"""


def partners(name: str, against: str) -> list[tuple[Peer, Network]]:
    """The peer's networks with the function of `name`, or of its twins. LookupError where there are none."""
    group = twins(model_info(name).name)
    found = [(peer, n) for peer, n in networks(against) if n.ours in group]
    exact = [(peer, n) for peer, n in found if n.ours == model_info(name).name]
    if not found:
        raise LookupError(f"{against} has no network of the function of {name}")
    return exact or found


def prove(peer: Peer, network: Network, weights: str | PathLike[str] | None = None, images: int = 2) -> Parity:
    """Make the peer's network, save it as its users do, load that here, compare, write it back, compare the tensors.

    Args:
        peer: whose
        network: which
        weights: a file of the peer's; random weights and statistics by default
        images: how many

    Raises:
        ImportError: the peer is not installed
        ValueError: the file is not this network's
    """
    if images < 1:
        raise ValueError(f"{images} images; give one or more")
    generator = torch.Generator().manual_seed(0)
    asked: dict[str, Any] = {"source": f"{peer.name}:{network.name}"}
    if network.kwargs:  # which the file does not tell
        asked |= {"departures": (), **network.settings}
    with TemporaryDirectory(prefix="backbones-") as folder, _quiet():
        if weights is None:
            theirs = _created(peer, network)
        else:
            ours = create_model(network.ours, weights=weights, **asked)
            theirs = _filled(peer, network, ours, weights)
        with torch.device("meta"):
            empty = create_model(network.ours)
        batch = _images(peer, theirs, empty, images, generator)
        if weights is None and convs(theirs):
            randomise(theirs, batch, generator)
        elif weights is None:
            _hand_over(peer, network, theirs, batch, generator)
        file = Path(folder, f"theirs{peer.suffix}")
        peer.save(theirs, file)
        before = {name: tensor.clone() for name, tensor in peer.tensors(theirs).items()}
        ours = create_model(network.ours, weights=file, **asked).eval()
        back = Path(folder, f"back{peer.suffix}")
        save(ours, back, to=peer.name)
        for tensor in peer.tensors(theirs).values():
            tensor.zero_()
        after = peer.restore(theirs, back)
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    single, wide = (logits(ours, batch), logits(theirs, batch)), batch.double()
    ours, theirs = ours.double(), theirs.double()
    double = logits(ours, wide), logits(theirs, wide)
    fp64, fp32, own = compare(*double), compare(*single), compare(single[1].double(), double[1])
    parted = parting(ours, theirs, peer, wide) if fp64.relative > APART else ""
    return Parity(
        ours=network.ours,
        peer=peer.name,
        theirs=network.name,
        settings=dict(network.settings),
        images=tuple(batch.shape),
        fp64=fp64,
        fp32=fp32,
        rounding=own.relative,
        tensors=len(before),
        changed=len(changed),
        parts_at=parted,
    )


def logits(module: nn.Module, images: Tensor) -> Tensor:
    """In evaluation; without the auxiliary ones that some peers return beside them."""
    with torch.inference_mode():
        out = module(images)
    return out if isinstance(out, Tensor) else out[0]


def compare(ours: Tensor, theirs: Tensor) -> Difference:
    """Of two networks' logits for the same images."""
    apart, span = (ours - theirs).abs(), float(theirs.max() - theirs.min())
    same = float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    return Difference(float(apart.max()), float(apart.mean()), float(apart.max()) / span, same)


def parting(ours: Backbone, theirs: nn.Module, peer: Peer, images: Tensor) -> str:
    """The first of our layers, as they run, whose output is not that of its partner."""
    partner = {key.rpartition(".")[0]: slot.name.rpartition(".")[0] for key, slot in peer.slots(ours).items()}
    mine, other = _outputs(ours, images), _outputs(theirs, images)
    for name, out in mine.items():
        twin = other.get(partner.get(name, ""))
        if twin is not None and twin.numel() == out.numel():
            gap = (out.flatten() - twin.flatten()).abs().max()
            if float(gap) > APART * float(twin.max() - twin.min()):
                return name
    return "between layers" if mine else ""


def randomise(module: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Random weights that keep signals alive through any depth, and statistics and affine values of no pattern.

    Every batch norm first learns the statistics of the images, so that nothing vanishes or overflows.
    """
    norms: list[Any] = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in (m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if norms and isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.weight.data *= 0.1  # gates: strong random ones make a network chaotic, and rounding large
        if layer.bias is not None:
            layer.bias.data.uniform_(-0.1, 0.1, generator=generator)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.data.uniform_(0.25, 0.75, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
        norm.train().momentum = 1.0
    with torch.no_grad():
        module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.1 * spread * torch.randn(spread.shape, generator=generator)
        norm.running_var *= torch.empty(spread.shape).uniform_(0.8, 1.25, generator=generator)


def _created(peer: Peer, network: Network, **kwargs: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peer.create(network._replace(kwargs={**network.kwargs, **kwargs})).eval()


def _filled(peer: Peer, network: Network, ours: Backbone, weights: str | PathLike[str]) -> nn.Module:
    """The peer's network with the file's classes and, by its own strict loading, the file's tensors."""
    theirs = _created(peer, network, **{peer.classes: ours.num_classes})
    with opened(weights) as file:
        tensors = file.load()
        spelled = peer.spelled(tensors, file.metadata, ours)
    try:
        theirs.load_state_dict({name: tensors[old] for name, old in spelled.items()}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {peer.name}'s own {network.name}: {error}") from None
    return theirs


def _hand_over(peer: Peer, network: Network, theirs: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Random weights and statistics for a network whose layers are not torch's: those of ours."""
    without = {"aux": False} if "aux" in model_info(network.ours).settings else {}
    ours = create_model(network.ours, **{**network.settings, **without}).eval()
    randomise(ours, images, generator)
    state, known = ours.state_dict(), peer.tensors(theirs)
    found = {slot.name: slot.there(state[key]) for key, slot in peer.slots(ours).items() if slot.name in known}
    theirs.load_state_dict(found, strict=False)


def _images(peer: Peer, theirs: nn.Module, ours: Backbone, count: int, generator: torch.Generator) -> Tensor:
    """Small ones that are not square where the peer reads them, else of our own size; or of the peer's choice."""
    channels, height, width = ours.variant.input_size
    small = max(ours.min_size, min(height, SIDE))
    for size in peer.image_sizes(theirs) or ((small, small + 5), (height, width)):
        images = torch.randn(count, channels, *size, generator=generator)
        try:
            with torch.no_grad():
                theirs(images[:1])
            return images
        except (RuntimeError, ValueError, AssertionError):
            continue
    raise ValueError(f"the peer's network does not read images of {height}x{width}")


def _outputs(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of every layer that has none in it, in the order in which they run."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, out: object) -> None:
            if isinstance(out, Tensor):
                outputs.setdefault(name, out.clone())  # the first, and before an activation changes it in place

        return hook

    leaves = {name: m for name, m in module.named_modules() if not [*m.children()]}
    handles = [m.register_forward_hook(keep(name)) for name, m in leaves.items()]
    with torch.inference_mode():
        module(images)
    for handle in handles:
        handle.remove()
    return outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of loading: what they say is in the report."""
    log = logging.getLogger("backbones")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
