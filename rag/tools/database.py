"""`query_database`: a model reads the operator's databases, and can do nothing else with them.

Two defences, each of which alone keeps the data as it is: a query is checked part by part
(rag/tools/sql.py), and the connection is read-only. A role of the operator's with few rights is a
third: the first alone stands between a PostgreSQL superuser's rights and the server's files.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr

from rag.errors import ConfigError, ToolError
from rag.specs import DatabaseSpec
from rag.tools.registry import Tool, tool
from rag.tools.sql import Dialect, Name, checked, normal

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

_LOG = logging.getLogger("rag")
_DIALECTS: dict[str, Dialect] = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_TITLES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "mysql": "MySQL"}
_SCHEMA_CHARS = 8000  # of a description, for one database
_SCHEMA_SECONDS = 600.0  # until it is read again
_SCHEMA_RETRY = 30.0  # after it could not be read
_CELL_CHARS = 500
_ERROR_CHARS = 500
_CONNECT_SECONDS = 5

# SQLite's own limits: a value cannot eat the memory, and nothing can be attached.
_SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 500_000,  # instr of two such texts takes a second, unstoppable
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_SQLITE_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_SQLITE_FUNCTIONS_REFUSED = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_SQLITE_STEPS = 500  # of its machine between two looks at the clock


@dataclass(frozen=True, slots=True)
class Schema:
    """What a model may read. `home` is the schema of tables named without one."""

    tables: dict[Name, str]  # each as it is described
    views: frozenset[str]
    home: str


class Database:
    """One database, read-only. Raises ConfigError if its URL is not to be had or not usable."""

    def __init__(
        self,
        spec: DatabaseSpec,
        secret: Callable[[str], SecretStr | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._clock = clock
        self._lock = threading.Lock()
        self._read: Schema | None = None
        self._read_again = 0.0
        url = secret(spec.url_env)
        if url is None:
            raise ConfigError(
                f"The database {spec.name} has no URL.", f"Set {spec.url_env} in the environment."
            )
        self.dialect, self._engine = _open(spec, url.get_secret_value())

    def describe(self) -> str:
        """Its tables, for a model; never raises."""
        head = f"Database {self.spec.name!r} ({_TITLES[self.dialect]}). {self.spec.description}"
        try:
            lines = list(self.schema().tables.values())
        except ToolError as error:
            return f"{head.strip()}\n{error}"
        return "\n".join([head.strip(), *_within(lines, _SCHEMA_CHARS)])

    def schema(self) -> Schema:
        """Kept for ten minutes. Raises ToolError if the database cannot be reached."""
        with self._lock:
            if self._clock() >= self._read_again:
                self._read = self._reflected()
                wait = _SCHEMA_RETRY if self._read is None else _SCHEMA_SECONDS
                self._read_again = self._clock() + wait
            if self._read is None:
                raise ToolError(f"The database {self.spec.name} cannot be reached now.")
            return self._read

    def query(self, sql: str) -> str:
        """The rows as a table of text, cut at the limits of the spec. Raises ToolError."""
        schema = self.schema()
        limit = self.spec.max_rows + 1  # one more tells whether there are more
        query = checked(
            sql, dialect=self.dialect, tables=schema.tables, home=schema.home, max_rows=limit
        )
        try:
            return self.read(query.sql)
        except ToolError as error:
            tables = [schema.tables[name] for name in sorted(query.tables)]
            raise ToolError("\n".join([str(error), *_within(tables, _SCHEMA_CHARS)])) from None

    def read(self, sql: str) -> str:
        """Runs a statement as it is: only the connection protects the database."""
        from sqlalchemy.exc import DBAPIError

        with self._connected() as connection:
            self._protect(connection)
            try:
                result = connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
                if not result.returns_rows:
                    raise ToolError("The statement returns no rows.")
                return _table(tuple(result.keys()), result, self.spec)
            except DBAPIError as error:
                raise self._spoken(error.orig) from None

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Never committed. A driver's words on a failure may hold the URL: they stay here."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            _LOG.warning(
                "The database %s cannot be reached (%s).",
                self.spec.name,
                type(getattr(error, "orig", error)).__name__,
            )
            raise ToolError(f"The database {self.spec.name} cannot be reached now.") from None
        with connection:
            yield connection

    def _protect(self, connection: Connection) -> None:
        milliseconds = max(1, int(self.spec.max_seconds * 1000))
        if self.dialect == "sqlite":
            self._protect_sqlite(connection)
        elif self.dialect == "postgres":
            connection.execution_options(postgresql_readonly=True)
            # The checker reads strings by the standard; an old setting would read them otherwise.
            connection.exec_driver_sql("SET standard_conforming_strings = on")
            connection.exec_driver_sql("SET default_transaction_read_only = on")
            connection.exec_driver_sql(f"SET statement_timeout = {milliseconds}")
        else:
            connection.exec_driver_sql("SET SESSION sql_mode = 'STRICT_TRANS_TABLES'")
            if self._engine.dialect.is_mariadb:  # type: ignore[attr-defined]
                connection.exec_driver_sql(f"SET max_statement_time = {milliseconds / 1000}")
            else:
                connection.exec_driver_sql(f"SET SESSION max_execution_time = {milliseconds}")
            connection.exec_driver_sql("START TRANSACTION READ ONLY")

    def _protect_sqlite(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        until = self._clock() + self.spec.max_seconds
        schema = self.schema()

        def allow(action: int, first: str | None, second: str | None, *where: str | None) -> int:
            base, view = where
            if action == sqlite3.SQLITE_READ:
                name = (base or "main", normal(first or "", "sqlite"))
                counts = second == "" and not name[1].startswith("sqlite_")  # rows, also of a CTE
                if counts or name in schema.tables or (view or "").lower() in schema.views:
                    return sqlite3.SQLITE_OK
            elif action in _SQLITE_READS and second not in _SQLITE_FUNCTIONS_REFUSED:
                return sqlite3.SQLITE_OK
            return sqlite3.SQLITE_DENY

        driver.set_authorizer(allow)
        driver.set_progress_handler(lambda: self._clock() > until, _SQLITE_STEPS)

    def _spoken(self, error: Any) -> ToolError:
        """A driver's error as a text that helps a model to write a better query."""
        state = getattr(error, "sqlstate", None)
        text = " ".join(str(error).split())[:_ERROR_CHARS]
        if state == "57014" or text == "interrupted" or "(3024," in text or "(1969," in text:
            return ToolError(
                f"The query was stopped after {self.spec.max_seconds:g} s: read fewer rows."
            )
        if state == "25006" or "readonly" in text or "(1792," in text:
            return ToolError("The database is read-only.")
        if text == "not authorized" or "prohibited" in text:
            return ToolError("This is not allowed: only the tables described can be read.")
        return ToolError(f"The database {self.spec.name} says: {text}")

    def _reflected(self) -> Schema | None:
        from sqlalchemy import inspect
        from sqlalchemy.engine.reflection import ObjectKind
        from sqlalchemy.exc import SQLAlchemyError

        wanted: dict[str | None, list[str]] = {}
        for each in self.spec.tables:
            schema, _, name = each.rpartition(".")
            wanted.setdefault(schema or None, []).append(name)
        tables: dict[Name, str] = {}
        views: set[str] = set()
        try:
            with self._connected() as connection:
                inspector = inspect(connection)
                home = inspector.default_schema_name or ""
                for where in wanted or {None: []}:
                    names, kind = wanted.get(where), ObjectKind.ANY
                    columns = inspector.get_multi_columns(where, names, kind)
                    foreign = inspector.get_multi_foreign_keys(where, names, kind)
                    views.update(view.lower() for view in inspector.get_view_names(where))
                    for key in sorted(columns, key=str):
                        own = key[0] or home, normal(key[1], self.dialect)
                        tables[own] = self._line(key, columns[key], foreign.get(key))
        except ToolError:
            return None
        except SQLAlchemyError as error:
            _LOG.warning(
                "The tables of %s cannot be read (%s).", self.spec.name, type(error).__name__
            )
            return None
        return Schema(tables, frozenset(views & {name for _, name in tables}), home)

    def _line(self, key: tuple[str | None, str], columns: Any, foreign: Any) -> str:
        """`orders(id INTEGER, customer_id INTEGER -> customers.id)`"""
        quote = self._engine.dialect.identifier_preparer.quote
        to = {
            own: f" -> {each['referred_table']}.{theirs}"
            for each in foreign or []
            for own, theirs in zip(
                each["constrained_columns"], each["referred_columns"], strict=False
            )
        }
        parts = [
            f"{quote(column['name'])} {self._type(column['type'])}".rstrip()
            + to.get(column["name"], "")
            for column in columns
        ]
        return f"{'.'.join(quote(part) for part in key if part)}({', '.join(parts)})"

    def _type(self, kind: Any) -> str:
        from sqlalchemy.exc import CompileError

        try:
            return str(kind.compile(dialect=self._engine.dialect))
        except CompileError:  # a type SQLAlchemy does not know
            return ""


