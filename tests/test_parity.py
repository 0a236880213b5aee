"""Every network that a peer can express: its own file gives its logits here, and comes back to it unchanged."""

import re

import parity_table
import pytest
import torch
from torch import nn

from backbones import create_model, list_models, model_info
from backbones.build import build_on_meta
from backbones.catalog import load
from backbones.parity import compare, logits, parting, partners, prove, randomise
from backbones.weights.convert import Network, Peer
from backbones.weights.peers import PEERS

CASES = [(peer, network) for peer in PEERS.values() for network in peer.networks]


def smallest() -> dict[tuple[str, str], Network]:
    """Of each peer and family."""
    found: dict[tuple[str, str], Network] = {}
    for peer, network in sorted(CASES, key=lambda case: load()[case[1].ours]["measured"]["params"]):
        found.setdefault((peer.name, load()[network.ours]["family"]), network)
    return found


def told(peer: Peer, network: Network) -> str:
    extra = "".join(f"-{key}={value}" for key, value in {**network.settings, **network.kwargs}.items())
    return f"{peer.name}-{network.name}-{network.ours}{extra}".replace(" ", "")


SMALLEST = [n for n in smallest().values() if load()[n.ours]["measured"]["params"] < 30e6]
PARAMS = [pytest.param(p, n, id=told(p, n), marks=() if n in SMALLEST else pytest.mark.slow) for p, n in CASES]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
@pytest.mark.parametrize(("peer", "network"), PARAMS)
def test_a_peers_file_gives_its_logits_and_comes_back(peer: Peer, network: Network) -> None:
    if not peer.installed():
        pytest.skip(f"{peer.name} IS NOT INSTALLED: its networks are not compared")
    report = prove(peer, network)
    assert report.fp64.relative < 1e-9
    assert report.fp32.relative < max(1e-4, 2 * report.rounding)  # through 152 layers the peer's own rounding is more
    assert report.rounding < 1e-3
    assert report.fp64.top1 == 1
    assert (report.changed, report.parts_at) == (0, "")
    assert report.tensors > 0


@pytest.mark.parametrize(("peer", "network"), [c for c in CASES if c[0].suffix == ".pth"])
def test_every_tensor_of_a_peer_has_its_partner(peer: Peer, network: Network) -> None:
    """By name and shape, of every network, without values."""
    with torch.device("meta"):
        theirs = peer.create(network).state_dict()
    ours = build_on_meta(model_info(network.ours), network.settings)
    state = ours.state_dict()
    mine = {slot.name: tuple(slot.there(state[key]).shape) for key, slot in peer.slots(ours).items()}
    assert mine == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


def test_every_partner_is_a_network_of_ours() -> None:
    names = list_models()
    assert {network.ours for _, network in CASES} <= set(names)
    for peer, network in CASES:
        assert load()[network.ours]["family"] in peer.layers, told(peer, network)


def test_the_page_has_no_hole() -> None:
    """Every network and peer: what was compared and how it came out, or why there is nothing to compare."""
    text = parity_table.FILE.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{name}`" for name in list_models()], "stale; run: make parity"
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    for row in rows:
        for peer, cell in zip(PEERS.values(), row[1:], strict=True):
            found = [n for n in peer.networks if f"`{n.ours}`" == row[0]]
            pairs = re.findall(r"`(.+?)`[*†]* (\S+) / (\S+?)(?:‡ [^<]*)?(?:<br>|$)", cell)
            assert [name.partition("(")[0] for name, *_ in pairs] == [n.name for n in found], "stale; run: make parity"
            assert all(float(fp64) < 1e-9 and float(fp32) < (1e-3 if "‡" in cell else 1e-4) for _, fp64, fp32 in pairs)
            if not found:
                number = re.fullmatch(r"\[(\d+)\]", cell)
                assert number, (row[0], peer.name)
                assert reasons[number[1]] == parity_table.reason(peer.name, row[0].strip("`"))


def test_it_says_where_two_networks_part() -> None:
    """The paper's strides with the weights of torchvision's."""
    (peer, network) = partners("resnet50", "torchvision")[0]
    theirs = peer.create(network).eval().double()
    ours = create_model("resnet50", seed=0).eval().double()
    tensors = theirs.state_dict()
    ours.load_state_dict({key: slot.here(tensors[slot.name]) for key, slot in peer.slots(ours).items()})
    images = torch.randn(2, 3, 65, 70, dtype=torch.float64)
    assert compare(logits(ours, images), logits(theirs, images)).relative > 1e-3
    assert parting(ours, theirs, peer, images) == "stages.1.0.branch.3"


def test_random_weights_keep_signals_alive() -> None:
    """At any depth, and so that images make a difference."""
    model = create_model("resnet110_cifar", seed=0).eval()
    images = torch.randn(4, 3, 32, 32)
    randomise(model, images, torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all()
    assert float(logits.std(0).mean()) > 0.01 * float(logits.std())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(not norm.training and norm.momentum == 0.1 and float(norm.running_var.std()) > 0 for norm in norms)


def test_no_partner() -> None:
    with pytest.raises(LookupError, match="torchvision has no network of the function of lenet5"):
        partners("lenet5", "torchvision")
    assert {n.ours for _, n in partners("resnet50", "torchvision")} == {"resnet50.tv"}, model_info("resnet50").name
