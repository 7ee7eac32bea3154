"""What a model may read of a database, on real SQLite files and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from rag.errors import ConfigError, ToolError
from rag.specs import DatabaseSpec
from rag.tools.database import Database, query_database
from rag.tools.registry import described, run_tool
from rag.tools.sql import Dialect, checked, normal
from rag.types import ToolCall

TABLES = {("main", "orders"), ("main", "customers"), ("main", "totals")}
POSTGRES_TABLES = {("public", name) for _, name in TABLES}

SHOP = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, note BLOB);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers (id),
    total NUMERIC(10, 2), at DATE
);
CREATE TABLE secrets (word TEXT);
CREATE VIEW totals AS SELECT customer_id, sum(total) AS total FROM orders GROUP BY customer_id;
INSERT INTO customers VALUES (1, 'Ada', x'0001'), (2, '李雷	tab', NULL), (3, NULL, NULL);
INSERT INTO orders VALUES (1, 1, 19.5, '2024-01-02'), (2, 1, 0.5, '2024-02-03'),
    (3, 2, 100, '2024-02-04');
INSERT INTO secrets VALUES ('hunter2');
"""

HOSTILE = [
    # other statements, and more than one
    "DELETE FROM orders",
    "UPDATE orders SET total = 0",
    "INSERT INTO orders SELECT * FROM orders",
    "REPLACE INTO orders VALUES (1)",
    "MERGE INTO orders USING customers ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE orders",
    "DROP TABLE orders",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x (a int)",
    "ALTER TABLE orders ADD COLUMN x int",
    "GRANT ALL ON orders TO public",
    "VACUUM",
    "ANALYZE orders",
    "PRAGMA writable_schema = 1",
    "ATTACH DATABASE '/tmp/x.db' AS x",
    "COPY orders TO '/tmp/x'",
    "COPY orders FROM PROGRAM 'id'",
    "SET default_transaction_read_only = off",
    "BEGIN; DELETE FROM orders; COMMIT",
    "COMMIT",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "CALL something()",
    "DO $$ BEGIN PERFORM pg_sleep(9); END $$",
    "LISTEN x",
    "LOCK TABLE orders",
    "VALUES (1)",
    "SELECT 1; DELETE FROM orders",
    "SELECT 1; SELECT 2",
    "SELECT 1 /* ; */ ; DROP TABLE orders --",
    "",
    ";",
    "SELECT",
    "hello",
    # writing in a SELECT
    "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
    "WITH new AS (INSERT INTO orders VALUES (9) RETURNING id) SELECT id FROM new",
    "WITH a AS (SELECT 1) DELETE FROM orders",
    "SELECT * INTO copy FROM orders",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT * FROM orders FOR SHARE",
    "SELECT * FROM orders INTO OUTFILE '/tmp/x'",
    "SELECT nextval('orders_id_seq')",
    "SELECT setval('orders_id_seq', 1)",
    # tables that are not to be read
    "SELECT * FROM secrets",
    "SELECT * FROM orders, secrets",
    "SELECT (SELECT word FROM secrets)",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM secrets)",
    "SELECT 1 UNION SELECT word FROM secrets",
    "SELECT 'hunter2' IN secrets",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM main.sqlite_schema",
    "SELECT * FROM pragma_table_info('orders')",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM dbstat",
    "SELECT * FROM pg_catalog.pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM other.public.orders",
    "TABLE secrets",
    "WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets",
    "SELECT * FROM secrets, (WITH secrets AS (SELECT 1) SELECT * FROM secrets) AS x",
    "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a",
    'WITH "Secrets " AS (SELECT 1) SELECT * FROM secrets',
    # functions that wait, read files, run SQL or eat memory
    "SELECT pg_sleep(10)",
    "SELECT pg_catalog.pg_sleep(10)",
    'SELECT "pg_sleep"(10)',
    "SELECT * FROM pg_sleep(10)",
    "SELECT pg_sleep_for('10 s')",
    "SELECT sleep(10)",
    "SELECT benchmark(100000000, md5('a'))",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT * FROM pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT load_file('/etc/passwd')",
    "SELECT readfile('/etc/passwd')",
    "SELECT load_extension('/tmp/x.so')",
    "SELECT writefile('/tmp/x', 'y')",
    "SELECT * FROM dblink('host=x', 'SELECT 1') AS t (a int)",
    "SELECT query_to_xml('SELECT * FROM secrets', true, true, '')",
    "SELECT * FROM json_each('[1]')",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT current_setting('data_directory')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_terminate_backend(1)",
    "SELECT version()",
    "SELECT current_user",
    "SELECT @@version",
    "SELECT randomblob(1000000000)",
    "SELECT zeroblob(1000000000)",
    "SELECT repeat('x', 1000000000)",
    "SELECT lpad('x', 1000000000)",
    # tricks on the reader
    "SELECT 'secrets'::regclass",
    "SELECT CAST('x' AS secrets)",
    "SELECT 1 OPERATOR(pg_catalog.+) 1",
    "SELECT :x",
    "SELECT * FROM orders TABLESAMPLE SYSTEM (1)",
    "SELECT * FROM orders LIMIT ALL",
    "SELECT * FROM orders LIMIT -1",
    "SELECT * FROM orders LIMIT (SELECT 1000000)",
    "SELECT * FROM orders FETCH FIRST 1 ROWS WITH TIES",
    "SELECT 1\0; DELETE FROM orders",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT " + "NOT " * 2000 + "1",
    "SELECT '" + "x" * 10_000 + "'",
]