def _open(spec: DatabaseSpec, written: str) -> tuple[Dialect, Engine]:
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    hint = f"{spec.url_env} takes an SQLAlchemy URL: sqlite:///shop.db, postgresql+psycopg://..."
    try:
        url = make_url(written)
        dialect = _DIALECTS.get(url.get_backend_name())
        if dialect is None:
            raise ConfigError(
                f"The database {spec.name} is neither SQLite nor PostgreSQL nor MySQL.", hint
            )
        options: dict[str, Any] = {"poolclass": NullPool, "hide_parameters": True}
        if dialect == "sqlite":
            options["creator"] = _sqlite(spec, url)
            url = make_url("sqlite://")
        else:
            options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
        if url.get_driver_name() == "psycopg":
            # A prepared statement is one statement: the server itself refuses a second.
            options["connect_args"]["prepare_threshold"] = 0
        engine = create_engine(url, **options)
    except (SQLAlchemyError, ValueError):
        raise ConfigError(f"The URL of the database {spec.name} is not usable.", hint) from None
    except ImportError as error:
        raise ConfigError(
            f"The database {spec.name} needs the driver {error.name}.",
            "Install it: pip install 'rag-server[postgres]' for PostgreSQL.",
        ) from None
    if engine.dialect.is_async:
        raise ConfigError(f"The database {spec.name} has an asynchronous driver.", hint)
    return dialect, engine


