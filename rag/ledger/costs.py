"""What the calls of a day, model, caller or session came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rag.ledger.books import Books
from rag.ledger.money import NANO

if TYPE_CHECKING:
    import sqlalchemy as sa

CostsBy = Literal["day", "model", "caller", "session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """Calls of one day, model, caller or session. `cost` is in US dollars, without the
    `unknown_cost_calls`; tokens of `estimated_calls` are our estimate."""

    key: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_calls: int = 0
    unknown_cost_calls: int = 0
    cost: float = 0.0


def column_of(books: Books, by: CostsBy) -> sa.Column[str]:
    return books.calls.c["session_id" if by == "session" else by]


def cost_rows(
    connection: sa.Connection,
    books: Books,
    key: sa.Column[str],
    chosen: sa.ColumnElement[bool],
) -> Iterator[CostRow]:
    """One for each value of `key` among the `chosen` calls, in any order."""
    import sqlalchemy as sa

    calls, of = books.calls.c, sa.func
    query = sa.select(
        key,
        of.count(),
        of.sum(calls.prompt_tokens),
        of.sum(calls.completion_tokens),
        of.sum(sa.case((calls.estimated, 1), else_=0)),
        of.count() - of.count(calls.cost_nano),
        of.coalesce(of.sum(calls.cost_nano), 0),
    )
    for name, *numbers in connection.execute(query.where(chosen).group_by(key)):
        count, prompt, completion, estimated, unknown, nano = map(int, numbers)
        yield CostRow(
            key=name,
            calls=count,
            prompt_tokens=prompt,
            completion_tokens=completion,
            estimated_calls=estimated,
            unknown_cost_calls=unknown,
            cost=nano / NANO,
        )
