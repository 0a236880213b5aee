"""One thread per test process; tests of one network on one process, which builds it once; the sweeps are slow."""

import os

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"  # before torch: two processes, two cores
os.environ.setdefault("KERAS_BACKEND", "torch")

import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from networks import DEEP, KINDS, SMALLEST


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        if name:
            item.add_marker(pytest.mark.xdist_group(name))
        deep = name in DEEP and item.path.stem == "test_promises" and "counts" not in item.name
        stands_for_none = ("kind" in item.fixturenames and name not in KINDS) or (
            "family" in item.fixturenames and name not in SMALLEST
        )
        if deep or (name and stands_for_none):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command of ours: (exit code, what it printed, what it printed as an error)."""
    from backbones import cli

    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["backbones", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if find_spec("keras") is None:
        terminalreporter.write_line("KERAS IS NOT INSTALLED: its networks and files are not tested", yellow=True)
