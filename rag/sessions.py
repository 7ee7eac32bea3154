"""Conversations, kept in the application database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag.application import ApplicationDatabase
from rag.types import Message

if TYPE_CHECKING:
    import sqlalchemy

_MAX_TURNS = 20


class Sessions:
    """The turns of each session. Only turns that succeeded are ever added."""

    def __init__(self, database: ApplicationDatabase) -> None:
        self._turns = database.part(_turns)

    def history(self, session_id: str) -> tuple[Message, ...]:
        """The latest turns, oldest first; empty for a session nobody has used."""
        turns = self._turns.tables
        latest = (
            turns.select()
            .where(turns.c.session_id == session_id)
            .order_by(turns.c.id.desc())
            .limit(_MAX_TURNS)
        )
        with self._turns.reading() as connection:
            rows = list(connection.execute(latest))
        return tuple(
            message
            for row in reversed(rows)
            for message in (Message("user", row.question), Message("assistant", row.answer))
        )

    def add(self, session_id: str, knowledge_base: str, question: str, answer: str) -> None:
        turn = self._turns.tables.insert().values(
            session_id=session_id,
            knowledge_base=knowledge_base,
            question=question,
            answer=answer,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._turns.writing() as connection:
            connection.execute(turn)

    def forget(self, session_id: str) -> bool:
        """False if there was nothing to forget."""
        turns = self._turns.tables
        with self._turns.writing() as connection:
            gone = connection.execute(turns.delete().where(turns.c.session_id == session_id))
            return bool(gone.rowcount)


def _turns(metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
    import sqlalchemy as sa

    return sa.Table(
        "turns",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.String(64), nullable=False, index=True),
        sa.Column("knowledge_base", sa.String(64), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
