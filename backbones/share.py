"""A folder as the Hugging Face Hub keeps networks: config.json, model.safetensors, README.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backbones.backbone import Backbone
from backbones.factory import create_model, model_info, save
from backbones.loading import locate
from backbones.records import Checkpoint, Preprocessing, Recipe
from backbones.weights.file import in_place, ours
from backbones.weights.hub import CONFIG, WEIGHTS

CARD = "README.md"


def save_pretrained(
    model: Backbone,
    folder: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    recipe: Recipe | None = None,
    metrics: Mapping[str, float] | None = None,
    data: str | None = None,
) -> None:
    """Write config.json, model.safetensors and a model card; what is not given is taken from `model.checkpoint`.

    Args:
        model: the network
        folder: made if it is not there; files of these three names in it are replaced, each whole or not at all
        classes, preprocessing, recipe, metrics, data: as in `backbones.save`
    """
    given = {"classes": classes, "preprocessing": preprocessing, "recipe": recipe, "metrics": metrics, "data": data}
    known = vars(model.checkpoint) if hasattr(model, "checkpoint") else {}
    facts: dict[str, Any] = {
        key: known[key] if value is None and key in known else value for key, value in given.items()
    }
    if facts["classes"] and len(facts["classes"]) != model.num_classes:
        facts["classes"] = classes
    folder = Path(folder)
    save(model, folder / WEIGHTS, **{key: value for key, value in facts.items() if value is not None})
    told = ours(folder / WEIGHTS).told
    config = {"architecture": told.network, "num_classes": model.num_classes, "backbones": asdict(told)}
    for name, text in ((CONFIG, json.dumps(config, indent=1)), (CARD, model_card(model, told))):
        with in_place(folder / name) as temporary:
            Path(temporary).write_text(text + "\n")


def from_pretrained(source: str | PathLike[str], **changes: Any) -> Any:
    """The network of a folder that `save_pretrained` wrote, or of "OWNER/REPO[@REVISION]" on the hub, in eval mode.

    Args:
        source: a folder, or a repository: of ours, or of timm
        changes: as in `create_model`: another num_classes, features_only, ...
    """
    text = str(source)
    if Path(text).is_file():
        raise ValueError(f"{text} is a file: use backbones.load, or create_model(NAME, weights={text!r})")
    if not Path(text).is_dir():
        text = text if text.startswith("hf:") else f"hf:{text}"
    found = locate(text, ())
    if found.ours is None:
        return create_model(ours(found.path).told.network, weights=found.path, **changes).eval()
    return create_model(found.ours, weights=text, **changes).eval()


def push_to_hub(model: Backbone, repo_id: str, *, private: bool = False, token: str | None = None, **facts: Any) -> str:
    """Upload what `save_pretrained` writes, as one commit; the repository is made if it is not there.

    Args:
        model: the network
        repo_id: "OWNER/NAME"
        private: whether a new repository is
        token: of the hub; the one that `hf auth login` keeps by default
        facts: as in `save_pretrained`

    Returns:
        the address of the commit
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory(prefix="backbones-") as folder:
        save_pretrained(model, folder, **facts)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=model.variant.name)
    return str(commit.commit_url)


def model_card(model: Backbone, told: Checkpoint) -> str:
    """Markdown: what the network is, what it wants, how it was trained, what it reached, how to load it."""
    return "\n".join(_card(model, told))


def _card(model: Backbone, told: Checkpoint) -> Iterator[str]:
    variant, preprocessing, recipe = model_info(told.network), told.preprocessing, told.recipe
    paper = variant.paper
    yield "---\nlibrary_name: backbones\npipeline_tag: image-classification\n---\n"
    yield f"# {variant.name}\n"
    where = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    yield f"{paper.title}. {paper.authors}, {paper.year}, {paper.venue}{where}.\n"
    params = sum(p.numel() for p in model.parameters())
    yield f"{params:,} parameters; {model.in_channels} channels in, {model.num_classes} classes out.\n"
    if variant.departures:
        yield "Departs from the paper:\n"
        yield from (f"- {departure}" for departure in variant.departures)
        yield ""
    if told.data or told.source:
        trained = f"Trained on {told.data}. " if told.data else ""
        yield trained + (f"Made from {told.source}." if told.source else "") + "\n"
    if told.metrics:
        yield "| figure | value |\n|---|---|"
        yield from (f"| {name} | {value:.4g} |" for name, value in told.metrics.items())
        yield ""
    if preprocessing:
        height, width = preprocessing.size
        yield (
            f"Images: shorter side resized so that a {height}x{width} centre crop is {preprocessing.crop:.4g} of it "
            f"({preprocessing.interpolation}), in [0, 1], less mean {_list(preprocessing.mean)}, "
            f"over std {_list(preprocessing.std)}.\n"
        )
    if recipe:
        yield (
            f"Recipe ({recipe.source}): {recipe.epochs} epochs of batches of {recipe.batch_size}, {recipe.opt}, "
            f"rate {recipe.lr:g}, {recipe.sched}, weight decay {recipe.weight_decay:g}.\n"
        )
    yield '```python\nimport backbones\n\nmodel = backbones.from_pretrained("FOLDER, OR OWNER/REPO")\n```'


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
