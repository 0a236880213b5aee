"""backbones train: every field of the recipe and of the options is a flag."""

import ast
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

from backbones import catalog, recipes
from backbones.cli import tables
from backbones.records import Options, Recipe

ORIGIN = ("network", "data", "val_split", "download", "weights")  # of a run, kept beside its recipe
SETTINGS = "settings"  # the same: of the network, where its weights brought some
RUN_FILE, CHECKPOINTS = "recipe.json", "checkpoints"  # as in backbones.train.folder, which imports torch
MOVABLE = (
    "workers",
    "devices",
    "nodes",
    "accumulate",
    "data",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "hang_seconds",
)  # what may differ when a run is continued: where and how it works, and where its images lie now
PLAN = {
    "part": "part",
    "parameters": "parameters",
    "factor": "rate, over --lr",
    "decayed": "decayed",
    "frozen": "epochs fixed",
}
COPIED = {"layer": "layer", "source": "copied from", "parameters": "parameters"}
Command = TypeVar("Command")


@dataclass(frozen=True)
class Train:
    """Train a network on images, test it, and leave a folder with weights, figures and pictures."""

    network: Positional[str | None] = None
    """as `backbones list` prints it"""
    data: str | None = None
    """digits, shapes:SIDE, folder:PATH, wds:SHARDS, hf:NAME, or tv:NAME@ROOT such as tv:CIFAR10@data"""
    recipe: Literal["modern", "paper"] = "modern"
    """modern: this library's short one; paper: the network's own (`backbones recipe NETWORK` shows it)"""
    val_split: float = 0.0
    """share of the training images to validate on, where the data has no validation part"""
    download: bool = False
    """let torchvision fetch the data if it is not there"""
    weights: str | None = None
    """start from these instead of from the initialisation: a file, or tv:..., timm:..., hf:... (`backbones weights`)"""
    grow_from: Path | None = None
    """start a deeper VGG from this trained shallower one, as its paper began: a run folder or a file of ours"""
    resume: Path | None = None
    """continue the run in this folder, from its last checkpoint, with its own settings"""
    submit: Literal["slurm"] | None = None
    """queue the run as a job of this cluster, on --nodes machines of --devices GPUs, instead of running it here"""
    slurm: tuple[str, ...] = ()
    """settings of the job, such as time=1440 (minutes) and partition=gpu"""
    values: Any = None
    options: Options = field(default_factory=Options)

    def run(self) -> None:
        """Carry it out."""
        if self.submit:
            _submit(self)
            return
        if self.resume:
            _continue(self)
            return
        if not self.network or not self.data:
            raise ValueError("give a network and its data, such as: backbones train lenet5 --data digits")
        values = recipes.choose(self.recipe, catalog.find(self.network))
        origin = {key: getattr(self, key) for key in ORIGIN}
        _start(origin, values, self.options, chosen(self.values), self.grow_from)


def _submit(command: Train) -> None:
    """The same command line, less what says that it is a job, for every task of it."""
    from backbones.train.folder import new_folder
    from backbones.train.submit import submit

    if command.network:
        recipes.choose(command.recipe, catalog.find(command.network))
    kept, dropped = list[str](), 0
    for argument in sys.argv[2:]:
        flag, _, value = argument.partition("=")
        if flag.startswith("--"):
            dropped = {"--submit": 0 if value else 1, "--slurm": len(command.slurm) - bool(value)}.get(flag, 0)
        elif dropped:
            dropped -= 1
            continue
        if flag not in ("--submit", "--slurm"):
            kept.append(argument)
    folder = command.resume or (Path(command.options.output) if command.options.output else None)
    if folder is None:
        folder = new_folder(command.network or "run", command.data or "data").resolve()
        kept += ["--output", str(folder)]
    job = submit(kept, folder, command.options, command.slurm)
    print(f"job {job}; its output goes to {folder / 'slurm'}, the run to {folder}")


def chosen(flags: Any) -> dict[str, Any]:
    """What was given of the recipe's flags."""
    return {key: value for key, value in vars(flags).items() if value is not None}


