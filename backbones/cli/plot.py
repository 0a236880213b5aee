"""backbones plot: pictures of the networks, each also as data; and all of them on one page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, subcommand

from backbones import catalog, protocols
from backbones.cli.diagram import draw_diagram

if TYPE_CHECKING:
    from backbones.plots import Picture

FOLDER = "plots"
WELL_KNOWN = ("alexnet", "vgg16", "googlenet", "resnet50", "mobilenet_v2", "efficientnet_b0")
SWEEPS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "mobilenet_v1": {"width": (0.25, 0.5, 0.75, 1.0), "resolution": (128, 160, 192, 224)},
    "resnet50": {"depth": (50, 101, 152), "batch": (1, 2, 4, 8, 16)},
    "resnext50_32x4d": {"groups": (1, 2, 4, 8, 16, 32)},
    "shufflenet_v1_g3_x1_0": {"groups": (1, 2, 3, 4, 8)},
}
ENDINGS = (".svg", ".png", ".csv")


@dataclass(kw_only=True)
class Output:
    """Where a picture goes, and on what ground."""

    output: str | None = None
    """folder, or a file: its ending is left out, for .svg, .png and .csv are written; plots/ by default"""
    dark: bool = False
    """on dark ground"""

    def save(self, picture: "Picture") -> None:
        """Write the picture and its data, and say where."""
        from backbones import plots

        name = f"{picture.name}-dark" if self.dark else picture.name
        path = Path(self.output or FOLDER)
        path = path.with_suffix("") if path.suffix in ENDINGS else path / name
        plots.save(picture.draw(plots.DARK if self.dark else plots.LIGHT), path, picture.rows)
        print(f"{path}.svg, .png and .csv")


@dataclass
class Accuracy(Output):
    """Draw accuracy against multiply-adds: area the parameters, colour the year, and the Pareto front."""

    patterns: Positional[tuple[str, ...]] = ()
    """of names, as in a shell: "*resnet*"; all by default"""
    protocol: str | None = None
    """how the accuracies were measured, never mixed: one-crop, 10-crops, 12-crops, 144-crops, one-crop-subset (without
    the blacklisted images), publisher (torchvision's weights); by default the one that most of these networks have"""

    def run(self) -> None:
        self.save(draw_accuracy(matching(self.patterns), self.protocol))


@dataclass
class Timeline(Output):
    """Draw the top-5 errors on ImageNet over the years, of one network and of several together."""

    patterns: Positional[tuple[str, ...]] = ()
    """of names, as in a shell: "*resnet*"; all by default"""

    def run(self) -> None:
        self.save(draw_timeline(matching(self.patterns)))


@dataclass
class Stages(Output):
    """Draw how parameters, multiply-adds and activations spread over the stages."""

    names: Positional[tuple[str, ...]] = WELL_KNOWN
    """as `backbones list` prints them"""

    def run(self) -> None:
        self.save(draw_stages(self.names))


@dataclass
class Scaling(Output):
    """Draw how cost grows with width, resolution, depth, groups or batch."""

    names: Positional[tuple[str, ...]] = ()
    """as `backbones list` prints them; some well-known ones by default"""
    width: tuple[float, ...] = ()
    """values of the family's own setting, such as MobileNet's alpha"""
    resolution: tuple[int, ...] = ()
    """sides of the image"""
    depth: tuple[float, ...] = ()
    """values of the family's own setting"""
    groups: tuple[int, ...] = ()
    """groups of ShuffleNet, cardinality of ResNeXt"""
    batch: tuple[int, ...] = ()
    """images at once"""

    def run(self) -> None:
        keys = ("width", "resolution", "depth", "groups", "batch")
        asked = {key: values for key in keys if (values := getattr(self, key))}
        if bool(asked) != bool(self.names):
            raise ValueError("give both networks and values, such as: mobilenet_v1 --width 0.25 0.5 1; or neither")
        self.save(draw_scaling(dict.fromkeys(self.names, asked) if asked else SWEEPS))


@dataclass
class Diagram(Output):
    """Draw a network's parts and what they repeat; or one part layer by layer, with its branches and skips."""

    network: Positional[str] = ""
    """as `backbones list` prints it; or torchvision:NAME, timm:NAME, FILE.py:FUNCTION that returns a module"""
    stage: str | None = None
    """a part by its dotted path, such as stages.1 or stages.1.0; all of the network, layer by layer, with "" """

    def run(self) -> None:
        if not self.network:
            raise ValueError("give a network, such as: backbones plot diagram resnet50")
        self.save(draw_diagram(self.network, self.stage))


@dataclass
class Page:
    """Write all pictures on one page: a single HTML file that works offline, with tooltips, light and dark."""

    output: str = f"{FOLDER}/index.html"
    """the file"""

    def run(self) -> None:
        from backbones import plots

        plots.write(self.output, lambda part: part.write_text(plots.page(pictures()), encoding="utf-8"))
        print(self.output)


@dataclass
class All:
    """Draw every picture, light and dark, and the page."""

    output: str = FOLDER
    """folder"""

    def run(self) -> None:
        for picture in pictures():
            for dark in (False, True):
                Output(output=self.output, dark=dark).save(picture)
        Page(output=f"{self.output}/index.html").run()


What = (
    Annotated[Accuracy, subcommand("accuracy", prefix_name=False)]
    | Annotated[Timeline, subcommand("timeline", prefix_name=False)]
    | Annotated[Stages, subcommand("stages", prefix_name=False)]
    | Annotated[Scaling, subcommand("scaling", prefix_name=False)]
    | Annotated[Diagram, subcommand("diagram", prefix_name=False)]
    | Annotated[Page, subcommand("page", prefix_name=False)]
    | Annotated[All, subcommand("all", prefix_name=False)]
)


def plot(what: What) -> None:
    """Draw pictures of the networks, as SVG and PNG for slides, each also as data.

    Args:
        what: the picture
    """
    what.run()


def pictures() -> list["Picture"]:
    """Every picture, of the whole catalog or of well-known networks."""
    everything = matching(())
    return [
        draw_accuracy(everything, None),
        draw_accuracy(everything, "publisher"),
        draw_timeline(everything),
        draw_stages(WELL_KNOWN),
        draw_scaling(SWEEPS),
        *(draw_diagram(name, None) for name in WELL_KNOWN),
    ]


def matching(patterns: Iterable[str]) -> list[catalog.Entry]:
    """The networks of the catalog whose names match; all without patterns. LookupError names one that matches none."""
    entries = list(catalog.load().values())
    for pattern in patterns:
        if not any(fnmatchcase(entry["name"], pattern) for entry in entries):
            raise LookupError(f"no network matches {pattern!r}; `backbones list` shows all")
    return [e for e in entries if any(fnmatchcase(e["name"], p) for p in patterns or ("*",))]


def draw_accuracy(entries: Sequence[catalog.Entry], protocol: str | None) -> "Picture":
    """Under the protocol that most of these networks have, where none is given."""
    from backbones.plots import Picture, accuracy, accuracy_rows

    chosen = protocol or protocols.most(entries)
    rows = accuracy_rows(entries, chosen)
    return Picture(f"accuracy-{chosen}", f"Accuracy, {chosen}", rows, lambda theme: accuracy(rows, chosen, theme))


def draw_timeline(entries: Sequence[catalog.Entry]) -> "Picture":
    from backbones.plots import Picture, timeline, timeline_rows

    rows = timeline_rows(entries)
    return Picture("timeline", "Errors over the years", rows, lambda theme: timeline(rows, theme))


def draw_stages(names: Iterable[str]) -> "Picture":
    from backbones.plots import Picture, stage_rows, stages

    entries = [catalog.find(name) for name in names]
    rows = stage_rows({entry["name"]: entry["measured"]["stages"] for entry in entries})
    return Picture("stages", "Cost by stage", rows, lambda theme: stages(rows, theme))


def draw_scaling(sweeps: Mapping[str, Mapping[str, Sequence[Any]]]) -> "Picture":
    from backbones.plots import Picture, scaling, scaling_rows
    from backbones.scaling import scale

    rows = [
        row
        for name, settings in sweeps.items()
        for setting, values in settings.items()
        for row in scaling_rows(name, scale(name, **{setting: values}).points)
    ]
    return Picture("scaling", "How cost grows", rows, lambda theme: scaling(rows, theme))
