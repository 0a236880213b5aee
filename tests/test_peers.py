"""The same function as a peer's: its weights copied into ours give its logits, and the same gradients.

test_parity compares what a peer can express; here are those that had to be changed first, and all gradients.
tests/peers/<family>.py names the peers: PEERS maps our name to a constructor of the peer's module; FIXED are the names
whose peer reads only its own image size; `pairs(ours, theirs)`, where there is one, gives the layers that correspond.
"""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from networks import KINDS
from torch import Tensor, nn

from backbones import create_model, model_info
from backbones.backbone import Backbone, WithAux
from backbones.layers import RandomPath
from backbones.weights.peers import PEERS

FAMILIES = {
    file.stem: import_module(f"peers.{file.stem}") for file in (Path(__file__).parent / "peers").glob("[a-z]*.py")
}
CASES = {name: (family, peer) for family in FAMILIES.values() for name, peer in family.PEERS.items()}
PROVED = {network.ours for peer in PEERS.values() for network in peer.networks}
"""by test_parity"""
Pairs = list[tuple[nn.Module, nn.Module]]


def smallest_of_each_family() -> list[str]:
    smallest: dict[str, str] = {}
    for name in (n for n in KINDS if n in CASES):
        smallest.setdefault(CASES[name][0].__name__, name)
    return list(smallest.values())


def holders(module: nn.Module) -> list[nn.Module]:
    """The parts that hold weights of their own, in the order in which they were made."""
    return [m for m in module.modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)]]


def as_run(module: nn.Module, images: Tensor) -> list[nn.Module]:
    """The same parts in the order in which they run."""
    ran: dict[nn.Module, None] = {}
    handles = [m.register_forward_hook(lambda m, *_: ran.setdefault(m)) for m in holders(module)]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    return list(ran)


def sizes(parts: list[nn.Module]) -> list[list[int]]:
    return [[v.numel() for v in part.state_dict().values()] for part in parts]


def paired(name: str, ours: nn.Module, theirs: nn.Module, images: Tensor) -> Pairs:
    """By the family's own rule; else as made, where the sizes agree all along; else as run."""
    family = CASES[name][0]
    if hasattr(family, "pairs"):
        return list(family.pairs(ours, theirs))
    mine, other = holders(ours), holders(theirs)
    if sizes(mine) != sizes(other):
        mine, other = as_run(ours, images), as_run(theirs, images)
    assert sizes(mine) == sizes(other), "the layers do not correspond; give tests/peers a pairs()"
    return list(zip(mine, other, strict=True))


def made_alike(name: str, side: tuple[int, int]) -> tuple[Backbone, nn.Module, Pairs, Tensor]:
    """Both networks with the peer's random weights and random statistics, and images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    theirs = CASES[name][1]().eval()
    for conv in (m for m in theirs.modules() if isinstance(m, nn.Conv2d)):  # some peers' own weights let signals vanish
        nn.init.kaiming_normal_(conv.weight)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
    ours = create_model(name, **({"aux": False} if "aux" in model_info(name).settings else {})).eval()
    images = torch.randn(2, ours.in_channels, *side, generator=generator)
    pairs = paired(name, ours, theirs, images)
    for mine, other in pairs:
        mine.load_state_dict({k: v.reshape(mine.state_dict()[k].shape) for k, v in other.state_dict().items()})
    return ours, theirs, pairs, images


def side(name: str) -> tuple[int, int]:
    variant = model_info(name)
    own = variant.input_size[1]
    if name in getattr(CASES[name][0], "FIXED", ()):
        return own, own
    smaller = max(create_on_meta(name).min_size, min(own, 97))
    return smaller, smaller + 5


def create_on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return create_model(name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.slow) for n in CASES if n not in PROVED]
)
def test_same_logits(name: str) -> None:
    ours, theirs, _, images = made_alike(name, side(name))
    assert count(ours) == count(theirs)
    with torch.inference_mode():
        expected = theirs(images)
        scale = float(expected.max() - expected.min())
        assert float((expected[0] - expected[1]).abs().max()) > 1e-3 * scale, "the images make no difference"
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_same_gradients_in_training(name: str) -> None:
    """With batch statistics, without anything random."""
    ours, theirs, pairs, images = made_alike(name, side(name))
    for module in (ours, theirs):
        module.double().train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            if isinstance(part, RandomPath):
                part.rate = 0.0
        logits = module(images.double())
        logits = logits.logits if isinstance(logits, WithAux) else logits
        logits.square().mean().backward()
    for mine, other in pairs:
        for (key, p), q in zip(mine.named_parameters(recurse=False), other.parameters(recurse=False), strict=True):
            torch.testing.assert_close(p.grad.reshape(q.grad.shape), q.grad, rtol=1e-6, atol=1e-9, msg=f"{mine}.{key}")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
