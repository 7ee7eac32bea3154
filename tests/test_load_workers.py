"""Files are read in processes of their own: what a file does there, it does to itself alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rag.config import Settings
from rag.engine import Engine
from rag.errors import (
    DamagedFileError,
    EmptyFileError,
    FileTooLargeError,
    LoadError,
    UnsupportedTypeError,
)
from rag.files import Upload, plan_files
from rag.ingest import Plan, Report
from rag.load import load
from rag.load.limits import Limits
from rag.load.messages import MessageError, content_message, content_of, error_of, packed, unpacked
from rag.load.pool import ReaderPool
from rag.types import Content, Element
from tests.hostile_reader import whole

pytestmark = pytest.mark.slow

MAX = 10**8
MEMORY = 512 * 2**20
Pools = Callable[..., ReaderPool]
Folder = Callable[..., Path]
HOSTILE = "tests.hostile_reader:load"


@pytest.fixture
def pools() -> Iterator[Pools]:
    made: list[ReaderPool] = []

    def make(limits: Limits = Limits(), *, workers: int = 1, reader: str = HOSTILE) -> ReaderPool:
        made.append(ReaderPool(limits, workers=workers, reader=reader))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def said(pool: ReaderPool, what: str) -> str:
    return pool.load(Path("a.txt"), what.encode(), max_bytes=MAX).text


# --- what went beyond a limit ---------------------------------------------------------------------

SHORT = Limits(seconds=0.3)


def test_who_waited_for_a_file_in_vain_does_not_wait_again(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"0.3 seconds"), pool_that(tmp_path) as pool:
        said(pool, "hang")
    with pool_that(tmp_path) as pool:
        with pytest.raises(LoadError, match=r"0.3 seconds") as again:
            said(pool, "hang")
        assert "tried anew after a day" in again.value.hint
        assert pool.pids == []  # nobody read it
        assert said(pool, "fine") == "read"
    with pool_that(tmp_path, Limits(seconds=0.4)) as pool:  # a raised limit is tried
        with pytest.raises(LoadError, match=r"0.4 seconds") as anew:
            said(pool, "hang")
        assert "tried anew" not in anew.value.hint


@contextmanager
def pool_that(remembers: Path, limits: Limits = SHORT) -> Iterator[ReaderPool]:
    pool = ReaderPool(limits, workers=1, reader=HOSTILE, beyond=remembers / "unreadable")
    try:
        yield pool
    finally:
        pool.close()


# --- what a file does to its reader ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error", "told"),
    [("exit 0", DamagedFileError, "exit status 0"), ("exit 7", DamagedFileError, "exit status 7"),
     ("segfault", DamagedFileError, "SIGSEGV"), ("killed", DamagedFileError, "SIGKILL"),
     ("raise", DamagedFileError, "brought down"), ("leave", DamagedFileError, "brought down"),
     ("nonsense", DamagedFileError, "brought down"), ("outside", DamagedFileError, "no sense"),
     ("missing", LoadError, "No module named 'x'"), ("too large", FileTooLargeError, "Too large"),
     ("much", FileTooLargeError, "more than 50 MB of text")],
)  # fmt: skip
def test_a_reader_that_fails_is_one_error_and_the_next_file_is_read(
    pools: Pools, what: str, error: type[LoadError], told: str
) -> None:
    pool = pools()
    assert said(pool, "fine") == "read"
    with pytest.raises(LoadError, match=told) as caught:
        said(pool, what)
    assert type(caught.value) is error
    assert caught.value.hint
    assert said(pool, "fine") == "read"


@pytest.mark.parametrize("what", ["hang", "hang in C"])
def test_a_reader_that_hangs_is_ended_when_its_time_is_over(pools: Pools, what: str) -> None:
    pool = pools(Limits(seconds=0.5))
    assert said(pool, "fine") == "read"
    with pytest.raises(LoadError, match=r"a\.txt could not be read within 0\.5 seconds"):
        said(pool, what)
    assert pool.pids == []
    assert said(pool, "fine") == "read"


def test_a_reader_that_hoards_memory_is_stopped_at_its_limit(pools: Pools) -> None:
    pool = pools(Limits(memory=MEMORY))
    with pytest.raises(FileTooLargeError, match="more than 512 MB of memory"):
        said(pool, "hoard")
    assert said(pool, "fine") == "read"


def test_what_a_library_prints_goes_nowhere(
    pools: Pools, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said(pools(), "print") == "read"
    assert capfd.readouterr() == ("", "")


def test_a_reader_knows_no_secrets(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("RAG_REDIS_URL", "redis://:secret@host")
    names = said(pools(), "environment").split()
    assert "PATH" in names
    assert not [n for n in names if n.startswith(("OPENAI", "RAG"))]


def test_a_reader_that_cannot_start_is_told_so(pools: Pools) -> None:
    with pytest.raises(LoadError, match="did not start"):
        said(pools(reader="rag.nowhere:load"), "fine")


# --- readers are kept, shared and ended -----------------------------------------------------------


def test_one_reader_serves_many_files(pools: Pools) -> None:
    pool = pools()
    assert pool.pids == []
    assert len({said(pool, "pid") for _ in range(20)}) == 1
    assert len(pool.pids) == 1


def test_what_needs_no_reading_starts_no_reader(pools: Pools) -> None:
    pool = pools()
    for name, data, error in (
        ("a.txt", b"", EmptyFileError),
        ("a.exe", b"x", UnsupportedTypeError),
        ("a.txt", b"x" * 11, FileTooLargeError),
    ):
        with pytest.raises(error):
            pool.load(Path(name), data, max_bytes=10)
    assert pool.pids == []


def test_a_reader_that_went_to_rest_is_replaced_unseen(pools: Pools) -> None:
    pool = pools()
    said(pool, "fine")
    os.kill(pool.pids[0], signal.SIGTERM)
    (pid,) = pool.pids
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert said(pool, "fine") == "read"
    assert pool.pids != [pid]


def test_a_reader_that_has_grown_is_replaced(pools: Pools) -> None:
    pool = pools(Limits(memory=MEMORY))
    before = said(pool, "pid")
    assert said(pool, "leak") == "read"
    assert said(pool, "pid") != before


def test_without_readers_files_are_read_here(pools: Pools) -> None:
    pool = pools(Limits(text=5), workers=0)
    assert said(pool, "words") == "words"
    with pytest.raises(FileTooLargeError, match="MB of text"):
        said(pool, "more words")
    assert pool.pids == []


def test_several_threads_share_the_readers_there_may_be(pools: Pools) -> None:
    pool = pools(workers=2)
    pids: list[str] = []
    threads = [
        threading.Thread(target=lambda: pids.extend(said(pool, "pid") for _ in range(20)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 120
    assert 1 <= len(set(pids)) <= 2


def test_closing_ends_the_readers_and_the_file_being_read(pools: Pools) -> None:
    pool = pools(workers=2)
    caught: list[LoadError] = []

    def wait() -> None:
        try:
            said(pool, "hang")
        except LoadError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not pool.pids:
        thread.join(0.01)
    pool.close()
    thread.join()
    assert "reading was stopped" in caught[0].message
    assert pool.pids == []
    assert said(pool, "fine") == "read"


@pytest.mark.parametrize("what", ["pid", "hang", "hang in C"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_reader_outlives_the_process_that_asked(what: str, how: int, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        f"import os, signal, sys, threading; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path; from rag.load.pool import ReaderPool\n"
        f"pool = ReaderPool(reader={HOSTILE!r})\n"
        "pool.load(Path('a.txt'), b'pid', max_bytes=99)\n"
        f"print(pool.pids[0], flush=True)\n"
        f"pool.load(Path('a.txt'), {what.encode()!r}, max_bytes=99)\n"
        "signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as asker:
        assert asker.stdout is not None
        reader = os.pidfd_open(int(asker.stdout.readline()))
        asker.send_signal(how)
        asker.wait(10)
    try:
        assert ended(reader), "it is still there"
    finally:
        os.close(reader)
    assert not told.exists()


def ended(pidfd: int) -> bool:
    import select

    return bool(select.select([pidfd], [], [], 10)[0])


# --- what comes back ------------------------------------------------------------------------------


def test_a_reader_says_what_is_read_in_this_process(pools: Pools) -> None:
    pool = pools(reader="rag.load:load")
    for name, data in (
        ("a.md", "# 休假\n\n十五天。😀\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".encode()),
        ("a.csv", "城市,价\n北京,\"1\n2\"\n".encode("gb18030")),
        ("\udcff\ud800.txt", b"NUL \0 and \xed\xa0\x80 half a surrogate"),
    ):  # fmt: skip
        assert pool.load(Path(name), data, max_bytes=MAX) == load(Path(name), data, max_bytes=MAX)


def test_a_file_is_read_from_its_path(pools: Pools, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\nb")
    assert pools(reader="rag.load:load").load(tmp_path / "a.md", max_bytes=9).title == "A"
    with pytest.raises(LoadError, match="cannot be opened"):
        pools().load(tmp_path / "gone.md", max_bytes=9)


def test_content_survives_the_way() -> None:
    content = Content(
        type="xlsx",
        title="表",
        text="a | b\n1 | 2",
        elements=(
            Element("header", 0, 5, ("一", "二"), 3, "Sheet1"),
            Element("row", 6, 11, (), None, None),
        ),
    )
    assert content_of(unpacked(packed(content_message(content)))) == content


@pytest.mark.parametrize(
    "change",
    [{"text": 1}, {"title": None}, {"text": {"a": 1}}, {"elements": []}, {"elements": {}},
     {"type": ["md"]}],
)  # fmt: skip
def test_content_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        content_of(content_message(whole("words")) | change)


@pytest.mark.parametrize(
    ("column", "value"),
    [("start", [-1]), ("start", [3.5]), ("start", [True]), ("start", [9]), ("end", [99]),
     ("end", []), ("kind", {"values": ["evil"], "at": [0]}),
     ("kind", {"values": ["text"], "at": [-1]}), ("kind", {"values": ["text"], "at": [1]}),
     ("heading", {"values": ["a"], "at": [0]}), ("heading", {"values": [[1]], "at": [0]}),
     ("page", {"values": ["1"], "at": [0]}), ("sheet", {"values": [1], "at": [0]})],
)  # fmt: skip
def test_elements_that_are_not_sound_are_refused(column: str, value: object) -> None:
    message = content_message(whole("words"))
    message["elements"] = message["elements"] | {column: value}
    with pytest.raises(MessageError):
        content_of(message)


def test_elements_that_overlap_are_refused() -> None:
    one = Element("text", 0, 3)
    twice = Content(type="txt", title="", text="words", elements=(one, one))
    with pytest.raises(MessageError):
        content_of(content_message(twice))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 10**6, b'{"a":' * 10**5])
def test_a_message_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        unpacked(data)


@pytest.mark.parametrize(
    "message", [None, {}, {"code": "config", "message": "x", "hint": ""}, {"code": []},
                {"code": "load", "message": 1, "hint": ""}],
)  # fmt: skip
def test_an_error_that_is_not_of_ours_is_refused(message: object) -> None:
    with pytest.raises(MessageError):
        error_of(message)


def test_the_limits_are_those_of_the_settings() -> None:
    assert Limits.of(Settings()) == Limits()
    other = Settings(
        max_text_mb=0.5, max_unpacked_mb=3, max_unpacked_ratio=7, max_parse_seconds=1.5,
        max_parse_mb=300, ocr=False,
    )  # fmt: skip
    assert Limits.of(other) == Limits(
        text=500_000, unpacked=3_000_000, unpacked_ratio=7, seconds=1.5, memory=300 * 2**20,
        ocr=False,
    )  # fmt: skip


# --- the ingest goes on ---------------------------------------------------------------------------


def ingested(engine: Engine, root: Path, pool: ReaderPool) -> Report:
    plan = plan_files(
        [root],
        indexes=engine.settings.indexes,
        max_bytes=MAX,
        known=None,
        loads=pool.load,
    )
    return engine.ingest_plan(plan)


def test_an_ingest_goes_on_past_every_file_that_ends_its_reader(
    engine: Engine, folder: Folder, pools: Pools
) -> None:
    pool = pools(Limits(seconds=0.5, memory=MEMORY))
    bad = ("segfault", "hang", "hoard", "exit 0", "nonsense")
    root = folder(**{f"{place}-{what}.txt": what for place, what in enumerate(bad)},
                  **{f"{place}-good.txt": f"good {place}" for place in range(6)})  # fmt: skip
    report = ingested(engine, root, pool)
    assert report.added == [f"{place}-good.txt" for place in range(6)]
    assert [f.name for f in report.failed] == [f"{p}-{what}.txt" for p, what in enumerate(bad)]
    assert all(f.name in f.reason and f.hint for f in report.failed)
    assert report.exit_code == 3


def test_unchanged_files_start_no_reader(engine: Engine, folder: Folder, pools: Pools) -> None:
    root = folder(**{"a.txt": "a", "b.txt": "b"})
    ingested(engine, root, pools())
    again = pools()
    assert ingested(engine, root, again).unchanged == ["a.txt", "b.txt"]
    assert again.pids == []


def test_an_upload_is_read_the_same_way(engine: Engine, pools: Pools) -> None:
    uploads = [
        Upload(name, len(data), lambda data=data: data, MAX, pools().load)  # type: ignore[misc]
        for name, data in (("bad.txt", b"segfault"), ("good.txt", b"x"))
    ]
    report = engine.ingest_plan(Plan(uploads))
    assert (report.added, [f.code for f in report.failed]) == (["good.txt"], ["damaged_file"])
