"""What is published for which network, and fetching it: small files, from servers on this machine."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from server import COMMIT, Page, Server, serving
from torchvision.models import GoogLeNet, Inception3, get_model_weights

from backbones import catalog
from backbones.records import Preprocessing
from backbones.weights import hub, published, sources, timm, torchvision
from backbones.weights.sources import Published, Repo, cached, default, fetch, find, twins

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
USUAL = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, of torch and of the hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def tv(tag: str = "tv:IMAGENET1K_V2") -> Published:
    found = find(tag, ["resnet50.tv"])
    assert isinstance(found, Published)
    return found


def test_timm_list_is_current() -> None:
    pytest.importorskip("timm", reason="backbones/weights/timm.json was NOT compared: timm is not installed")
    import timm_weights

    assert published.TIMM_FILE.read_text() == timm_weights.page(), "stale; run: make catalog"


def test_every_network_is_ours() -> None:
    assert {n.ours for n in (*torchvision.NETWORKS, *timm.NETWORKS)} <= catalog.load().keys()


def test_everything_of_torchvision_and_timm_is_listed() -> None:
    """Each with what it takes to use it, under a name that finds it again."""
    for name in catalog.load():
        names = twins(name)
        found = sources.published(names)
        assert len({w.weights for w in found}) == len(found)
        assert [w.peer for w in found] == sorted((w.peer for w in found), reverse=True)
        for w in found:
            assert find(w.weights, names) == w
            assert w.preprocessing is not None
            assert len(w.preprocessing.mean) == len(w.preprocessing.std) == w.preprocessing.channels == 3
            assert 0.8 <= w.preprocessing.crop <= 1
            assert (w.top1 is None) == (w.top5 is None)
            assert w.top1 is None or 50 < w.top1 < w.top5 < 100
    everything = sources.published(catalog.load())
    ours = [n.name for n in torchvision.NETWORKS if not n.kwargs]
    assert sum(w.peer == "torchvision" for w in everything) == sum(len(get_model_weights(n)) for n in ours)
    assert sum(w.peer == "timm" for w in everything) == sum(
        map(len, json.loads(published.TIMM_FILE.read_text()).values())
    )


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("resnet50", "tv:IMAGENET1K_V1", Preprocessing(3, (224, 224), *USUAL, "bilinear", 0.875)),
        ("resnet50", "tv:IMAGENET1K_V2", Preprocessing(3, (224, 224), *USUAL, "bilinear", 224 / 232)),
        ("resnet50", "timm:a3_in1k", Preprocessing(3, (160, 160), *USUAL, "bicubic", 0.95)),
        ("googlenet", "tv:IMAGENET1K_V1", Preprocessing(3, (224, 224), *HALF, "bilinear", 0.875)),
        ("inception_v3", "tv:IMAGENET1K_V1", Preprocessing(3, (299, 299), *HALF, "bilinear", 299 / 342)),
        ("inception_v3", "timm:tv_in1k", Preprocessing(3, (299, 299), *HALF, "bicubic", 0.875)),
        ("efficientnet_b1", "tv:IMAGENET1K_V1", Preprocessing(3, (240, 240), *USUAL, "bicubic", 240 / 256)),
    ],
)
def test_preprocessing(name: str, weights: str, expected: Preprocessing) -> None:
    found = find(weights, twins(name))
    assert isinstance(found, Published)
    assert found.preprocessing == expected


@pytest.mark.parametrize("kind", [GoogLeNet, Inception3])
def test_torchvision_turns_its_usual_normalisation_into_half_and_half(kind: type[GoogLeNet] | type[Inception3]) -> None:
    pixels = torch.rand(1, 3, 4, 4)
    mean, std = (torch.tensor(values)[:, None, None] for values in USUAL)
    theirs = kind._transform_input(SimpleNamespace(transform_input=True), (pixels - mean) / std)
    torch.testing.assert_close(theirs, (pixels - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("name", "weights", "network"),
    [
        ("resnet50", "tv:IMAGENET1K_V2", "resnet50.tv"),
        ("vgg16", "tv:IMAGENET1K_V1", "vgg16"),
        ("inception_v4", "timm:tf_in1k", "inception_v4.timm"),
        ("nasnet_a_6_4032", "timm:tf_in1k", "nasnet_a_6_4032.timm"),
        ("se_resnet50", "timm:a1_in1k", "se_resnet50.timm"),
        ("efficientnet_b0", "tv:IMAGENET1K_V1", "efficientnet_b0.tv"),
    ],
)
def test_default(name: str, weights: str, network: str) -> None:
    found = default(twins(name))
    assert (found.weights, found.network) == (weights, network)


def test_features_only_weights_have_no_classes_and_no_accuracy() -> None:
    found = find("tv:IMAGENET1K_FEATURES", ["vgg16"])
    assert isinstance(found, Published)
    assert (found.num_classes, found.top1, found.top5) == (0, None, None)


def test_settings_come_along() -> None:
    found = find("timm:efficientnet_b5.sw_in12k_ft_in1k", twins("efficientnet_b5"))
    assert isinstance(found, Published)
    assert (found.network, found.settings) == ("efficientnet_b5.tv", {"bn_eps": 1e-5})


def test_names_that_find_nothing() -> None:
    for weights, names, kind, says in (
        (
            "tv:IMAGENET1K_V3",
            twins("resnet50"),
            LookupError,
            "resnet50 has no weights called 'tv:IMAGENET1K_V3'; it has tv",
        ),
        ("timm:a1_in1k", ["resnet18.tv", "resnet34.tv"], LookupError, "timm:resnet18.a1_in1k or timm:resnet34.a1_in1k"),
        ("imagenet", ["resnet50.tv"], LookupError, "'imagenet'; give tv:..., timm:..., or hf:..."),
        ("tv:IMAGENET1K_V1@v2", ["resnet50.tv"], ValueError, "leave out @v2"),
        ("timm:a1_in1k@../x", ["resnet50.tv"], ValueError, "hf:OWNER/REPO@REVISION"),
        ("hf:resnet50", ["resnet50.tv"], ValueError, "give hf:OWNER/REPO"),
        ("tv:IMAGENET1K_V1", twins("lenet5"), LookupError, "no published weights fit lenet5"),
    ):
        with pytest.raises(kind) as caught:
            find(weights, names)
        assert says in str(caught.value)
    with pytest.raises(LookupError, match="no published weights fit lenet5; train it, or give a file"):
        default(["lenet5"])
    found = sources.published(["resnet18.tv", "resnet34.tv"])
    assert "timm:resnet34.a1_in1k" in [w.weights for w in found]


def test_revisions() -> None:
    found = find("timm:a1_in1k@abc123", ["resnet50.tv"])
    assert isinstance(found, Published)
    assert found.place == Repo("timm/resnet50.a1_in1k", "abc123")
    assert find("hf:me/net@v1", ["resnet50.tv"]) == Repo("me/net", "v1")


def test_fetch_from_torchvision(server: Server, home: Path) -> None:
    weights = tv()
    assert cached(weights) is None
    name = f"resnet50-{SHA256[:8]}.pth"
    here = dataclasses.replace(weights, place=server.add(f"/models/{name}", Page(BODY)))
    told = fetch(here)
    assert told.path == home / "hub" / "checkpoints" / name == cached(here)
    assert told.origin == f"{server.url}/models/{name} sha256 {SHA256}"
    assert (told.published, len(told.classes), told.classes[1]) == (here, 1000, "goldfish")
    assert fetch(here) == told
    assert len(server.seen) == 1


def test_no_network_says_what_is_here(home: Path) -> None:
    weights = dataclasses.replace(tv(), place="http://127.0.0.1:9/resnet50-00000000.pth")
    with pytest.raises(ConnectionError) as caught:
        fetch(weights)
    assert str(caught.value).startswith("resnet50.tv tv:IMAGENET1K_V2: cannot reach 127.0.0.1:9 (")
    assert str(caught.value).endswith("; this machine has no others that fit; a file may be given instead")
    for url in (str(tv("tv:IMAGENET1K_V1").place), str(tv("tv:IMAGENET1K_V2").place)):
        file = home / "hub" / "checkpoints" / Path(url).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with pytest.raises(ConnectionError, match="this machine has tv:IMAGENET1K_V1, tv:IMAGENET1K_V2; a file"):
        fetch(weights)


@pytest.fixture
def at_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub's client, in this process, asks this server."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return server


def config(**changes: object) -> bytes:
    cfg = {"input_size": [3, 176, 176], "mean": USUAL[0], "std": USUAL[1], "crop_pct": 0.9, "interpolation": "bicubic"}
    told = {"architecture": "resnet50", "num_classes": 2, "label_names": ["cat", "dog"], "pretrained_cfg": cfg}
    return json.dumps({**told, **changes, "pretrained_cfg": {**cfg, **changes}}).encode()


def test_fetch_from_the_hub(at_hub: Server) -> None:
    at_hub.add_repo("timm/resnet50.a1_in1k", {hub.WEIGHTS: Page(BODY)})
    weights = find("timm:a1_in1k", ["resnet50.tv"])
    told = fetch(weights)
    assert told.path.read_bytes() == BODY
    assert told.origin == f"hf:timm/resnet50.a1_in1k@{COMMIT} sha256 {SHA256}"
    assert (told.published, len(told.classes)) == (weights, 1000)
    assert isinstance(weights, Published)
    assert cached(weights) == told.path
    at_hub.add_repo("me/pets", {hub.WEIGHTS: Page(BODY), hub.CONFIG: Page(config())})
    told = fetch(Repo("me/pets"))
    assert told.published is not None
    assert told.published.weights == f"hf:me/pets@{COMMIT}"
    assert (told.published.network, told.published.peer, told.published.num_classes) == ("resnet50.tv", "timm", 2)
    assert told.published.preprocessing == Preprocessing(3, (176, 176), *USUAL, "bicubic", 0.9)
    assert told.classes == ("cat", "dog")
    at_hub.add_repo("me/other", {hub.WEIGHTS: Page(BODY), hub.CONFIG: Page(b'{"backbones": 1}')})
    told = fetch(Repo("me/other"))
    assert (told.published, told.classes, told.config) == (None, (), {"backbones": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.5, "x", 0.5]},
        {"std": [0, 1, 1]},
        {"mean": [float("nan")] * 3},
        {"input_size": [3, 224]},
        {"input_size": [3, 10**9, 10**9]},
        {"interpolation": "magic"},
        {"crop_pct": None},
        {"num_classes": -1},
        {"num_classes": True},
    ],
)
def test_a_config_that_cannot_be_is_refused(at_hub: Server, changes: dict[str, object]) -> None:
    at_hub.add_repo("me/net", {hub.WEIGHTS: Page(BODY), hub.CONFIG: Page(config(**changes))})
    with pytest.raises(ValueError, match=f"config.json of hf:me/net@{COMMIT}: {next(iter(changes))}=.* was expected"):
        fetch(Repo("me/net"))


def test_command(home: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    checkpoint = home / "hub" / "checkpoints" / Path(str(tv().place)).name
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    code, out, _ = run("weights", "resnet50")
    assert code == 0
    for w in sources.published(["resnet50.tv"]):
        assert f"\n{w.weights} " in out
    (line,) = (line for line in out.splitlines() if line.startswith("tv:IMAGENET1K_V2"))
    assert line.split() == ["tv:IMAGENET1K_V2", "80.86", "95.43", "224", "103", "MB", "yes"]
    _, out, _ = run("weights", "efficientnet_b0")
    assert ("efficientnet_b0.tv\n" in out.replace(" ", ""), "timm:ns_jft_in1k" in out) == (True, True)
    _, out, _ = run("weights", "resnet50.tv", "--json")
    told = json.loads(out)
    assert (told[1]["cached"], told[0]["cached"]) == (str(checkpoint), "")
    assert told[2]["place"] == "hf:timm/resnet50.a1_in1k"
    code, _, err = run("weights", "lenet5")
    assert (code, "no published weights fit lenet5" in err) == (2, True)
    code, _, err = run("weights", "resnet5O")
    assert (code, "Did you mean 'resnet50'" in err) == (2, True)
