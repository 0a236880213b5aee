"""The search for the fastest way to compute a network here: build, compare answers, measure in turns, choose."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from backbones import machine
from backbones.infer import remembered
from backbones.infer.answers import Answers, Calibration
from backbones.infer.candidates import AS_IT_IS, PRECISIONS, build, obstacle, plan
from backbones.infer.optimized import Optimized
from backbones.infer.report import Report, Trial
from backbones.infer.source import Candidate, Run, Source
from backbones.timing import interleaved

log = logging.getLogger("backbones")

COMPARING = 15.0
"""seconds, about, for the module's own answers on calibration images: what is left of them by then is not looked at"""
WRONG = 0.3
"""of the range of the results: how far off is no question of precision any more, unless answers tell"""
ALIEN = 0.5
"""share of the calibration images with another first answer that is none either"""
EXACT = 1e-4
"""of the range of the results: how far float32 may be off by another order of additions"""
AGREEMENT = 0.995
"""share of the calibration images that must get the same first answer"""
UNSEEN = 0.03
"""of the range of the results: how far less than float32 may be off where no images tell that answers stay"""
HOPELESS = 2.0
"""times slower at first sight than the best so far: not measured again"""
MEASURING = 10.0
"""seconds for the measurement, at least, whatever building took"""
EXACTNESS = ("fp32", "bf16", "int8")
ALIKE = 1.02
"""times slower that counts as equally fast: then the more exact is taken"""


