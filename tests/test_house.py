"""The house itself: what imports what, what is generated, what starts fast."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import engines_table
import pytest
import scorecard
from networks import NAMES

from backbones import catalog, create_model, list_models, model_info, models, registry
from backbones.backbone import Backbone
from backbones.infer.search import EXACT
from backbones.records import Paper, Variant

ROOT = Path(__file__).parents[1]
FAMILIES = {file.stem: file for file in Path(models.__path__[0]).glob("[a-z]*.py")}


def papers() -> dict[str, Paper]:
    return {family: paper for paper, family in models.load().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_tree_is_the_import_graph(family: str) -> None:
    paper = papers()[family]
    tree = ast.parse(FAMILIES[family].read_text())
    froms = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    imported = {m.removeprefix("backbones.models.") for m in [*froms, *names] if m.startswith("backbones.models.")}
    assert imported <= set(paper.builds_on), f"{family} imports a family that its paper does not build on"
    for older in paper.builds_on:
        assert papers()[older].year <= paper.year, f"{family} builds on {older}, which is younger"
    allowed = {"torch", "typing", "dataclasses", "collections", "math", "backbones"}
    assert {m.partition(".")[0] for m in [*froms, *names]} <= allowed, "a family imports torch and the floors below"


LINE = {  # family -> names that it must have, from LeNet-5 to EfficientNet
    "lenet": "lenet5",
    "alexnet": "alexnet alexnet.tv",
    "zfnet": "zfnet zfnet_b",
    "vgg": "vgg11 vgg11_lrn vgg13 vgg16_c vgg16 vgg19 vgg16_bn",
    "googlenet": "googlenet googlenet.tv",
    "inception_v2": "inception_v2",
    "inception_v3": "inception_v2_rethinking inception_v3 inception_v3.tv",
    "inception_v4": "inception_v4",
    "inception_resnet": "inception_resnet_v1 inception_resnet_v2 inception_resnet_v2.slim",
    "resnet": "resnet18 resnet34 resnet50 resnet101 resnet152 plain34 resnet20_cifar resnet1202_cifar",
    "preact_resnet": "preact_resnet110_cifar preact_resnet164_cifar preact_resnet1001_cifar preact_resnet18 "
    "preact_resnet34 preact_resnet50 preact_resnet101 preact_resnet152 preact_resnet200 preact_resnet50.timm",
    "wide_resnet": "wrn_16_8 wrn_28_10 wrn_40_4 wide_resnet50_2 wide_resnet101_2.tv",
    "resnext": "resnext50_1x64d resnext50_2x40d resnext50_4x24d resnext50_8x14d resnext50_32x4d resnext101_32x4d "
    "resnext101_64x4d resnext101_32x8d.tv resnext29_8x64d_cifar resnext29_16x64d_cifar",
    "stochastic_depth": "resnet110_sd_cifar resnet1202_sd_cifar",
    "fractalnet": "fractalnet20_cifar fractalnet40_cifar fractalnet34",
    "densenet": "densenet121 densenet169 densenet201 densenet161 densenet264 densenet_40_12_cifar "
    "densenet_100_24_cifar densenet_bc_100_12_cifar densenet_bc_250_24_cifar densenet_bc_190_40_cifar "
    "densenet_c_40_12_cifar",
    "xception": "xception xception.timm",
    "squeezenet": "squeezenet1_0 squeezenet1_1 squeezenet1_0_simple_bypass squeezenet1_0_complex_bypass",
    "mobilenet_v1": "mobilenet_v1 mobilenet_v1_x0_75 mobilenet_v1_x0_5 mobilenet_v1_x0_25 mobilenet_v1.timm",
    "mobilenet_v2": "mobilenet_v2_x0_35 mobilenet_v2_x0_5 mobilenet_v2_x0_75 mobilenet_v2 mobilenet_v2_x1_3 "
    "mobilenet_v2_x1_4 mobilenet_v2.tv",
    "shufflenet_v1": " ".join(f"shufflenet_v1_g{g}_x{x}" for x in ("1_0", "0_5", "0_25") for g in (1, 2, 3, 4, 8))
    + " shufflenet_v1_g3_x1_5 shufflenet_v1_g3_x2_0",
    "senet": "se_resnet50 se_resnet101 se_resnet152 se_resnext50_32x4d se_resnext101_32x4d se_vgg16 senet154",
    "senet_others": "se_inception_v2 se_inception_resnet_v2 se_mobilenet_v1 se_shufflenet_v1_g3_x1_0 "
    "se_resnet110_cifar se_resnet164_cifar se_wrn_16_8",
    "nasnet": "nasnet_a_4_1056 nasnet_a_6_4032 nasnet_a_6_768_cifar nasnet_a_7_2304_cifar",
    "efficientnet": " ".join(f"efficientnet_b{i} efficientnet_b{i}.tv" for i in range(8)),
}


def test_the_whole_line_is_here() -> None:
    assert LINE.keys() <= FAMILIES.keys()
    for family, names in LINE.items():
        for name in names.split():
            assert catalog.load()[name]["family"] == family


def test_catalog_has_every_network() -> None:
    assert list(catalog.load()) == NAMES, "stale; run: make catalog"


@pytest.mark.parametrize("name", NAMES)
def test_catalog_is_current(name: str) -> None:
    assert catalog.load()[name] == catalog.describe(name), "stale; run: make catalog"


def test_readme_table_is_current() -> None:
    readme = (ROOT / "README.md").read_text()
    assert catalog.with_table(readme) == readme, "stale; run: python -m backbones.catalog"
    assert all(f"`{name}`" in readme for name in NAMES)


def test_scorecard_is_current() -> None:
    assert scorecard.page() == scorecard.FILE.read_text(), "stale; run: make catalog"


def test_every_imagenet_network_was_tried_in_other_engines() -> None:
    page = engines_table.FILE.read_text()
    assert page.startswith(engines_table.INTRODUCTION)
    rows = {line.split("`")[1]: line.split("|")[3:-1] for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == set(engines_table.networks()), "run: python tests/engines_table.py FACTS.json"
    assert {name: cells for name, cells in rows.items() if max(map(float, cells)) > EXACT} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import backbones",
        "import backbones; dir(backbones); backbones.__all__",
        "from backbones.cli import main; sys.argv = ['backbones', 'list']; main()",
        "from backbones.cli import main; sys.argv = ['backbones', 'list', '--paper']; main()",
        "from backbones.cli import main; sys.argv = ['backbones', 'info', 'resnet50']; main()",
        "from backbones.cli import main; sys.argv = ['backbones', 'explain', 'resnet50.tv']; main()",
        "from backbones.cli import main; sys.argv = ['backbones', 'recipe', 'vgg16']; main()",
        "from backbones.cli import main; sys.argv = ['backbones', 'train', '--help']; run(main)",
        "from backbones.cli import main; sys.argv = ['backbones', '--help']; run(main)",
    ],
)
def test_starts_without_torch(code: str) -> None:
    prelude = """