# To the other two these are strings, columns or aliases.
HOSTILE_TO_POSTGRES = [
    'SELECT EXTRACT("year FROM at), pg_sleep(10), (1" FROM at) FROM orders',
    "SELECT E'\\'; DELETE FROM orders; --'",
    "SELECT U&'\\0027'",
    "SELECT $1",
]

HARMLESS = [
    "SELECT * FROM orders",
    "select o.id, c.name from orders o left join customers c on c.id = o.customer_id order by 1",
    "SELECT count(*), sum(total), avg(total), min(at), max(at) FROM orders WHERE total > 1",
    "SELECT customer_id, count(DISTINCT id) FROM orders GROUP BY 1 HAVING count(*) > 1",
    "SELECT round(total, 1), abs(-total), coalesce(total, 0), nullif(total, 1) FROM orders",
    "SELECT CASE WHEN total > 10 THEN 'big' ELSE 'small' END AS size FROM orders ORDER BY id",
    "SELECT upper(name) || '!' FROM customers WHERE name LIKE '%a%' AND NOT name IS NULL",
    "SELECT id FROM orders WHERE id IN (1, 2) AND at BETWEEN '2024-01-01' AND '2024-12-31'",
    "SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers)",
    "SELECT id, row_number() OVER (PARTITION BY customer_id ORDER BY at DESC) FROM orders",
    "SELECT id, sum(total) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM orders",
    "WITH big AS (SELECT * FROM orders WHERE total > 1), n AS (SELECT count(*) AS n FROM big)"
    " SELECT n FROM n",
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5) SELECT n FROM c",
    "SELECT id FROM orders UNION ALL SELECT id FROM customers ORDER BY 1 LIMIT 3 OFFSET 1",
    "-- the answer\nSELECT 6 * 7 AS answer;",
    "SELECT cast(total AS INTEGER), total % 2, substr(name, 1, 2), length(name), replace(name, 'A',"
    " 'B'), trim(name) FROM orders JOIN customers USING (id)",
    "SELECT '订单; DROP TABLE orders' AS \"名称\", current_date IS NOT NULL",
    "SELECT count(*) FILTER (WHERE total > 1) FROM orders",
    "SELECT * FROM totals ORDER BY total",
]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "a shop #1 100%.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"BEGIN; {SHOP} COMMIT;")
    return path


