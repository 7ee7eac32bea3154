"""Which SQL a model may run: one SELECT over known tables, of known parts; by sqlglot.

Everything is refused that is not listed here. What is run is written anew from the parsed tree, so
that no comment, odd quoting or second statement of the model's own text reaches a database.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rag.errors import ToolError

if TYPE_CHECKING:
    from sqlglot import exp

Dialect = Literal["sqlite", "postgres", "mysql"]
Name = tuple[str, str]  # schema and table, as `normal` writes them

MAX_LENGTH = 10_000  # characters
MAX_COPIES = 100_000  # of an expression, when nested queries are merged into one

_ROOTS = {"Select", "Union", "Intersect", "Except", "Subquery"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9 ]{0,40}")

# Classes of sqlglot's tree, by name. Text that grows at will (repeat, lpad) stays out, and all
# that reads the server's files, settings or clock by waiting.
_STRUCTURE = """
    Select Union Intersect Except Subquery With CTE TableAlias Table From Join Where Group Having
    Order Ordered Limit Offset Distinct Alias Column Identifier Star Literal Boolean Null Paren
    Tuple Rollup Cube GroupingSets Window WindowSpec Filter WithinGroup IgnoreNulls RespectNulls
    Lateral Var DataType DataTypeParam Interval Exists In Between Case If Cast TryCast Collate
    And Or Not Xor EQ NEQ GT GTE LT LTE Is NullSafeEQ NullSafeNEQ Like ILike Glob SimilarTo Escape
    RegexpLike RegexpILike Add Sub Mul Div IntDiv Mod Neg DPipe BitwiseAnd BitwiseOr BitwiseXor
    BitwiseNot BitwiseLeftShift BitwiseRightShift AtTimeZone Any All
    JSONPath JSONPathRoot JSONPathKey JSONPathSubscript
"""
_FUNCTIONS = """
    Count CountIf Sum Avg Min Max Median Mode Stddev StddevPop StddevSamp Variance VariancePop Corr
    CovarPop CovarSamp GroupConcat ArrayAgg AnyValue LogicalAnd LogicalOr PercentileCont
    PercentileDisc Grouping
    RowNumber Rank DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue
    Abs Sign Round Ceil Floor Trunc Sqrt Cbrt Pow Exp Ln Log Greatest Least Pi Sin Cos Tan Asin
    Acos Atan Atan2 Degrees Radians WidthBucket
    Coalesce Nullif Typeof
    Lower Upper Length Trim Left Right Substring SubstringIndex StrPosition Replace Concat ConcatWs
    Initcap Reverse SplitPart StartsWith EndsWith Contains Ascii Unicode Chr Hex Translate
    Date Time Datetime Timestamp CurrentDate CurrentTime CurrentTimestamp CurrentDatetime Localtime
    Localtimestamp Extract Year Quarter Month Week WeekOfYear Day DayOfMonth DayOfWeek DayOfYear
    Dayname Monthname Hour Minute Second LastDay DateAdd DateSub DateDiff DateTrunc DatetimeAdd
    DatetimeSub DatetimeDiff TimestampAdd TimestampSub TimestampDiff TimestampTrunc TimeToStr
    StrToDate StrToTime TimeToUnix UnixToTime UnixSeconds TsOrDsToDate TsOrDsToTimestamp TsOrDsAdd
    TsOrDsDiff TsOrDsToTime DateFromParts ToChar ToNumber GenerateSeries ExplodingGenerateSeries
    JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar
"""
_ALLOWED = frozenset((_STRUCTURE + _FUNCTIONS).split())
_SQLITE = """
    date time datetime julianday strftime unixepoch timediff total ifnull iif instr substr char
    likely unlikely concat concat_ws printf format
