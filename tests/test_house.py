"""The house itself: what imports what, what is generated, what starts fast."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import scorecard
from networks import NAMES

from backbones import catalog, create_model, list_models, model_info, models, registry
from backbones.backbone import Backbone
from backbones.records import Paper, Variant

ROOT = Path(__file__).parents[1]
FAMILIES = {file.stem: file for file in Path(models.__path__[0]).glob("[a-z]*.py")}


def papers() -> dict[str, Paper]:
    return {family: import_module(f"{models.__name__}.{family}").PAPER for family in FAMILIES}


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


def test_catalog_is_current() -> None:
    assert catalog.load() == catalog.build(), "stale; run: python -m backbones.catalog"


def test_readme_table_is_current() -> None:
    readme = (ROOT / "README.md").read_text()
    assert catalog.with_table(readme) == readme, "stale; run: python -m backbones.catalog"
    assert all(f"`{name}`" in readme for name in NAMES)


def test_scorecard_is_current() -> None:
    assert scorecard.page() == scorecard.FILE.read_text(), "stale; run: make catalog"


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
    """Dropped into the folder, it is found, built, listed and described; nothing else is touched."""
    family = """
from torch import nn
from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.records import Paper, Variant
from backbones.registry import register

class Tiny(Backbone):
    def __init__(self, num_classes=10, in_channels=3, drop_rate=0.0):
        stages = [nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2), nn.ReLU())]
        super().__init__(stem=nn.Identity(), stages=stages, head=Head(4, num_classes, drop_rate=drop_rate),
                         in_channels=in_channels, min_size=3, init=he_init)

register(Variant("tiny", Tiny, Paper("Tiny", "Nobody", 2030, "nowhere"), {}))
"""
    (tmp_path / "tiny.py").write_text(family)
    code = f"""
import json, backbones.models as models
models.__path__.append({str(tmp_path)!r})
from backbones import catalog, create_model, list_models
import torch
model = create_model("tiny", num_classes=3)
entry = catalog.build()["tiny"]
print(json.dumps([list_models()[-1], model(torch.zeros(1, 3, 8, 8)).shape[1], entry["measured"]["params"]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["tiny", 3, 3 * 4 * 9 + 4 + 4 * 1000 + 1000]


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