def _start(
    origin: Mapping[str, Any],
    recipe: Recipe,
    options: Options,
    notes: list[str] | Mapping[str, Any],
    grow_from: Path | None = None,
) -> None:
    """Make the data and the network, and fit.

    `notes` are the values that a new run chose in place of the recipe's, or the notes of a run to continue.
    """
    from rich.console import Console

    from backbones import create_model, load, train
    from backbones.data import open_data
    from backbones.train.folder import is_first_process
    from backbones.train.launch import start_others
    from backbones.writing import brought

    if (code := start_others(options, sys.argv[1:])) is not None:
        sys.exit(code)
    resume, given = isinstance(notes, list), recipe
    if not isinstance(notes, list):
        given = recipes.check(replace(recipe, **notes))
    data = open_data(origin["data"], val_split=origin["val_split"], download=origin["download"])
    model = create_model(
        origin["network"],
        num_classes=len(data.info.classes),
        in_chans=data.info.channels,
        weights=None if resume else origin["weights"],
        drop_rate=given.drop_rate,
        drop_path_rate=given.drop_path_rate,
        seed=options.seed,
        **origin.get(SETTINGS, {}),
    )
    if not isinstance(notes, list):
        side = train.input_of(model, data, options.img_size).size[0]
        stages, momentum = len(model.stages), train.norm_momentum(model)
        recipe, notes = recipes.size_to(recipe, data.info, notes, side=side, stages=stages, bn_momentum=momentum)
    origin = {**origin, "network": model.variant.name, SETTINGS: brought(model)}  # what the weights made it, to resume
    console = Console()
    if grow_from:
        shallow = load(grow_from / train.BEST if grow_from.is_dir() else grow_from)
        copied = train.grow_from(model, shallow)
        if is_first_process():
            tables.show([row._asdict() for row in copied], "table", COPIED)
    if (recipe.freeze_epochs or recipe.layer_decay) and is_first_process():
        tables.show([row._asdict() for row in train.plan(model, recipe)], "table", PLAN)
    result = train.fit(model, data, recipe, options, notes=notes, origin=origin, resume=resume, console=console)
    metrics = result.metrics
    low, high = metrics.interval
    console.print(
        f"[bold]{result.part} accuracy {metrics.top1:.2f} %[/]  "
        f"({round(metrics.top1 * metrics.images / 100)} of {metrics.images}; 95 % interval {low:.1f} to {high:.1f} %) "
        f"after {result.seconds:.0f} s",
        highlight=False,
    )
    where = f"pictures and figures: {result.folder / 'report.md'}"
    console.print(where, markup=False, highlight=False, soft_wrap=True)


def _continue(command: Train) -> None:
    """The run in the folder, with the settings it was started with; only where it runs may change."""
    folder = command.resume or Path()
    flags = [argument[2:].partition("=")[0].replace("-", "_") for argument in sys.argv if argument.startswith("--")]
    given = [flag for flag in flags if flag != "resume"] + (["network"] if command.network else [])
    if fixed := [f"--{key.replace('_', '-')}" for key in given if key not in MOVABLE]:
        raise ValueError(f"--resume continues a run with its own settings; leave out {' '.join(fixed)}")
    file = folder / RUN_FILE
    if not file.is_file() or not (folder / CHECKPOINTS).is_dir():
        raise FileNotFoundError(f"{folder} has no run to continue; --resume takes its folder, such as runs/lenet5-...")
    try:
        told = json.loads(file.read_text())
        moved = {key: getattr(command.options, key) for key in given if key != "data"}
        options = Options(**{**told["options"], **moved, "output": str(folder)})
        origin, recipe = {key: told[key] for key in ORIGIN}, recipes.from_json(told["recipe"])
        origin[SETTINGS] = told.get(SETTINGS, {})
        origin["data"] = command.data or origin["data"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not what a run wrote ({type(error).__name__}: {error}); start a new run") from None
    _start(origin, recipe, options, told["notes"])


def arguments(args: Sequence[str]) -> type[Train]:
    """`Train` with a flag per field of the recipe; the help of each shows the value in the recipe that `args` names."""
    return with_flags(Train, _named_recipe(args))


def with_flags(base: type[Command], named: Recipe) -> type[Command]:
    """The command with a flag per field of the recipe in `values`; the help of each shows the value of `named`."""
    hints, docs = get_type_hints(Recipe), _field_docs(Recipe)
    flags: list[tuple[str, Any, Any]] = []
    for name, kind in hints.items():
        if name not in recipes.TOLD_ONLY:
            about = arg(help=docs[name], metavar=_metavar(kind), help_behavior_hint=f"(recipe: {getattr(named, name)})")
            flags.append((name, Annotated[kind | None, about], None))
    recipe_flags = make_dataclass("RecipeFlags", flags, frozen=True)
    recipe_flags.__doc__ = "What is given here replaces the recipe's value."
    own = ("values", recipe_flags, field(default_factory=recipe_flags))
    command = make_dataclass(f"{base.__name__}Command", [own], bases=(base,), frozen=True)
    command.__doc__ = base.__doc__
    return command


def named_network(args: Sequence[str]) -> Mapping[str, Any] | None:
    """The catalog's entry of the network that the arguments name."""
    words = [word for argument in args for word in argument.split("=")]
    return next((catalog.load()[word] for word in words if word in catalog.load()), None)


def _named_recipe(args: Sequence[str]) -> Recipe:
    """The recipe that the arguments name, for the help."""
    entry, paper = named_network(args), any("paper" in argument.split("=") for argument in args)
    if entry is None:
        return recipes.MODERN
    return recipes.choose("paper" if paper and entry["recipe"] else "modern", entry)


def _metavar(kind: Any) -> str:
    """What the help shows for the value of a flag."""
    kinds = [k for k in get_args(kind) if k is not type(None)] or [kind]
    if get_origin(kind) is Literal:
        return "{" + ",".join(kinds) + "}"
    names = {bool: "{True,False}", int: "INT", float: "FLOAT", Ellipsis: "..."}
    return " ".join(names.get(k, str(k)) for k in kinds)


def _field_docs(record: type) -> dict[str, str]:
    """Field -> the string under it in the source."""
    (definition,) = ast.parse(inspect.getsource(record)).body
    docs, name = {}, ""
    for line in definition.body if isinstance(definition, ast.ClassDef) else []:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = text
    return docs