"""
_POSTGRES = "now age date_part btrim to_date bool_and bool_or every"
_MYSQL = "now date_format timestampdiff makedate field find_in_set std bit_and bit_or"
_UNKNOWN_TO_SQLGLOT: dict[Dialect, frozenset[str]] = {
    "sqlite": frozenset(_SQLITE.split()),
    "postgres": frozenset(_POSTGRES.split()),
    "mysql": frozenset(_MYSQL.split()),
}
# SQLAlchemy gives SQLite a REGEXP of Python's, which no time limit can stop.
_NOT_IN_SQLITE = {"RegexpLike", "RegexpILike"}
# Not the types that look names up in a catalog (regclass), nor those of the database's own.
_TYPES = frozenset(
    """
    TINYINT UTINYINT SMALLINT USMALLINT INT UINT MEDIUMINT BIGINT UBIGINT DECIMAL UDECIMAL FLOAT
    DOUBLE BOOLEAN BIT CHAR NCHAR VARCHAR NVARCHAR TEXT TINYTEXT MEDIUMTEXT LONGTEXT DATE DATETIME
    TIME TIMETZ TIMESTAMP TIMESTAMPTZ TIMESTAMPLTZ TIMESTAMPNTZ INTERVAL YEAR UUID JSON JSONB MONEY
    """.split()  # noqa: SIM905 - a list of strings is harder to read
)


@dataclass(frozen=True, slots=True)
class Checked:
    """`sql` is to be run; `tables` are those it reads, CTEs left out."""

    sql: str
    tables: frozenset[Name]


def normal(name: str, dialect: Dialect, *, quoted: bool = True) -> str:
    """The name as the database compares it. Only ASCII letters are folded, as databases do."""
    if dialect == "sqlite" or (dialect == "postgres" and not quoted):
        return re.sub("[A-Z]+", lambda found: found[0].lower(), name)
    return name


def checked(
    sql: str, *, dialect: Dialect, tables: Collection[Name], home: str, max_rows: int
) -> Checked:
    """The query, limited to `max_rows` rows, if it is one that may be run; else ToolError.

    `tables` may be read; a table without a schema is one of the schema `home`.
    """
    first = _bare(_parsed(sql, dialect))
    _check(first, dialect, tables, home)
    _limit(first, max_rows)
    written = _written(first, dialect)
    if _copies(first, {}, dialect) > MAX_COPIES:
        raise ToolError("Nested queries repeat columns too often: ask in several simpler queries.")
    # Once more, as the database will read it: sqlglot writes some parts without quoting them.
    again = _parsed(written, dialect)
    found = _check(again, dialect, tables, home)
    return Checked(written, found)


def _parsed(sql: str, dialect: Dialect) -> exp.Expr:
    import sqlglot
    from sqlglot.errors import ParseError, SqlglotError

    if len(sql) > MAX_LENGTH:
        raise ToolError(f"The query is longer than {MAX_LENGTH} characters.")
    if "\0" in sql:
        raise ToolError("The query holds a character that is not text.")
    if not re.match(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with)\b", sql, re.I | re.S):
        raise ToolError("Only a SELECT can be run, or WITH ... SELECT.")
    try:
        statements = sqlglot.parse(sql, dialect=dialect)
    except ParseError as error:
        where = error.errors[0] if error.errors else {}
        raise ToolError(
            f"This is not {dialect} SQL: {where.get('description', 'it cannot be read')}"
            f" (line {where.get('line', 1)}, column {where.get('col', 1)})."
        ) from None
    except (SqlglotError, RecursionError) as error:
        raise ToolError(f"The query cannot be read ({type(error).__name__}).") from None
    real = [each for each in statements if each is not None]
    if len(real) != 1:
        raise ToolError("Give exactly one statement.")
    return real[0]


def _bare(tree: exp.Expr) -> exp.Expr:
    """Without the parentheses round it all, where no LIMIT can stand behind them."""
    while _kind(tree) == "Subquery" and not any(v for k, v in tree.args.items() if k != "this"):
        tree = tree.this
    return tree


def _written(tree: exp.Expr, dialect: Dialect) -> str:
    from sqlglot.errors import ErrorLevel, SqlglotError

    try:
        return tree.sql(dialect=dialect, comments=False, unsupported_level=ErrorLevel.RAISE)
    except (SqlglotError, RecursionError) as error:
        raise ToolError(f"The query cannot be run ({type(error).__name__}).") from None


def _check(
    tree: exp.Expr, dialect: Dialect, tables: Collection[Name], home: str
) -> frozenset[Name]:
    """The tables read, CTEs left out."""
    if _kind(tree) not in _ROOTS:
        raise ToolError("Only a SELECT can be run, or WITH ... SELECT.")
    read: set[Name] = set()
    for node in tree.walk():
        _check_node(node, dialect)
        if _kind(node) == "Table":
            read |= set(_table(node, dialect, tables, home))
    return frozenset(read)


def _check_node(node: exp.Expr, dialect: Dialect) -> None:
    kind = _kind(node)
    if kind == "Anonymous":
        if node.name.lower() not in _UNKNOWN_TO_SQLGLOT[dialect]:
            raise ToolError(f"The function {node.name[:64]!r} is not allowed.")
    elif kind not in _ALLOWED or (dialect == "sqlite" and kind in _NOT_IN_SQLITE):
        raise ToolError(f"{kind} is not allowed in a query.")
    elif kind == "Var" and not _WORD.fullmatch(node.name):
        raise ToolError(f"{node.name[:40]!r} cannot stand here.")
    elif kind == "DataType" and getattr(node.this, "name", "") not in _TYPES:
        raise ToolError("A cast to this type is not allowed.")
    elif kind == "In" and node.args.get("field") is not None:
        raise ToolError("After IN write a list or a SELECT in parentheses.")
    elif node.args.get("operation_modifiers"):
        raise ToolError("Modifiers behind SELECT are not allowed.")


def _table(
    table: exp.Expr, dialect: Dialect, tables: Collection[Name], home: str
) -> Iterator[Name]:
    """Nothing for a CTE or a series of numbers; ToolError for a table that may not be read."""
    if _kind(table.this) != "Identifier":
        if _kind(table.this) in ("GenerateSeries", "ExplodingGenerateSeries"):
            return
        raise ToolError("Only tables can stand in FROM, not functions.")
    schema = table.args.get("db")
    own = _normal_of(table.this, dialect)
    if schema is None and own in _visible(table, dialect):
        return
    name = (home if schema is None else _normal_of(schema, dialect), own)
    if table.args.get("catalog") is not None or name not in tables:
        known = ", ".join(sorted(_shown(each, home) for each in tables)[:50]) or "none"
        raise ToolError(f"There is no table {table.sql()[:80]} to be read. Tables: {known}.")
    yield name


def _visible(table: exp.Expr, dialect: Dialect) -> set[str]:
    """The CTEs that stand for this table's name: of the queries round it, those written before.

    A CTE seen from anywhere else would hide a real table that is not to be read.
    """
    names: set[str] = set()
    node: Any = table
    while (above := node.parent) is not None:
        if _kind(above) == "With":
            place = next(i for i, each in enumerate(above.expressions) if each is node)
            seen = above.expressions[: place + bool(above.args.get("recursive"))]
        else:
            with_ = _with(above)
            seen = [] if with_ is None or with_ is node else with_.expressions
        names |= {_normal_of(each.args["alias"].this, dialect) for each in seen}
        node = above
    return names


def _with(node: exp.Expr) -> Any:
    return node.args.get("with_") or node.args.get("with")  # its name up to sqlglot 27


def _copies(query: exp.Expr, known: dict[str, int], dialect: Dialect) -> int:
    """How often a database may have to copy an expression of an inner query, at most.

    SQLite puts the inner expression in the place of each reference, before any time limit counts:
    `SELECT a || a FROM (SELECT a || a FROM ...)` doubles with each level. `known`: of CTEs.
    """
    known = dict(known)
    with_ = _with(query)
    for cte in with_.expressions if with_ is not None else ():
        own = _normal_of(cte.args["alias"].this, dialect)
        known[own] = _copies(cte.this, known | {own: 1}, dialect)
    if _kind(query) in ("Union", "Intersect", "Except"):
        return max(_copies(side, known, dialect) for side in (query.this, query.expression))
    if _kind(query) == "Subquery":
        return _copies(query.this, known, dialect)
    references: Counter[str] = Counter()
    inner = 1
    rest = [value for value in query.iter_expressions() if value is not with_]
    while rest:
        node = rest.pop()
        if _kind(node) == "Column":
            references[node.name.lower()] += 1
        elif _kind(node) == "Table" and _kind(node.this) == "Identifier":
            inner = max(inner, known.get(_normal_of(node.this, dialect), 1))
        if _kind(node) in _ROOTS and _kind(node.parent) in ("From", "Join", "Lateral"):
            inner = max(inner, _copies(node, known, dialect))
        else:
            rest += node.iter_expressions()
    return max(references.values(), default=1) * inner


def _limit(tree: exp.Expr, max_rows: int) -> None:
    from sqlglot import exp

    limit = tree.args.get("limit")
    if limit is not None:
        value = limit.args.get("expression")
        if _kind(limit) != "Limit" or not isinstance(value, exp.Literal) or value.is_string:
            raise ToolError("Write LIMIT with a plain number.")
        if not value.name.isdecimal():
            raise ToolError("Write LIMIT with a whole number.")
        max_rows = min(max_rows, int(value.name[:18]))
    tree.set("limit", exp.Limit(expression=exp.Literal.number(max_rows)))


def _normal_of(identifier: Any, dialect: Dialect) -> str:
    return normal(identifier.name, dialect, quoted=bool(identifier.args.get("quoted")))


def _shown(name: Name, home: str) -> str:
    return name[1] if name[0] == home else ".".join(name)


def _kind(node: object) -> str:
    return type(node).__name__