@pytest.fixture
def open_shop(shop: Path) -> Callable[..., Database]:
    """The shop as a model sees it: `open_shop(max_rows=2)`."""

    def make(clock: Callable[[], float] = lambda: 0.0, **limits: object) -> Database:
        limits.setdefault("tables", ("orders", "customers", "totals"))
        spec = DatabaseSpec(name="shop", url_env="SHOP_URL", **limits)  # type: ignore[arg-type]
        return Database(spec, secret(f"sqlite:///{shop}"), clock=clock)

    return make


def secret(url: str) -> Callable[[str], SecretStr | None]:
    return {"SHOP_URL": SecretStr(url)}.get


def check(sql: str, dialect: Dialect = "sqlite", max_rows: int = 10) -> str:
    home = "main" if dialect == "sqlite" else "public"
    tables = {(home, name) for _, name in TABLES}
    return checked(sql, dialect=dialect, tables=tables, home=home, max_rows=max_rows).sql


def ticking(step: float) -> Callable[[], float]:
    """A clock that moves on each time it is looked at."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step
        return now

    return clock


def rows(result: str) -> list[str]:
    """Without the head: a column without a name of its own is named after how it is written."""
    return result.splitlines()[1:]


# --- the checker alone -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["sqlite", "postgres", "mysql"])
@pytest.mark.parametrize("sql", HOSTILE)
def test_the_checker_refuses(sql: str, dialect: Dialect) -> None:
    with pytest.raises(ToolError):
        check(sql, dialect)


@pytest.mark.parametrize("sql", HOSTILE_TO_POSTGRES)
def test_the_checker_refuses_what_only_postgres_understands(sql: str) -> None:
    with pytest.raises(ToolError):
        check(sql, "postgres")


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize("sql", HARMLESS)
def test_the_checker_lets_pass(sql: str, dialect: Dialect) -> None:
    assert check(sql, dialect)


def test_what_is_run_is_written_anew_without_comments_and_with_a_limit() -> None:
    assert check("select * from orders -- /*!50000 x */") == "SELECT * FROM orders LIMIT 10"


@pytest.mark.parametrize(
    ("sql", "limit"), [("LIMIT 3", "3"), ("LIMIT 99999999999999999999999", "10"), ("", "10")]
)
def test_a_limit_can_only_be_made_smaller(sql: str, limit: str) -> None:
    assert check(f"SELECT * FROM orders {sql}").endswith(f"LIMIT {limit}")


def test_parentheses_round_it_all_are_left_out() -> None:
    assert check("((SELECT 1))") == "SELECT 1 LIMIT 10"


def doubling(levels: int) -> list[str]:
    ctes = [f"a{n} AS (SELECT a || a AS a FROM a{n - 1})" for n in range(1, levels)]
    first = "SELECT name AS a FROM customers"
    nested = first
    for _ in range(levels):
        nested = f"SELECT a || a AS a FROM ({nested}) AS x"
    return [f"WITH a0 AS ({first}), {', '.join(ctes)} SELECT a || a FROM a{levels - 1}", nested]


def test_nested_queries_cannot_double_without_end() -> None:
    """SQLite copies expressions while it plans, where neither clock nor memory is watched."""
    for sql in doubling(20):
        with pytest.raises(ToolError, match="repeat columns too often"):
            check(sql)
    for sql in doubling(8):
        assert check(sql)
    wide = " UNION ALL ".join(["SELECT id + id FROM (SELECT id + id AS id FROM orders) AS x"] * 20)
    assert check(wide)


def test_a_part_that_sqlglot_writes_unquoted_cannot_smuggle_sql() -> None:
    with pytest.raises(ToolError, match="cannot stand here"):
        check('SELECT EXTRACT("x); DROP TABLE orders; --" FROM at) FROM orders', "postgres")


@pytest.mark.parametrize(
    ("dialect", "sql", "refused"),
    [
        ("postgres", "SELECT * FROM Orders", False),
        ("postgres", 'SELECT * FROM "Orders"', True),
        ("sqlite", 'SELECT * FROM "Orders"', False),
        ("mysql", "SELECT * FROM Orders", True),
        ("postgres", "SELECT * FROM public.orders", False),
        ("postgres", "SELECT * FROM private.orders", True),
        ("postgres", 'WITH "Secrets" AS (SELECT 1) SELECT * FROM secrets', True),
    ],
)
def test_names_are_compared_as_the_database_compares_them(
    dialect: Dialect, sql: str, refused: bool
) -> None:
    if refused:
        with pytest.raises(ToolError, match="There is no table"):
            check(sql, dialect)
    else:
        assert check(sql, dialect)


def test_only_ascii_letters_are_folded() -> None:
    assert normal("ÀBC订", "sqlite") == "Àbc订"


def test_a_refused_table_is_answered_with_the_tables_there_are() -> None:
    with pytest.raises(ToolError, match=r"Tables: customers, orders, totals\."):
        check("SELECT * FROM order_items")


# --- the connection alone ----------------------------------------------------------------------

WRITES = [
    "DELETE FROM orders",
    "UPDATE orders SET total = 0",
    "INSERT INTO orders VALUES (9, 1, 1, '2024-01-01')",
    "DROP TABLE orders",
    "CREATE TABLE x (a int)",
]
SQLITE_WRITES = [
    *WRITES,
    "CREATE TEMP TABLE x (a int)",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "ATTACH DATABASE ':memory:' AS x",
    "VACUUM INTO '/tmp/never.db'",
]


@pytest.mark.parametrize("sql", SQLITE_WRITES)
def test_the_sqlite_connection_alone_refuses_to_write(
    sql: str, open_shop: Callable[..., Database], shop: Path
) -> None:
    before = shop.read_bytes()
    with pytest.raises(ToolError):
        open_shop().read(sql)
    assert shop.read_bytes() == before


def test_the_file_itself_is_opened_read_only(
    open_shop: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with the authorizer and `query_only` gone."""
    database = open_shop()
    monkeypatch.setattr(Database, "_protect", lambda *_: None)
    with database._connected() as connection:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
        with pytest.raises(Exception, match="readonly database"):
            connection.exec_driver_sql("DELETE FROM orders")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM secrets",
        "SELECT 'hunter2' IN secrets",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM pragma_table_info('orders')",
        "SELECT load_extension('x')",
    ],
)
def test_the_sqlite_connection_alone_reads_only_the_tables_allowed(
    sql: str, open_shop: Callable[..., Database]
) -> None:
    with pytest.raises(ToolError):
        open_shop().read(sql)


