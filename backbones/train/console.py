"""The course of a run, shown while it goes on and kept in metrics.csv."""

import csv
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backbones.weights.file import in_place

Row = dict[str, float]
REFRESH = 0.2
"""seconds between two changes of the live line"""


class Told:
    """Epoch, loss, accuracy, images per second and time left: one live line, or a line now and then in a log file.

    Args:
        console: where it is shown
        first: whether this is the process that writes
        file: one row per epoch; written by the first process
        epochs: of the whole run
        processes: that share each batch
    """

    def __init__(self, console: Console, file: Path, epochs: int, processes: int, first: bool) -> None:
        self.console, self.file, self.epochs, self.processes, self.first = console, file, epochs, processes, first
        self.rows: list[Row] = []
        self._marks = {round(epochs * k / 10) for k in range(1, 11)} | {1}
        self._live = console.is_terminal and not console.quiet
        self._bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not self._live,
        )

    def start(self, epoch: int) -> None:
        """The run begins, or goes on, in this epoch, counted from 0."""
        self._task = self._bar.add_task("", total=self.epochs, completed=epoch, told="")
        self._bar.start()

    def epoch_starts(self) -> None:
        """Or goes on."""
        self._start, self._shown, self._images = time.perf_counter(), 0.0, 0

    def step_ends(self, epoch: float, loss: float, images: int) -> None:
        """A step on so many images of this process; `epoch` has the share of it that is done."""
        self._images += images
        if self._live and time.perf_counter() - self._shown > REFRESH:
            self._shown = time.perf_counter()
            self._bar.update(self._task, completed=round(epoch, 2), told=f"loss {loss:.3f}  {self._speed()}")

    def epoch_ends(self, row: Row) -> None:
        """What came of the epoch; the first process writes it down."""
        seconds = time.perf_counter() - self._start
        self.rows.append({**row, "seconds": round(seconds, 3)})
        if not self.first:
            return
        with in_place(self.file) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        epoch, parts = int(row["epoch"]), [f"loss {row['train_loss']:.3f}"]
        for key, name in (("train_top1", "train top-1"), ("val_top1", "val top-1")):
            if key in row:
                parts.append(f"{name} {row[key]:.1f} %")
        told = "  ".join([*parts, self._speed()])
        self._bar.update(self._task, completed=epoch, told=told)
        if not self._live and epoch in self._marks:
            self.console.print(f"epoch {epoch}/{self.epochs}  {told}")

    def stop(self) -> None:
        """The run is over, or was stopped."""
        self._bar.stop()

    def _speed(self) -> str:
        return f"{self._images * self.processes / max(time.perf_counter() - self._start, 1e-9):,.0f} images/s"
