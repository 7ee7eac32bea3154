"""Conversations are kept, in order, up to a limit, until they are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag.application import ApplicationDatabase
from rag.sessions import Sessions
from rag.types import Message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / "application.db"


@pytest.fixture
def database(path: Path) -> Iterator[ApplicationDatabase]:
    database = ApplicationDatabase(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def sessions(database: ApplicationDatabase) -> Sessions:
    return Sessions(database)


def test_turns_come_back_oldest_first(sessions: Sessions) -> None:
    sessions.add("s", "default", "问一", "答一")
    sessions.add("s", "default", "q2", "a2")
    assert sessions.history("s") == (
        Message("user", "问一"),
        Message("assistant", "答一"),
        Message("user", "q2"),
        Message("assistant", "a2"),
    )


def test_an_unknown_session_is_empty(sessions: Sessions) -> None:
    sessions.add("somebody", "default", "q", "a")
    assert sessions.history("nobody") == ()


def test_looking_for_a_session_before_the_first_makes_no_file(
    sessions: Sessions, path: Path
) -> None:
    assert sessions.history("nobody") == ()
    assert not path.parent.exists()


def test_sessions_do_not_mix(sessions: Sessions) -> None:
    sessions.add("one", "default", "q", "a")
    assert sessions.history("two") == ()


def test_the_latest_twenty_turns_are_kept_in_order(sessions: Sessions) -> None:
    for n in range(22):
        sessions.add("s", "default", f"q{n}", f"a{n}")
    history = sessions.history("s")
    assert [m.text for m in history if m.role == "user"] == [f"q{n}" for n in range(2, 22)]


def test_forgetting_removes_only_that_session(sessions: Sessions) -> None:
    sessions.add("one", "default", "q", "a")
    sessions.add("two", "default", "q", "a")
    assert sessions.forget("one")
    assert sessions.history("one") == ()
    assert sessions.history("two")
    assert not sessions.forget("one")


def test_turns_outlive_the_process_that_wrote_them(sessions: Sessions, path: Path) -> None:
    sessions.add("s", "default", "q", "a")
    again = ApplicationDatabase(f"sqlite:///{path}")
    assert len(Sessions(again).history("s")) == 2
    again.close()


def test_many_threads_write_without_losing_a_turn(sessions: Sessions) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: sessions.add(f"s{n % 4}", "default", f"q{n}", "a"), range(16)))
    assert sum(len(sessions.history(f"s{n}")) for n in range(4)) == 32