def test_a_query_without_end_is_stopped(open_shop: Callable[..., Database]) -> None:
    bomb = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    with pytest.raises(ToolError, match="stopped after 5 s"):
        open_shop(clock=ticking(0.01)).query(bomb)


def test_a_value_cannot_eat_the_memory(open_shop: Callable[..., Database]) -> None:
    grown = "name"
    for _ in range(9):
        grown = f"replace({grown}, 'a', 'aaaaaaaaaa')"
    with pytest.raises(ToolError, match="too big"):
        open_shop().query(f"SELECT length({grown}) FROM customers")


# --- the two together --------------------------------------------------------------------------


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_checked_query_gives_what_the_query_itself_gives(
    sql: str, open_shop: Callable[..., Database]
) -> None:
    database = open_shop()
    assert rows(database.query(sql)) == rows(database.read(sql))


def test_rows_come_as_a_table_of_text(open_shop: Callable[..., Database]) -> None:
    assert open_shop().query("SELECT *, 0.1 + 0.2 AS sum FROM customers") == (
        "id\tname\tnote\tsum\n"
        "1\tAda\t<2 bytes>\t0.3\n"
        "2\t李雷\\ttab\tNULL\t0.3\n"
        "3\tNULL\tNULL\t0.3\n"
        "(3 rows)"
    )


