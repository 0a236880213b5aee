"""Selection by budget: against brute force, and a machine that we make up."""

import json
import random
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import pytest

from backbones import catalog, model_info, protocols, units
from backbones.build import build_on_meta
from backbones.choose import timed
from backbones.choose.latency import Failure, Latency, Setting
from backbones.choose.prediction import Prediction
from backbones.choose.selecting import select
from backbones.choose.selection import Candidate, Figure, front
from backbones.cost import measure_cost

IMAGENET = [e for e in catalog.load().values() if e["num_classes"] == 1000]


def test_equal_twins_are_both_on_the_front() -> None:
    def candidate(network: str, top1: float, madds: float) -> Candidate:
        madds_, params, memory = Figure(madds, "analytic"), Figure(1, "analytic"), Figure(1, "analytic")
        return Candidate(network, 224, 2015, params, madds_, memory, Figure(top1, "paper"))

    found = [candidate("c", 80, 2), candidate("a", 70, 1), candidate("b", 70, 1), candidate("worse", 70, 2)]
    assert front(found, "madds") == ("a", "b", "c")


def top1(entry: catalog.Entry, protocol: str = "one-crop") -> float | None:
    own = [a for a in protocols.accuracies(entry, protocol) if a["input_size"] == entry["input_size"][1]]
    papers = [a["top1"] for a in own if a["tag"] == "paper"]
    return max(papers or [a["top1"] for a in own], default=None)


@pytest.mark.parametrize("seed", range(20))
def test_the_most_accurate_within_a_budget(seed: int) -> None:
    """Against a plain loop over the catalog."""
    draw = random.Random(seed)
    limits = {
        "params": 10 ** draw.uniform(6.3, 8),
        "madds": 10 ** draw.uniform(8, 10.3),
        "cpu_memory": 10 ** draw.uniform(7.5, 9),
    }
    year = draw.choice([None, 2015, 2017])
    fit_ = {
        e["name"]: top1(e)
        for e in IMAGENET
        if all(e["measured"][what] <= most for what, most in limits.items())
        and top1(e) is not None
        and e["paper"]["year"] >= (year or 0)
    }
    asked = {"max_params": limits["params"], "max_madds": limits["madds"], "max_memory": limits["cpu_memory"]}
    if not fit_:
        with pytest.raises(LookupError, match=r"no network fits; the nearest: \w+"):
            select(**asked, min_year=year)
        return
    found = select(**asked, min_year=year)
    assert {c.network: c.top1.value for c in found.feasible} == fit_
    assert found.recommended.top1.value == max(fit_.values())
    points = {(c.top1.value, c.madds.value) for c in found.feasible}

    def beaten(c: Candidate) -> bool:
        here = (c.top1.value, c.madds.value)
        return any(top1 >= here[0] and madds <= here[1] for top1, madds in points - {here})

    front = {(c.top1.value, c.madds.value) for c in found.feasible if not beaten(c)}
    assert {(c.top1.value, c.madds.value) for c in found.feasible if c.network in found.front} == front
    for miss in found.misses:
        entry = catalog.load()[miss.candidate.network]
        over = [w for w, most in limits.items() if entry["measured"][w] > most]
        assert [miss.limit.what] == [w.removeprefix("cpu_") for w in over]
        assert top1(entry) > found.recommended.top1.value or entry["measured"]["madds"] < found.recommended.madds.value


def test_what_a_smaller_image_would_cost() -> None:
    found = select(max_madds=600e6)
    remedies = {miss.candidate.network: miss.remedy for miss in found.misses if miss.remedy}
    assert remedies
    for name, remedy in remedies.items():
        side = int(remedy.removeprefix("would fit at ").split()[0])
        variant = model_info(name)
        at = [measure_cost(build_on_meta(variant, {}), (3, s, s)).madds for s in (side, side + timed.STEP)]
        assert at[0] <= 600e6 < at[1], name


def test_promises_weights_and_protocols() -> None:
    found = select(weights_available=True, can="output_stride")
    assert found.protocol.startswith("publisher: ")
    for c in found.feasible:
        entry = catalog.load()[c.network]
        assert entry["weights"]
        assert "output_stride" not in entry["cannot"]
        assert c.top1.tag == "publisher"
    assert {c.top1.tag for c in select(protocol="10-crops").feasible} == {"paper"}
    assert select(sort="params").recommended.network == min(IMAGENET, key=lambda e: e["measured"]["params"])["name"]
    for wrong, message in (
        ({"sort": "size"}, "give one of"),
        ({"can": "fly"}, "the promises are"),
        ({"max_params": -1.0}, "more than zero"),
        ({"batch_size": 0}, "1 or more"),
        ({"threads": 0}, "1 or more"),
        ({"protocol": "two crops"}, "give one of"),
    ):
        with pytest.raises(ValueError, match=message):
            select(**wrong)
    with pytest.raises(LookupError, match="ask for less"):
        select(min_year=2050)


