"""What was tried to make a network fast, what each try gave, and what was taken and why."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from backbones.infer.source import Candidate


@dataclass
class Trial:
    """One candidate: how long it took to build and to run, how far off it is, and what became of it."""

    candidate: Candidate
    verdict: str = ""
    """why it was taken, or was not"""
    build_seconds: float | None = None
    ms: float | None = None
    """median milliseconds of one batch"""
    ms_low: float | None = None
    ms_high: float | None = None
    disturbed: int = 0
    """blocks of the measurement that were repeated because others computed"""
    believed: bool = True
    """whether at least one block was not disturbed"""
    error: float | None = None
    """largest difference from the module's own results, as a share of their range"""
    agreement: float | None = None
    """share of the calibration images with the same first answer"""
    accuracy_change: float | None = None
    """of the first answers on labelled calibration images, in points"""


@dataclass
class Report:
    """All trials of one network at one size of batch on this machine."""

    trials: list[Trial]
    chosen: str
    """name of the candidate that was taken"""
    batch: int
    threads: int
    goal: str
    machine: str
    versions: dict[str, str]
    calibrated: int = 0
    """images on which answers were compared"""
    notes: list[str] = field(default_factory=list)
    """what a reader should know before trusting the choice"""
    remembered: bool = False
    """whether the times are from an earlier search on this machine"""

    @property
    def taken(self) -> Trial:
        return next(trial for trial in self.trials if trial.candidate.name == self.chosen)

    @property
    def base(self) -> Trial:
        """The module as it was given."""
        return self.trials[0]

    @property
    def speedup(self) -> float | None:
        """Times faster than the module as it was given, both measured in the same rounds."""
        return self.base.ms / self.taken.ms if self.base.ms and self.taken.ms else None

    def rows(self) -> list[dict[str, Any]]:
        """A line for each trial, the fastest first, those that were not measured last."""
        return [_row(trial, self) for trial in sorted(self.trials, key=lambda t: t.ms or float("inf"))]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Report":
        told = json.loads(text)
        trials = [Trial(Candidate(**trial.pop("candidate")), **trial) for trial in told.pop("trials")]
        return cls(trials=trials, **told)

    def __str__(self) -> str:
        return "\n".join([_table(self.rows()), *self.notes])


def _row(trial: Trial, report: Report) -> dict[str, Any]:
    spread = f"{trial.ms_low:.2f}-{trial.ms_high:.2f}" if trial.ms_low and trial.ms_high else ""
    return {
        "candidate": trial.candidate.name,
        "ms": f"{trial.ms:.2f}" if trial.ms else "",
        "min-max": spread,
        "images/s": f"{1000 * report.batch / trial.ms:.1f}" if trial.ms else "",
        "times": f"x{report.base.ms / trial.ms:.2f}" if trial.ms and report.base.ms else "",
        "build s": f"{trial.build_seconds:.1f}" if trial.build_seconds is not None else "",
        "error": f"{trial.error:.0e}" if trial.error is not None else "",
        "agreement": f"{trial.agreement:.1%}" if trial.agreement is not None else "",
        "verdict": trial.verdict,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = [{key: key for key in widths}, *rows]
    return "\n".join("  ".join(line[key].ljust(width) for key, width in widths.items()).rstrip() for line in lines)