class Search:
    """One search: what is asked, and what came of it so far."""

    def __init__(
        self,
        source: Source,
        precision: str,
        goal: str,
        engine: str,
        calibration: Calibration | None,
        tolerance: float | None,
        budget_s: float,
    ) -> None:
        self._source, self._precision, self._goal, self._engine = source, precision, goal, engine
        self._calibration = calibration
        self._agreement = AGREEMENT if tolerance is None else 1 - tolerance
        self.int8 = precision == "int8" or tolerance is not None or getattr(calibration, "labels", None) is not None
        self._images = None if calibration is None else calibration.images
        self._reference = Answers.of(source.module, source, self._images, COMPARING)
        if self._images is not None and self._reference.classes is not None:
            self._images = self._images[: len(self._reference.classes)]
        self._runs: dict[str, Run] = {AS_IT_IS.name: source.module}
        self._end = time.perf_counter() + budget_s

    def run(self) -> Optimized:
        """Try, measure, choose."""
        base = Trial(AS_IT_IS, error=0.0, build_seconds=0.0)
        base.ms = self._first_look(AS_IT_IS)
        trials, measured = [base], [base]
        for candidate in plan(self._source, self._precision, self._goal, self._engine):
            trial = Trial(candidate)
            trials.append(trial)
            done = [other.candidate for other in trials if other.ms is not None and other is not base]
            best = min((t.ms for t in measured if t.ms and self._allowed(t)), default=float("inf"))
            left = self._end - time.perf_counter()
            if candidate.precision == "int8" and not self.int8:
                trial.verdict = "not tried: int8 needs classes of the images, or a tolerance"
            elif not self._tried(trial, done, left):
                continue
            elif trial.ms and trial.ms > HOPELESS * best:
                trial.verdict = "too slow at first sight"
                self._runs.pop(candidate.name)
            else:
                measured.append(trial)
        self._measure(measured)
        return self._chosen(trials)

    def again(self, before: Report) -> Optimized | None:
        """What was found before, if it can be built and still gives the right answers."""
        trial = before.taken
        if trial.candidate == AS_IT_IS:
            return Optimized(self._source.module, self._source, before)
        fresh = Trial(trial.candidate)
        if not self._built(fresh):
            log.info("%s was the fastest before; now %s", fresh.candidate.name, fresh.verdict)
            return None
        trial.error, trial.agreement = fresh.error, fresh.agreement
        trial.accuracy_change, trial.build_seconds = fresh.accuracy_change, fresh.build_seconds
        before.calibrated, before.notes = self._compared, list(self._notes(trial))
        return Optimized(self._runs[trial.candidate.name], self._source, before)

    @property
    def _compared(self) -> int:
        """On how many images first answers are compared."""
        return 0 if self._reference.classes is None else len(self._reference.classes)

    def _tried(self, trial: Trial, done: list[Candidate], left: float) -> bool:
        """Whether it could be built and passed, with a first time."""
        try:
            trial.verdict = obstacle(trial.candidate, self._source, done, left)
        except Exception as error:
            trial.verdict = _failed(error)
        if trial.verdict or not self._built(trial):
            return False
        try:
            trial.ms = self._first_look(trial.candidate)
        except Exception as error:
            trial.verdict = _failed(error)
            self._runs.pop(trial.candidate.name)
            return False
        return True

    def _built(self, trial: Trial) -> bool:
        """Build it and compare its answers. Any engine may fail on any network: that is told, and the others go on."""
        start = time.perf_counter()
        try:
            run = build(self._source, trial.candidate)
            answers = Answers.of(run, self._source, self._images)
        except Exception as error:
            trial.verdict = _failed(error)
            return False
        finally:
            trial.build_seconds = time.perf_counter() - start
            gc.collect()
        trial.error = self._reference.error(answers)
        trial.agreement = self._reference.agreement(answers)
        labels = None if self._calibration is None else self._calibration.labels
        mine, theirs = self._reference.accuracy(labels), answers.accuracy(labels)
        trial.accuracy_change = None if mine is None or theirs is None else theirs - mine
        trial.verdict = self._objection(trial)
        if trial.verdict:
            return False
        self._runs[trial.candidate.name] = run
        return True

    def _objection(self, trial: Trial) -> str:
        if trial.candidate.precision == "fp32" and not (trial.error or 0.0) <= EXACT:
            return f"off by {trial.error:.0e} of the range, more than {EXACT:.0e}"
        if trial.error == float("inf"):
            return "NaN or infinite results"
        if trial.agreement is None and not (trial.error or 0.0) <= WRONG:
            return f"off by {trial.error:.0%} of the range: more than rounding explains"
        if trial.agreement is not None and trial.agreement < ALIEN:
            return f"same answer on {trial.agreement:.1%} of the images only: more than rounding explains"
        less = self._precision == "auto" and trial.candidate.precision != "fp32"
        if less and trial.agreement is None and (trial.error or 0.0) > UNSEEN:
            return f"off by {trial.error:.1%} of the range, and no calibration images show that answers stay the same"
        if less and trial.agreement is not None and trial.agreement < self._agreement:
            return f"same answer on {trial.agreement:.1%} of the images only"
        return ""

    def _allowed(self, trial: Trial) -> bool:
        """The module as it is, is measured in any case, and taken where float32 was asked of torch."""
        return trial.candidate != AS_IT_IS or (
            "fp32" in PRECISIONS[self._precision] and self._engine in ("auto", "torch")
        )

    def _measure(self, trials: list[Trial]) -> None:
        """All in turns, as long as there is time; those of which it took a first look have at least one round."""
        calls = {trial.candidate.name: self._calls(trial.candidate) for trial in trials}
        until = max(self._end, time.perf_counter() + MEASURING)
        with torch.no_grad():
            times = interleaved({name: call for name, (call, _) in calls.items()}, until=until)
        for trial in trials:
            took, (_, batches) = times[trial.candidate.name], calls[trial.candidate.name]
            trial.ms, trial.ms_low, trial.ms_high = (1000 * s / batches for s in (took.median, took.low, took.high))
            trial.disturbed, trial.believed = took.disturbed, took.believed

    def _first_look(self, candidate: Candidate) -> float:
        """Milliseconds of the better of two warm batches."""
        call, batches = self._calls(candidate)
        times = []
        with torch.no_grad():
            call()
            for _ in range(2):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
        return 1000 * min(times) / batches

    def _calls(self, candidate: Candidate) -> tuple[Callable[[], object], int]:
        """What is timed, and how many batches that is: one, or for streams, two for each of as many callers."""
        run, tensors = self._runs[candidate.name], self._source.example
        if candidate.streams > 1 and candidate.parts == 1:
            pool, batches = ThreadPoolExecutor(candidate.streams), 2 * candidate.streams
            return lambda: list(pool.map(lambda _: run(*tensors), range(batches))), batches
        if tensors[0].device.type == "cuda":
            return lambda: _finished(run(*tensors)), 1
        return lambda: run(*tensors), 1

    def _chosen(self, trials: list[Trial]) -> Optimized:
        """The fastest, or the most exact of those that are as fast."""
        able = [trial for trial in trials if trial.ms_low is not None and self._allowed(trial)]
        if not able:
            tried = "; ".join(f"{t.candidate.name}: {t.verdict}" for t in trials[1:])
            raise ValueError(f"no way to compute this in {self._precision} here. {tried}")
        best = min(trial.ms or 0.0 for trial in able)
        alike = [trial for trial in able if (trial.ms or 0.0) <= ALIKE * best]
        taken = min(alike, key=lambda t: (EXACTNESS.index(t.candidate.precision), t.ms))
        for trial in trials:
            if trial is taken:
                trial.verdict = "taken"
            elif trial is trials[0] and trial not in able:
                trial.verdict = "for comparison"
            elif not trial.verdict:
                trial.verdict = "slower" if trial not in alike else "as fast"
        report = Report(
            trials,
            taken.candidate.name,
            self._source.batch,
            self._source.threads,
            self._goal,
            machine.this(str(self._source.example[0].device)).cpu,
            remembered.versions(),
            self._compared,
            list(self._notes(taken)),
        )
        return Optimized(self._runs[report.chosen], self._source, report)

    def _notes(self, taken: Trial) -> Iterator[str]:
        if not taken.believed:
            yield "other processes computed throughout: the times are not to be believed"
        if taken.candidate.precision != "fp32":
            yield f"off by up to {taken.error:.1%} of the range of the module's results"
            if taken.agreement is None:
                yield f"answers in {taken.candidate.precision} were not compared with float32's: no calibration images"
        if taken.agreement is not None:
            yield f"same first answer as the module on {taken.agreement:.2%} of {self._compared} calibration images"
        if taken.accuracy_change is not None:
            yield f"accuracy on them: {taken.accuracy_change:+.2f} points"


def _finished(results: object) -> object:
    """What was asked of a GPU is done."""
    torch.cuda.synchronize()
    return results


def _failed(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"failed: {type(error).__name__}: {first[:160]}"