def _sqlite(spec: DatabaseSpec, url: URL) -> Callable[[], sqlite3.Connection]:
    path = (url.database or "").removeprefix("file:")
    if not path or path.startswith(":memory:"):
        raise ConfigError(
            f"The database {spec.name} names no file.", f"{spec.url_env}=sqlite:///shop.db"
        )
    read_only = f"{Path(path).absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(read_only, uri=True, check_same_thread=False)
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        for limit, value in _SQLITE_LIMITS.items():
            connection.setlimit(limit, value)
        connection.execute("PRAGMA query_only = ON")
        return connection

    return connect


# --- the result as text ------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], spec: DatabaseSpec) -> str:
    """Tab-separated, the columns' names first; the last line counts the rows."""
    lines = ["\t".join(_cell(name) for name in columns)]
    size = len(lines[0].encode())
    for row in rows:
        line = "\t".join(_cell(value) for value in row)
        size += len(line.encode()) + 1
        if size > spec.max_bytes:
            return _counted(lines, f", cut at {spec.max_bytes} bytes: there are more")
        if len(lines) > spec.max_rows:
            return _counted(lines, f", cut at {spec.max_rows}: there are more")
        lines.append(line)
    return _counted(lines, "")


def _counted(lines: list[str], notice: str) -> str:
    count = len(lines) - 1
    return "\n".join([*lines, f"({count} row{'s' * (count != 1)}{notice})"])


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    if len(text) > _CELL_CHARS:
        text = f"{text[:_CELL_CHARS]}… ({len(text)} characters)"
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _within(lines: Sequence[str], limit: int) -> list[str]:
    kept: list[str] = []
    for place, line in enumerate(lines):
        if sum(map(len, kept)) + len(line) > limit:
            names = ", ".join(each.partition("(")[0] for each in lines[place:])
            return [*kept, f"Also: {names[:limit]}"]
        kept.append(line)
    return kept


# --- the tool ----------------------------------------------------------------------------------


def query_database(
    specs: Sequence[DatabaseSpec], secret: Callable[[str], SecretStr | None]
) -> Tool:
    """The tool over all these databases, one at least; its name is `query_database`.

    Nothing is connected yet: the schemas are read when the tool is described. Raises ConfigError.
    """
    if not specs:
        raise ConfigError("No database is configured.", "Add [[databases]] to rag.toml.")
    databases = {spec.name: Database(spec, secret) for spec in specs}
    names = tuple(databases)

    def read(sql: str, database: str = names[0]) -> str:
        """Reads a database with one SQL SELECT, and returns the rows as tab-separated text."""
        return databases[database].query(sql)

    def describe() -> str:
        return "\n\n".join(each.describe() for each in databases.values())

    read.__annotations__ = {
        "sql": Annotated[str, Field(description="one SELECT in the dialect of the database")],
        "database": Annotated[Literal[names], Field(description="which database")],
        "return": str,
    }
    if len(names) > 1:
        read.__defaults__ = None
    return tool(name="query_database", details=describe)(read)