def test_no_rows_still_name_the_columns(open_shop: Callable[..., Database]) -> None:
    assert open_shop().query("SELECT id FROM orders WHERE id = 99") == "id\n(0 rows)"


def test_too_many_rows_are_cut_and_that_is_said(open_shop: Callable[..., Database]) -> None:
    found = open_shop(max_rows=2).query("SELECT id FROM orders")
    assert found == "id\n1\n2\n(2 rows, cut at 2: there are more)"
    assert open_shop(max_rows=3).query("SELECT id FROM orders").endswith("(3 rows)")


def test_too_many_bytes_are_cut_and_that_is_said(open_shop: Callable[..., Database]) -> None:
    wide = (
        "WITH RECURSIVE c(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM c WHERE n < 200)"
        " SELECT n FROM c"
    )
    found = open_shop(max_bytes=100).query(wide)
    assert found.endswith("(24 rows, cut at 100 bytes: there are more)")


def test_a_long_text_is_cut(open_shop: Callable[..., Database]) -> None:
    found = open_shop().query(f"SELECT '{'长' * 600}' AS a")
    assert found == f"a\n{'长' * 500}… (600 characters)\n(1 row)"


def test_an_unknown_column_is_answered_with_the_columns_there_are(
    open_shop: Callable[..., Database],
) -> None:
    with pytest.raises(ToolError) as caught:
        open_shop().query("SELECT price FROM orders")
    assert str(caught.value) == (
        "The database shop says: no such column: price\n"
        "orders(id INTEGER, customer_id INTEGER -> customers.id, total NUMERIC(10, 2), at DATE)"
    )


def test_the_schema_holds_the_allowed_tables_and_is_read_once(
    open_shop: Callable[..., Database],
) -> None:
    database = open_shop(description="Sales.")
    assert database.describe().splitlines() == [
        "Database 'shop' (SQLite). Sales.",
        "customers(id INTEGER, name TEXT, note BLOB)",
        "orders(id INTEGER, customer_id INTEGER -> customers.id, total NUMERIC(10, 2), at DATE)",
        "totals(customer_id INTEGER, total)",
    ]
    assert database.schema() is database.schema()


def test_a_new_table_is_seen_when_the_schema_is_old(
    open_shop: Callable[..., Database], shop: Path
) -> None:
    now = 0.0
    database = open_shop(clock=lambda: now, tables=())
    assert "news" not in database.describe()
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("CREATE TABLE news (id INTEGER)")
    assert "news" not in database.describe()
    now = 601.0
    assert "news(id INTEGER)" in database.describe()


def test_with_no_tables_named_all_but_the_catalog_may_be_read(
    open_shop: Callable[..., Database],
) -> None:
    database = open_shop(tables=())
    assert "hunter2" in database.query("SELECT * FROM secrets")
    with pytest.raises(ToolError):
        database.query("SELECT * FROM sqlite_master")