class FakeMachine:
    """Runs every network at a known speed; predictions are off by up to 12 %."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: Iterable[str] = ()) -> None:
        self.known: dict[Setting, Latency] = {}
        self.costs: dict[Setting, Any] = {}
        self.flags: tuple[str, ...] = ()
        self.repeated = list[str]()
        self.broken, self.asked = set(broken), list[str]()
        monkeypatch.setattr(timed, "Cache", lambda *_: self)
        monkeypatch.setattr(timed, "measure", self.measure)
        monkeypatch.setattr(timed, "predict", self.predict)

    @staticmethod
    def truth(name: str) -> float:
        return sqrt(catalog.load()[name]["measured"]["madds"]) / 1000 * (1 + random.Random(name).random())

    def read(self, settings: Iterable[Setting], runs: int) -> dict[Setting, Latency]:
        return {s: self.known[s] for s in settings if s in self.known}

    def counted(self, what: str, settings: Iterable[Setting]) -> dict[Setting, Any]:
        return {s: self.costs[s] for s in settings if s in self.costs}

    def keep_counted(self, what: str, counts: dict[Setting, Any]) -> None:
        self.costs.update(counts)

    def measure(self, names: Iterable[str], fresh: bool, runs: int, **how: Any) -> dict[str, Latency | Failure]:
        results: dict[str, Latency | Failure] = {}
        for name in names:
            (self.repeated if fresh else self.asked).append(name)
            setting = Setting(name, catalog.load()[name]["input_size"][1], **how)
            results[name] = Failure(setting, "out of memory") if name in self.broken else self.latency(setting, fresh)
        return results

    def latency(self, setting: Setting, fresh: bool) -> Latency:
        ms, at = self.truth(setting.network), "2020-01-01T00:00:00Z"
        values: dict[str, Any] = dict.fromkeys(Latency.__dataclass_fields__)
        flags = () if fresh else self.flags
        told = {"setting": setting, "p50": ms, "p90": 1.02 * ms, "flags": flags, "measured_at": at}
        self.known[setting] = Latency(**{**values, **told})
        return self.known[setting]

    def predict(self, settings: Iterable[Setting], *_: Any) -> dict[Setting, Prediction]:
        off = {s: 1 + 0.12 * random.Random(s.network + "x").uniform(-1, 1) for s in settings}
        return {
            s: Prediction(s, e * self.truth(s.network), *(e * self.truth(s.network) * k for k in (0.85, 1.15)), 1.0)
            for s, e in off.items()
        }


@pytest.mark.parametrize("seed", range(12))
def test_what_is_recommended_has_been_measured(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    most, max_params = draw.uniform(15, 120), draw.choice([None, 10 ** draw.uniform(6.5, 8)])
    machine = FakeMachine(monkeypatch)
    found = select(max_latency=most, max_params=max_params, threads=1)
    assert found.recommended.latency.tag == "measured here"
    can = [e for e in IMAGENET if top1(e) and e["measured"]["params"] <= (max_params or 1e12)]
    assert 1.05 * 1.02 * machine.truth(found.recommended.network) <= most
    for entry in can:
        if top1(entry) > found.recommended.top1.value:  # too slow, as was measured, or else as was predicted
            name = entry["name"]
            (guess,) = machine.predict([Setting(name, 224, 1, 1, "cpu")]).values()
            assert (1.05 * 1.02 * machine.truth(name) if name in machine.asked else guess.ms) > most
    assert len(machine.asked) < len(can) / 2
    before = len(machine.asked)
    assert select(max_latency=most, max_params=max_params, threads=1).recommended == found.recommended
    assert len(machine.asked) == before  # the second question asks the machine nothing


def test_the_fastest_and_the_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = sorted((e["name"] for e in IMAGENET), key=FakeMachine.truth)
    machine = FakeMachine(monkeypatch, broken=fastest[:1])
    found = select(sort="latency", threads=1)
    assert found.recommended.network == fastest[1]
    assert found.failed == (f"{fastest[0]}: out of memory",)
    machine = FakeMachine(monkeypatch)
    machine.flags = ("the machine drifted by +9%",)
    found = select(max_latency=50, threads=1)
    assert found.recommended.network in machine.repeated  # what is doubtful is measured again
    assert "beware" not in found.reason
    with pytest.raises(LookupError, match="no network fits; the nearest"):
        select(max_latency=0.001, threads=1)


def test_units() -> None:
    assert [units.parse(t) for t in ("5M", "600 M", "1.5G", "3e6", "12k")] == [5e6, 6e8, 1.5e9, 3e6, 12e3]
    assert [units.parse(t, "B") for t in ("200MB", "16GiB", "1K", "7")] == [2e8, 16 * 2**30, 1e3, 7]
    assert [units.parse(t, "s") for t in ("20ms", "0.5s", "7us")] == [0.02, 0.5, pytest.approx(7e-6)]
    for text, unit in (("5X", ""), ("", "B"), ("20", "s"), ("0", ""), ("-3", ""), ("1.2.3M", "")):
        with pytest.raises(ValueError, match=r"no amount|nothing|could not"):
            units.parse(text, unit)


def test_the_command(run: Callable[..., tuple[int, str, str]]) -> None:
    def cli(*args: str) -> str:
        code, out, err = run(*args)
        assert code == 0, err
        return out

    found = json.loads(cli("select", "--max-params", "5M", "--max-madds", "600M", "--format", "json"))
    assert found["recommended"]["params"] <= 5e6
    assert {c["top1_from"] for c in found["feasible"]} <= {"paper", "publisher"}
    table = cli("select", "--max-params", "5M", "--max-madds", "600M")
    assert f"take {found['recommended']['network']}: the most accurate of" in table
