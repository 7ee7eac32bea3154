"""`rag ingest` killed at any moment, with the processes that read files for it."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.verify import verify
from tests.desks import RAG, Desk, done, ready_cache, set_up

pytestmark = pytest.mark.slow

KILLS = 5  # in each test
DOCUMENTS = 12
PATIENCE = 30.0  # seconds for a process to notice that the one it works for is gone
Told = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """State "a" is ingested; the files say "b" meanwhile."""
    root = tmp_path_factory.mktemp("killed") / "desk"
    desk = set_up(root, ready_cache(tmp_path_factory.mktemp("cache")))
    (root / "documents").mkdir()
    write(root / "documents", "a")
    done(desk.rag("ingest", "documents"))
    write(root / "documents", "b")
    return desk


def write(folder: Path, state: str) -> None:
    """A third differs, in a format each."""
    for number in range(DOCUMENTS):
        version = state if number % 3 == 0 else "always"
        text = f"Rule {number} {version}: a hotel costs at most {number}00.\n"
        (folder / f"{number}.html").write_text(f"<h1>Rule {number}</h1><p>{text}</p>", "utf-8")
    (folder / f"only-{state}.md").write_text(f"# Only\n\nThis is there in {state}.\n", "utf-8")
    for other in folder.glob("only-*.md"):
        if other.name != f"only-{state}.md":
            other.unlink()


def shown(desk: Desk) -> Told:
    with closing(EmbeddedStore(desk.root / "indexes" / "default")) as store:
        store.refresh()
        return sorted(
            (info.name, info.content_hash, "".join(c.text for c in store.chunks(info.id)))
            for info in store.documents()
        )


def members(session: int) -> list[int]:
    """Processes that belong to the session, and are not just waiting to be buried."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def killed(desk: Desk, after: float) -> tuple[bool, int]:
    """Whether it was still at work, and how many processes it had then."""
    process = subprocess.Popen(
        [RAG, "ingest", "documents"],
        cwd=desk.root,
        env=desk.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(after)
        had = len(members(process.pid))
    finally:
        process.kill()
        at_work = process.wait() == -signal.SIGKILL
    assert within(PATIENCE, lambda: not members(process.pid)), "a process was left behind"
    return at_work, had


@dataclass(frozen=True)
class Clean:
    """What is shown before and after an ingest that nobody kills, and how long that takes."""

    before: Told
    after: Told
    seconds: float


@pytest.fixture(scope="module")
def clean(ingested: Desk, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    desk = copy_of(ingested, tmp_path_factory.mktemp("clean") / "desk")
    began = time.monotonic()
    done(desk.rag("ingest", "documents"))
    seconds = time.monotonic() - began
    found = Clean(shown(ingested), shown(desk), seconds)
    assert found.before != found.after
    return found


@pytest.mark.parametrize("seed", range(4))
def test_rag_ingest_killed_at_any_moment_leaves_no_process_and_a_whole_generation(
    ingested: Desk, clean: Clean, tmp_path: Path, seed: int
) -> None:
    generator, at_work, most = random.Random(seed), 0, 0
    while at_work < KILLS:
        desk = copy_of(ingested, tmp_path / f"desk-{len(list(tmp_path.iterdir()))}")
        for _ in range(generator.choice((1, 2, 3))):
            # Its first fifth goes by before it has opened the knowledge base.
            was, had = killed(desk, generator.uniform(0.2, 1) * clean.seconds)
            at_work, most = at_work + was, max(most, had)
            assert shown(desk) in (clean.before, clean.after)
    done(desk.rag("ingest", "documents"))
    assert shown(desk) == clean.after
    assert verify(desk.root / "indexes" / "default").ok
    assert most > 1  # it had readers, at least once


def copy_of(desk: Desk, root: Path) -> Desk:
    shutil.copytree(desk.root, root)
    return Desk(root, desk.env)
