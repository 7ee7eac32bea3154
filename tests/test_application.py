"""One database for several parts: made when first written, by one of many, and plain in trouble."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rag.application import ApplicationDatabase, Part
from rag.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    import sqlalchemy


def notes(metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
    import sqlalchemy as sa

    return sa.Table(
        "notes",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )


def remarks(metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
    """On notes that there are."""
    import sqlalchemy as sa

    note = notes(metadata)
    return sa.Table("remarks", metadata, sa.Column("note", sa.ForeignKey(note.c.id)))


Notes = Part[Any]
Open = Callable[..., ApplicationDatabase]


def write(part: Notes, text: str) -> None:
    with part.writing() as connection:
        connection.execute(part.tables.insert().values(text=text))


def read(part: Notes) -> list[str]:
    with part.reading() as connection:
        return [row.text for row in connection.execute(part.tables.select())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / "application.db"


@pytest.fixture
def opened() -> Iterator[Callable[..., ApplicationDatabase]]:
    databases: list[ApplicationDatabase] = []

    def open_at(url: str, **options: float) -> ApplicationDatabase:
        databases.append(ApplicationDatabase(url, **options))
        return databases[-1]

    yield open_at
    for database in databases:
        database.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.slow, pytest.mark.postgres]),
    ]
)
def url(request: pytest.FixtureRequest, path: Path) -> str:
    """Of a database in which nothing was ever written."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    server: str = request.getfixturevalue("postgres_url")
    drop_tables(server)
    return server


@pytest.fixture
def connect(opened: Open, url: str) -> Open:
    """Opens one and the same database, each time as another process would."""
    return lambda: opened(url)