import sys
def run(main):
    try:
        main()
    except SystemExit:
        pass
"""
    heavy = "sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'torchvision', 'lightning', 'numpy', 'PIL'})"
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}{code}\nprint('HEAVY', {heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_public_names_resolve() -> None:
    import backbones

    for name in backbones.__all__:
        assert getattr(backbones, name).__name__ == name
    with pytest.raises(AttributeError, match="create_model"):
        backbones.creat_model  # noqa: B018


def test_registry_has_manners() -> None:
    with pytest.raises(LookupError, match=r"no network is called 'resnet5O'\. Did you mean 'resnet50'"):
        create_model("resnet5O")
    with pytest.raises(LookupError, match="backbones list"):
        create_model("qqqqqqqqq")
    with pytest.raises(TypeError, match=r"resnet50 has no setting \['num_clases'\]; it has .*'num_classes'"):
        create_model("resnet50", num_clases=3)
    taken = model_info("resnet50")
    with pytest.raises(ValueError, match=r"'resnet50' is already registered, by backbones\.models\.resnet"):
        registry.register(taken)
    with pytest.raises(ValueError, match="'resnet50' is already registered"):
        registry.register(replace(taken, name="another", aliases=("resnet50",)))
    assert "another" not in list_models()


def test_list_models() -> None:
    assert list_models("resnet*_cifar") == [n for n in NAMES if n.startswith("resnet") and n.endswith("_cifar")]
    assert list_models("nothing*") == []
    assert "vgg16" not in list_models(can="drop_path_rate")
    assert "resnet50" in list_models(can=("drop_path_rate", "export"))
    with pytest.raises(ValueError, match="no promise is called"):
        list_models(can="fly")
    years = [model_info(name).paper.year for name in NAMES]
    assert years == sorted(years)


def test_a_family_is_one_new_file(tmp_path: Path) -> None:
    """The example of docs/adding_a_network.md, dropped into the folder, is found, built, listed and described."""
    imports = """
from torch import nn
from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.records import Paper, Reported, Variant
from backbones.registry import register

PAPER = Paper("Tiny", "Nobody", 2030, "nowhere")
"""
    example = (ROOT / "docs" / "adding_a_network.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "tiny.py").write_text(imports + example)
    code = f"""
import json, backbones.models as models
models.__path__.append({str(tmp_path)!r})
from backbones import catalog, create_model, list_models
import torch
model = create_model("tiny", num_classes=3)
entry = catalog.describe("tiny")
told = [entry["measured"]["params"], entry["reported"][0]["params"], entry["measured"]["maps"], entry["family"]]
print(json.dumps([list_models()[-1], model(torch.zeros(1, 3, 8, 8)).shape[1], *told]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["tiny", 3, 498, 498, [16, 8], "tiny"]


def test_every_variant_is_a_backbone_with_a_source() -> None:
    for variant in map(model_info, NAMES):
        assert isinstance(variant, Variant)
        assert issubclass(variant.build, Backbone)
        assert all(claim.source for claim in variant.reported)
        assert all(claim.protocol for claim in variant.reported if claim.top1 is not None)
        assert all(d.here and d.paper and d.section for d in variant.departures)
        assert variant.recipe is None or variant.recipe.source


def test_no_addresses_are_committed() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"uv.lock", "pylock.toml"} & {Path(f).name for f in tracked}