def test_a_large_schema_is_cut_to_names(open_shop: Callable[..., Database], shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("BEGIN")  # one wait for the disk, not a hundred
        for number in range(100):
            columns = ", ".join(f"column_{place} TEXT" for place in range(20))
            connection.execute(f"CREATE TABLE table_{number:03} ({columns})")
        connection.commit()
    text = open_shop(tables=()).describe()
    assert len(text) < 12_000
    assert "table_000(column_0 TEXT" in text
    assert text.rstrip().endswith("totals")


# --- the tool ----------------------------------------------------------------------------------


def test_without_databases_there_is_no_tool() -> None:
    with pytest.raises(ConfigError, match="No database"):
        query_database((), secret(""))


def test_the_tool_describes_its_databases_and_runs_a_query(shop: Path) -> None:
    specs = [DatabaseSpec(name=name, url_env="SHOP_URL") for name in ("shop", "stock")]
    tool = query_database(specs, secret(f"sqlite:///{shop}"))
    assert not tool.cacheable
    (spec,) = asyncio.run(described([tool]))
    assert spec.name == "query_database"
    assert spec.parameters["properties"]["database"]["enum"] == ["shop", "stock"]
    assert spec.parameters["required"] == ["sql", "database"]
    assert "Database 'stock' (SQLite)" in spec.description
    call = ToolCall("1", "query_database", '{"sql": "SELECT 1 AS one", "database": "stock"}')
    result = asyncio.run(run_tool({"query_database": tool}, call, seconds=5))
    assert (result.text, result.failed) == ("one\n1\n(1 row)", False)


def test_one_database_need_not_be_named(shop: Path) -> None:
    specs = [DatabaseSpec(name="shop", url_env="SHOP_URL")]
    tool = query_database(specs, secret(f"sqlite:///{shop}"))
    assert tool.spec.parameters["required"] == ["sql"]
    assert asyncio.run(tool.run('{"sql": "SELECT 1 AS one"}')) == "one\n1\n(1 row)"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("oracle://scott:tiger@db/x", "neither SQLite nor PostgreSQL nor MySQL"),
        ("not a url, tiger", "is not usable"),
        ("postgresql+tiger://scott:tiger@db/x", "is not usable"),
    ],
)
def test_a_wrong_url_is_said_at_once_and_not_shown(url: str, says: str) -> None:
    spec = DatabaseSpec(name="shop", url_env="SHOP_URL")
    with pytest.raises(ConfigError, match=says) as caught:
        Database(spec, secret(url))
    assert "tiger" not in str(caught.value)


def test_a_missing_url_names_its_variable() -> None:
    spec = DatabaseSpec(name="shop", url_env="NOWHERE_URL")
    with pytest.raises(ConfigError, match="NOWHERE_URL"):
        Database(spec, lambda _: None)


