"""The ledger's tables and statements.

`calls` has a row for each call. `spent` has one for each scope and period that a budget asked
about; it starts with the sum of the calls so far, so that a budget set in mid-month knows the
month. `reservations` has what running calls hold, until it expires.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rag.ledger.budgets import Key, caller_and_model, days_of, periods
from rag.ledger.money import nano_of
from rag.records import Called

if TYPE_CHECKING:
    import sqlalchemy as sa

KEYS_AT_ONCE = 8
"""As many keys as a call has at most; see `budgets.keys_of`."""


class Books:
    """Statements are made once, and always of one shape: making them takes longer than SQLite."""

    def __init__(self, metadata: sa.MetaData) -> None:
        import sqlalchemy as sa

        self.calls = _calls(metadata)
        self.spent = _spent(metadata)
        self.reservations = _reservations(metadata)
        of, held = self.spent.c, self.reservations.c
        same = (held.period == of.period) & (held.scope == of.scope)
        now: sa.BindParameter[float] = sa.bindparam("now")
        running = sa.select(sa.func.coalesce(sa.func.sum(held.amount_nano), 0)).where(
            same, held.expires_at > now
        )
        chosen = sa.or_(
            *(
                (of.period == sa.bindparam(f"period{n}")) & (of.scope == sa.bindparam(f"scope{n}"))
                for n in range(KEYS_AT_ONCE)
            )
        )
        self.used = sa.select(
            of.period, of.scope, of.settled_nano, running.scalar_subquery()
        ).where(chosen)
        self.lock = (
            sa.select(of.period).where(chosen).order_by(of.period, of.scope).with_for_update()
        )
        self.spend = (
            self.spent.update()
            .where(of.period == sa.bindparam("in_period"), of.scope == sa.bindparam("by_scope"))
            .values(settled_nano=of.settled_nano + sa.bindparam("nano"))
        )
        self.note = self.calls.insert()
        self.hold = self.reservations.insert()
        self.release = self.reservations.delete().where(held.id == sa.bindparam("held"))
        self.forget = self.reservations.delete().where(held.expires_at <= now)

    def so_far(self, key: Key) -> sa.Select[Any]:
        """Of the key: period, scope, and the sum of its calls."""
        import sqlalchemy as sa

        calls = self.calls.c
        period, scope = key
        caller, model = caller_and_model(scope)
        total = sa.func.coalesce(sa.func.sum(calls.cost_nano), 0)
        row: sa.Select[Any] = sa.select(sa.literal(period), sa.literal(scope), total)
        row = row.where(calls.day.between(*days_of(period)))
        if caller is not None:
            row = row.where(calls.caller == caller)
        if model is not None:
            row = row.where(calls.model == model)
        return row

    def begin(self, key: Key, dialect: str) -> sa.Executable:
        """Gives the key its row, if it has none."""
        from sqlalchemy.dialects import postgresql, sqlite

        insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
        columns = ["period", "scope", "settled_nano"]
        row = insert(self.spent).from_select(columns, self.so_far(key))
        return row.on_conflict_do_nothing()


def bound(keys: Sequence[Key]) -> dict[str, Any]:
    """What `used` and `lock` are to look for: 1 to KEYS_AT_ONCE keys, the last one repeated."""
    whole = [*keys, *[keys[-1]] * (KEYS_AT_ONCE - len(keys))]
    periods = {f"period{n}": period for n, (period, _) in enumerate(whole)}
    return periods | {f"scope{n}": scope for n, (_, scope) in enumerate(whole)}


def row_of(call: Called) -> dict[str, Any]:
    context = call.request.context
    return {
        "at": call.at,
        "day": periods(call.at)[0],
        "caller": context.caller,
        "session_id": context.session_id,
        "knowledge_base": context.knowledge_base,
        "model": call.model,
        "outcome": call.outcome,
        "code": call.code,
        "prompt_tokens": call.usage.prompt_tokens,
        "completion_tokens": call.usage.completion_tokens,
        "estimated": call.usage.estimated,
        "cost_nano": nano_of(call.usage.cost),
        "seconds": call.seconds,
    }


def _calls(metadata: sa.MetaData) -> sa.Table:
    import sqlalchemy as sa

    return sa.Table(
        "calls",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False, index=True),
        sa.Column("knowledge_base", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("cost_nano", sa.BigInteger),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Index("calls_spending", "day", "caller", "model", "cost_nano"),
    )


def _spent(metadata: sa.MetaData) -> sa.Table:
    import sqlalchemy as sa

    return sa.Table(
        "spent",
        metadata,
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("settled_nano", sa.BigInteger, nullable=False),
    )


def _reservations(metadata: sa.MetaData) -> sa.Table:
    import sqlalchemy as sa

    return sa.Table(
        "reservations",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("amount_nano", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Index("reservations_held", "period", "scope"),
    )
