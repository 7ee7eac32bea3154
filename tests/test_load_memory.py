"""What is freed goes back to the system, now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag.load.memory import Passing, give_back

HOLES = """
import threading
from pathlib import Path
from rag.load.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = []

def work():
    blocks = [bytearray(50_000) for _ in range(4_000)]
    kept.append(blocks[-1])  # after 200 MB of others

for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
before = resident()
give_back()
print(before - resident())
"""


def test_memory_is_given_back_after_every_hundred_megabytes() -> None:
    times: list[int] = []
    passing = Passing(lambda: times.append(1))
    for _ in range(9):
        passing.passed(30_000_000)
    assert len(times) == 2


def test_a_single_large_document_is_enough() -> None:
    times: list[int] = []
    Passing(lambda: times.append(1)).passed(500_000_000)
    assert len(times) == 1


def test_giving_back_does_no_harm() -> None:
    data = bytearray(b"kept" * 1_000_000)
    give_back()
    assert data == b"kept" * 1_000_000


@pytest.mark.slow
@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="only glibc keeps it")
def test_holes_between_what_is_in_use_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "4000000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 100 * 2**20
