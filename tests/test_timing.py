"""Interleaved rounds, with an account of the system's that the test writes itself."""

from collections.abc import Iterable
from itertools import chain, repeat

import pytest

from backbones import machine, timing


def account(monkeypatch: pytest.MonkeyPatch, others: Iterable[float]) -> None:
    """Let other processes have used so many seconds in each block, whatever we do: it is asked before and after."""
    asked = chain.from_iterable((0.0, seconds) for seconds in others)
    monkeypatch.setattr(machine, "busy", lambda _: next(asked))
    monkeypatch.setattr(machine, "own", lambda: 0.0)


def test_disturbed_blocks_are_repeated_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two blocks of three are disturbed: five others count, and nothing of the two."""
    account(monkeypatch, chain([1.0, 1.0], repeat(0.0)))
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    times = timing.interleaved({"one": lambda: None}, rounds=5, block=1.0)["one"]
    assert (len(times.blocks), times.disturbed, times.believed) == (5, 2, True)


def test_where_all_are_disturbed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    account(monkeypatch, repeat(1.0))
    times = timing.interleaved({"one": lambda: None, "two": lambda: None}, rounds=2, block=0.0)
    assert all(not t.believed and t.disturbed == timing.MOST_ROUNDS for t in times.values())


def test_rounds_take_turns() -> None:
    """One block of each before the second of any."""
    seen: list[str] = []
    timing.interleaved({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=3, block=0.0)
    assert "".join(seen).startswith("abab")
    assert seen.count("a") >= 3


def test_no_round_begins_after_the_end() -> None:
    seen: list[int] = []
    timing.interleaved({"one": lambda: seen.append(1)}, rounds=9, block=0.0, until=0.0)
    assert len(seen) == 1
