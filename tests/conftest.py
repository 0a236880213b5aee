"""One thread per test process, and tests of one network on one process, which builds it once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes share two cores

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if name:
            item.add_marker(pytest.mark.xdist_group(name))
