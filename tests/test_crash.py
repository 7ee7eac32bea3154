"""Whatever an ingest is stopped by, readers see a whole generation and the next ingest ends where a
clean one would: nothing lost, nothing twice, nothing half."""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.stores.embedded.verify import verify
from tests.crash.recording import Step, record
from tests.crash.replay import after_kill, after_power_cut
from tests.crash.world import PUBLISHED, Shown, contents, ingest, problems_after

ROOT = Path(__file__).parent.parent
SIZE = 6
KILLS = 200
POWER_CUTS = 180
VECTORS_SIZE = 40
CUTS_EACH = 3
CHORE_KILLS = 6
CHANGES = ("create", "rename", "unlink", "mkdir", "rmdir", "write", "truncate")


class Clean:
    """A knowledge base of state "a", and what it shows before and after an ingest of "b"."""

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        self.place, self.size = folder / "a", size
        ingest(self.place, "a", size)
        after = folder / "b"
        shutil.copytree(self.place, after)
        ingest(after, "b", size)
        self.before: Shown = contents(self.place)
        self.after: Shown = contents(after)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    return Clean(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def steps(clean: Clean, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """All that an ingest of "b" does to the files. It works on a copy under the same name, which is
    put back as it was."""
    return recorded_steps(clean, tmp_path_factory.mktemp("trace"))


def recorded_steps(clean: Clean, trace: Path, *how: str) -> list[Step]:
    kept = trace / "kept"
    shutil.copytree(clean.place, kept)
    command = ["-m", "tests.crash.world", str(clean.place), "b", str(clean.size), *how]
    recorded = record(command, clean.place, trace / "trace", PUBLISHED, kept)
    shutil.rmtree(clean.place)
    shutil.copytree(kept, clean.place)
    return recorded


def test_the_two_states_differ_and_a_second_ingest_embeds_nothing(
    clean: Clean, tmp_path: Path
) -> None:
    assert clean.before != clean.after
    place = tmp_path / "base"
    shutil.copytree(clean.place, place)
    assert ingest(place, "b", SIZE)[1] > 0
    report, embedded = ingest(place, "b", SIZE)
    assert (embedded, report.added, report.changed, report.removed) == (0, [], [], [])
    assert contents(place) == clean.after


@pytest.mark.slow
def test_an_ingest_killed_at_any_moment_leaves_a_whole_generation_and_the_next_one_is_clean(
    tmp_path: Path,
) -> None:
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.crash.killer", tmp_path, str(KILLS), "1"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert found["wrong"] == []
    assert found["at_work"] >= KILLS
    assert found["looked"] > 0


# --- at each write --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
def test_the_record_of_an_ingest_is_what_it_did(
    clean: Clean, steps: list[Step], tmp_path: Path
) -> None:
    base = after_kill(clean.place, steps).lay_out(tmp_path / "cut")
    assert verify(base).ok
    assert contents(base) == clean.after
    assert {"knowledge.db", "knowledge.db-wal", "write.lock"} <= {s.path for s in steps}
    written = {Path(s.path).suffix for s in steps if s.kind == "write"}
    assert {".store", ".term", ".tmp"} <= written
    assert sum(s.kind == "mark" for s in steps) == 1


@pytest.mark.slow
@pytest.mark.crash
def test_a_process_killed_after_any_of_its_writes_leaves_a_whole_generation(
    clean: Clean, steps: list[Step], tmp_path: Path
) -> None:
    wrong = {}
    published = next(n for n, step in enumerate(steps) if step.kind == "mark")
    for cut, step in enumerate(steps):
        unread = step.path.endswith((".lock", "-shm")) or (
            ".next/" in step.path and step.kind != "rename"  # nobody looks there after a crash
        )
        if step.kind in CHANGES and not unread:
            base = after_kill(clean.place, steps[: cut + 1]).lay_out(tmp_path / "cut")
            before = [clean.after] if cut > published else [clean.before, clean.after]
            found = problems_after(base, SIZE, before, clean.after)
            if found:
                wrong[f"{cut} of {len(steps)}: {step.kind} {step.path}"] = found
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.crash
def test_a_power_cut_between_any_two_writes_leaves_a_whole_generation(
    clean: Clean, steps: list[Step], tmp_path: Path
) -> None:
    wrong = {}
    published = next(n for n, step in enumerate(steps) if step.kind == "mark")
    for seed in range(POWER_CUTS):
        generator = random.Random(seed)
        cut = generator.randint(1, len(steps))
        base = after_power_cut(clean.place, steps[:cut], generator).lay_out(tmp_path / "cut")
        before = [clean.after] if cut > published else [clean.before, clean.after]
        found = problems_after(base, SIZE, before, clean.after)
        if found:
            wrong[f"seed {seed}, {cut} of {len(steps)} (published at {published})"] = found
    assert wrong == {}


# --- the vectors' file --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("how", [[], ["ahead"]], ids=["after publishing", "before publishing"])
def test_a_power_cut_while_the_vector_index_is_written_leaves_a_whole_one_or_none(
    tmp_path: Path, how: list[str]
) -> None:
    clean = Clean(tmp_path, VECTORS_SIZE)
    steps = recorded_steps(clean, tmp_path, *how)
    published = next(n for n, step in enumerate(steps) if step.kind == "mark")
    mine = [n for n, step in enumerate(steps) if step.path.startswith("vectors.")]
    assert sum(steps[n].kind == "write" for n in mine) >= 3  # so that one in the middle can be lost
    assert (mine[0] < published) == bool(how)

    def wrong(recorded: list[Step], seeds: range) -> Iterator[str]:
        for seed, cut in itertools.product(seeds, range(mine[0], mine[-1] + 3)):
            if cut in mine or steps[cut].kind == "sync_folder":
                disk = after_power_cut(clean.place, recorded[: cut + 1], random.Random(seed))
                base = disk.lay_out(tmp_path / "cut")
                before = [clean.before, clean.after]
                found = problems_after(base, clean.size, before, clean.after)
                yield from (f"{cut} of {len(steps)}, seed {seed}: {what}" for what in found)

    assert list(wrong(steps, range(CUTS_EACH))) == []
    unsynced = [Step("other") if s.kind == "sync" and "vectors" in s.path else s for s in steps]
    # Were the file not synced before it is renamed, this would tell.
    assert next(wrong(unsynced, range(100)), "") != ""


# --- a full disk ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize(
    ("call", "moments"),
    [("pwrite64", (1, 2, *range(5, 180, 12))), ("write", (*range(1, 9), 10, 12, 15, 20))],
    ids=["database", "indexes"],
)
def test_a_disk_that_is_full_from_any_write_on_is_told_and_nothing_is_lost(
    clean: Clean, tmp_path: Path, call: str, moments: tuple[int, ...]
) -> None:
    """SQLite writes by one call of the system, tantivy and FAISS by another, in every thread."""
    ended = set()
    for first in moments:
        place = tmp_path / f"base-{first}"
        shutil.copytree(clean.place, place)
        process = subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", "trace=pwrite64,write"),
                f"--inject={call}:error=ENOSPC:when={first}+",
                *(sys.executable, "-m", "tests.crash.world", place, "b", str(SIZE)),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        ended.add(process.returncode)
        assert process.returncode in (0, 9), f"from write {first} on: {process.stderr[-2000:]}"
        if process.returncode:
            assert "store: " in process.stderr
            assert "free space" in process.stderr
        found = problems_after(place, SIZE, [clean.before, clean.after], clean.after)
        assert found == [], f"from write {first} on"
    assert 9 in ended


@pytest.mark.slow
@pytest.mark.parametrize("limit", [4_000, 20_000, 60_000, 100_000, 140_000])
def test_a_file_that_may_not_grow_is_told_in_words_and_nothing_is_lost(
    clean: Clean, tmp_path: Path, limit: int
) -> None:
    place = tmp_path / "base"
    shutil.copytree(clean.place, place)
    process = subprocess.run(
        [sys.executable, "-B", "-m", "tests.crash.world", str(place), "b", "60"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 9, process.stderr[-2000:]
    assert process.stderr.startswith("store: ")
    assert "free space" in process.stderr
    assert problems_after(place, SIZE, [clean.before, clean.after], clean.after) == []


# --- what keeps a knowledge base ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("chore", ["rollback", "gc", "reindex", "restore", "repair", "salvage"])
def test_a_chore_killed_at_any_moment_loses_nothing_and_can_be_done_again(
    tmp_path: Path, chore: str
) -> None:
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.crash.chores", tmp_path, chore, str(CHORE_KILLS), "1"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    assert found["wrong"] == []
    assert found["at_work"] >= CHORE_KILLS