def test_a_database_that_cannot_be_reached_is_a_text_without_its_url(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    path = tmp_path / "hunter2.db"
    spec = DatabaseSpec(name="shop", url_env="SHOP_URL")
    database = Database(spec, secret(f"sqlite:///{path}"), clock=lambda: now)
    with caplog.at_level(logging.DEBUG), pytest.raises(ToolError) as caught:
        database.query("SELECT 1")
    assert str(caught.value) == "The database shop cannot be reached now."
    assert "cannot be reached now" in database.describe()
    assert "hunter2" not in caplog.text
    assert not path.exists()
    sqlite3.connect(path).close()
    now = 31.0
    assert database.query("SELECT 1 AS one") == "one\n1\n(1 row)"


# --- PostgreSQL --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres_shop(postgres_url: str) -> Iterator[str]:
    """A schema of its own in the server that all tests share, as that user's default."""
    script = SHOP.replace("BLOB", "BYTEA").replace("x'0001'", "'\\x0001'")
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE tool_shop"))
    url = postgres_url.rpartition("/")[0] + "/tool_shop"
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql('CREATE TABLE "Mixed" (id INT, data JSONB, at TIMESTAMPTZ)')
        connection.exec_driver_sql(
            """INSERT INTO "Mixed" VALUES (1, '{"a": [1, "二"]}', '2024-05-06T07:08:09Z')"""
        )
    yield url
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE tool_shop"))
    admin.dispose()


@pytest.fixture
def open_postgres(postgres_shop: str) -> Callable[..., Database]:
    def make(**limits: object) -> Database:
        limits.setdefault("tables", ("orders", "customers", "totals", "Mixed"))
        spec = DatabaseSpec(name="shop", url_env="SHOP_URL", **limits)  # type: ignore[arg-type]
        return Database(spec, secret(postgres_shop))

    return make


@pytest.mark.slow
@pytest.mark.postgres
def test_postgres_gives_what_the_query_itself_gives(open_postgres: Callable[..., Database]) -> None:
    database = open_postgres()
    for sql in HARMLESS:
        assert rows(database.query(sql)) == rows(database.read(sql))


@pytest.mark.slow
@pytest.mark.postgres
def test_postgres_refuses_all_that_is_hostile(open_postgres: Callable[..., Database]) -> None:
    database = open_postgres(max_seconds=2)
    before = database.query("SELECT * FROM orders ORDER BY id")
    for sql in (*HOSTILE, *HOSTILE_TO_POSTGRES):
        with pytest.raises(ToolError):
            database.query(sql)
    assert database.query("SELECT * FROM orders ORDER BY id") == before


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(
    "sql",
    [
        *WRITES,
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
        "SELECT * INTO copied FROM orders",
        "SELECT * FROM orders FOR UPDATE",
        "SELECT 1; COMMIT; SET default_transaction_read_only = off; DELETE FROM orders; COMMIT",
        "SET TRANSACTION READ WRITE",
    ],
)
def test_the_postgres_connection_alone_refuses_to_write(
    sql: str, open_postgres: Callable[..., Database]
) -> None:
    database = open_postgres()
    with pytest.raises(ToolError):
        database.read(sql)
    assert database.query("SELECT count(*) AS n FROM orders") == "n\n3\n(1 row)"


@pytest.mark.slow
@pytest.mark.postgres
def test_what_postgres_lets_pass_is_not_kept(
    open_postgres: Callable[..., Database], postgres_shop: str
) -> None:
    """Large objects: version 15 makes them when reading only, 16 refuses."""
    with suppress(ToolError):
        open_postgres().read("SELECT lo_create(0)")
    engine = create_engine(postgres_shop)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_largeobject_metadata")) == 0
    engine.dispose()


@pytest.mark.slow
@pytest.mark.postgres
def test_postgres_stops_a_sleep_by_itself(open_postgres: Callable[..., Database]) -> None:
    with pytest.raises(ToolError, match=r"stopped after 0\.2 s"):
        open_postgres(max_seconds=0.2).read("SELECT pg_sleep(60)")


@pytest.mark.slow
@pytest.mark.postgres
def test_postgres_stops_a_query_without_end(open_postgres: Callable[..., Database]) -> None:
    bomb = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    with pytest.raises(ToolError, match=r"stopped after 0\.3 s"):
        open_postgres(max_seconds=0.3).query(bomb)


@pytest.mark.slow
@pytest.mark.postgres
def test_postgres_values_are_shown_sensibly(open_postgres: Callable[..., Database]) -> None:
    database = open_postgres()
    assert "Database 'shop' (PostgreSQL)" in database.describe()
    assert '"Mixed"(id INTEGER, data JSONB, at TIMESTAMP WITH TIME ZONE)' in database.describe()
    found = database.query(
        """SELECT id, data, data ->> 'a' AS a, extract(year FROM at) AS y, at::date AS d,
        date_trunc('month', at AT TIME ZONE 'UTC') AS m, true AS t, 'a%b' AS p FROM "Mixed" """
    )
    assert found.splitlines()[1].split("\t") == [
        "1",
        '{"a": [1, "二"]}',
        '[1, "二"]',
        "2024",
        "2024-05-06",
        "2024-05-01 00:00:00",
        "true",
        "a%b",
    ]


@pytest.mark.slow
@pytest.mark.postgres
def test_a_postgres_error_helps_to_repair_the_query(
    open_postgres: Callable[..., Database],
) -> None:
    with pytest.raises(ToolError) as caught:
        open_postgres().query("SELECT totl FROM orders")
    assert 'column "totl" does not exist' in str(caught.value)
    assert "orders(id INTEGER" in str(caught.value)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_wrong_password_or_host_is_not_shown(postgres_shop: str) -> None:
    url = postgres_shop.replace("rag@", "nobody:hunter2@")
    spec = DatabaseSpec(name="shop", url_env="SHOP_URL")
    with pytest.raises(ToolError) as caught:
        Database(spec, secret(url)).query("SELECT 1")
    assert str(caught.value) == "The database shop cannot be reached now."