def drop_tables(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS remarks, notes"))
    engine.dispose()


# --- nothing before its time ------------------------------------------------------------------


@pytest.mark.slow
def test_opening_costs_nothing(path: Path) -> None:
    code = f"""
import sys
from rag.application import ApplicationDatabase
from rag.ledger import Ledger
from rag.reviews import Reviews
from rag.sessions import Sessions
database = ApplicationDatabase("sqlite:///{path}")
Sessions(database), Reviews(database), Ledger(database).close()
database.close()
assert not {{"sqlalchemy", "filelock"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not path.parent.exists()


def test_reading_what_was_never_written_finds_nothing_and_makes_nothing(
    connect: Open, path: Path
) -> None:
    assert read(connect().part(notes)) == []
    assert not path.parent.exists()


def test_who_read_before_the_first_writing_sees_it_afterwards(connect: Open) -> None:
    reader = connect().part(notes)
    assert read(reader) == []
    write(connect().part(notes), "a")
    assert read(reader) == ["a"]


def test_a_part_that_is_new_reads_its_tables_in_a_database_of_others(connect: Open) -> None:
    write(connect().part(notes), "a")
    others = connect().part(remarks)
    with others.reading() as connection:
        assert list(connection.execute(others.tables.select())) == []


@pytest.mark.parametrize("url", ["mysql://rag:secret@host/db", "secret", "sqlite://"])
def test_only_databases_that_can_keep_the_promise_are_taken(opened: Open, url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(opened(url).part(notes))
    assert "secret" not in str(refused.value)


# --- transactions -----------------------------------------------------------------------------


def test_parts_share_what_is_written(connect: Open) -> None:
    database = connect()
    write(database.part(notes), "a")
    assert read(database.part(notes)) == read(connect().part(notes)) == ["a"]


def test_an_error_undoes_the_writing(connect: Open) -> None:
    part = connect().part(notes)
    write(part, "a")

    def interrupted() -> None:
        with part.writing() as connection:
            connection.execute(part.tables.insert().values(text="b"))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    write(part, "c")
    assert read(part) == ["a", "c"]


def test_references_are_held_to(connect: Open) -> None:
    part = connect().part(remarks)
    with pytest.raises(StoreError), part.writing() as connection:
        connection.execute(part.tables.insert().values(note=1))


def test_who_comes_after_the_closing_gets_a_new_connection(connect: Open) -> None:
    database = connect()
    part = database.part(notes)
    write(part, "a")
    database.close()
    write(part, "b")
    assert read(part) == ["a", "b"]


# --- many at once -----------------------------------------------------------------------------


def test_many_may_be_the_first(connect: Open) -> None:
    parts = [connect().part(notes) for _ in range(8)]
    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(write, parts, "abcdefgh"))
    assert sorted(read(parts[0])) == list("abcdefgh")


def write_and_read(part: Notes, text: str) -> None:
    write(part, text)
    assert text in read(part)


def test_threads_that_share_a_database_lose_nothing(connect: Open) -> None:
    part = connect().part(notes)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write_and_read, [part] * 40, map(str, range(40))))
    assert sorted(map(int, read(part))) == list(range(40))


def first_of_a_process(url: str) -> None:
    database = ApplicationDatabase(url)
    write(database.part(notes), "a")
    database.close()


@pytest.mark.slow
def test_processes_that_begin_at_once_make_one_database(connect: Open, url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawn) as processes:
        list(processes.map(first_of_a_process, [url] * 8))
    assert read(connect().part(notes)) == ["a"] * 8


# --- SQLite -----------------------------------------------------------------------------------


def test_the_file_and_its_folder_are_made_with_a_write_ahead_log(opened: Open, path: Path) -> None:
    write(opened(f"sqlite:///{path}").part(notes), "a")
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_readers_do_not_wait_for_a_writer_and_writers_not_for_ever(
    opened: Open, path: Path
) -> None:
    part = opened(f"sqlite:///{path}", busy_seconds=0.01).part(notes)
    write(part, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert read(part) == ["a"]
        with pytest.raises(BusyError, match="Others block the application database"):
            write(part, "b")
        other.execute("COMMIT")
    write(part, "c")
    assert read(part) == ["a", "c"]


def test_where_the_tables_are_there_nobody_locks_to_make_them(opened: Open, path: Path) -> None:
    write(opened(f"sqlite:///{path}").part(notes), "a")
    lock = path.with_name(f"{path.name}.lock")
    lock.unlink(missing_ok=True)
    assert read(opened(f"sqlite:///{path}").part(notes)) == ["a"]
    assert not lock.exists()


def test_what_cannot_be_a_database_is_said_with_a_next_step(opened: Open, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    part = opened(f"sqlite:///{path}").part(notes)
    for use in (lambda: read(part), lambda: write(part, "a")):
        with pytest.raises(StoreError, match="file is not a database") as broken:
            use()
        assert "rights" in broken.value.hint


def test_a_folder_that_cannot_be_made_is_said(opened: Open, path: Path) -> None:
    path.parent.touch()
    part = opened(f"sqlite:///{path}").part(notes)
    assert read(part) == []
    with pytest.raises(StoreError, match="File exists"):
        write(part, "a")


# --- PostgreSQL -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.postgres
def test_nobody_waits_for_ever_for_a_lock_of_postgresql(opened: Open, postgres_url: str) -> None:
    import sqlalchemy as sa

    drop_tables(postgres_url)
    part = opened(postgres_url, busy_seconds=0.05).part(notes)
    write(part, "a")
    engine = sa.create_engine(postgres_url)
    with engine.begin() as other:
        other.execute(sa.text("LOCK TABLE notes"))
        with pytest.raises(BusyError):
            write(part, "b")
    engine.dispose()
    write(part, "c")
    assert read(part) == ["a", "c"]


@pytest.mark.slow
@pytest.mark.postgres
def test_a_server_that_is_away_is_said_without_its_password(opened: Open) -> None:
    part = opened("postgresql://rag:secret@127.0.0.1:1/db").part(notes)
    with pytest.raises(StoreError) as broken:
        read(part)
    assert "secret" not in str(broken.value)
    assert "address" in broken.value.hint


@pytest.mark.slow
@pytest.mark.postgres
def test_connections_that_the_server_ended_are_replaced(opened: Open, postgres_url: str) -> None:
    import sqlalchemy as sa

    drop_tables(postgres_url)
    part = opened(postgres_url).part(notes)
    write(part, "a")
    engine = sa.create_engine(postgres_url)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with engine.begin() as other:
        other.execute(sa.text(others))
    engine.dispose()
    assert read(part) == ["a"]


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("rest", "why"),
    [("{port}/absent", "no such database or user"), ("1/postgres", "nothing listens")],
)
def test_a_postgresql_that_cannot_be_used_says_why_and_shows_no_address(
    opened: Open, postgres_url: str, rest: str, why: str
) -> None:
    server, _, place = postgres_url.rpartition(":")
    url = f"{server}:{rest.format(port=place.partition('/')[0])}"
    with pytest.raises(StoreError, match=why) as raised, opened(url).part(notes).reading():
        pass
    assert "127.0.0.1" not in str(raised.value)
