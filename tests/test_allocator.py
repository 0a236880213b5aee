"""Freed memory is kept: seen in the page faults of a process of its own."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from backbones.allocator import keep_freed_memory
told = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(told, faults(), "torch" in sys.modules)
"""


def asked(**environment: str) -> tuple[bool, int]:
    """Whether it said so, and the faults of four times 64 MiB after the first four times."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", FAULTS]
    run = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    told, faults, torch = run.stdout.split()
    assert torch == "False"
    return told == "True", int(faults)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="not glibc")
def test_the_second_time_costs_no_page_faults() -> None:
    pages = 4 * 2**26 // os.sysconf("SC_PAGE_SIZE")
    told, faults = asked()
    assert told
    assert faults < pages // 100
    told, faults = asked(MALLOC_MMAP_THRESHOLD_="131072")
    assert not told
    assert faults > pages // 1000  # huge pages are one fault each: 512 small ones
