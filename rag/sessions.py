"""Conversations, kept in the application database."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rag.types import Message

if TYPE_CHECKING:
    import sqlalchemy

_MAX_TURNS = 20


class Sessions:
    """The turns of each session. Only turns that succeeded are ever added."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's: `sqlite:///path` or another database."""
        import sqlalchemy as sa

        self._sa = sa
        self._engine = sa.create_engine(url)
        metadata = sa.MetaData()
        self._turns = sa.Table(
            "turns",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("session_id", sa.String(64), nullable=False, index=True),
            sa.Column("knowledge_base", sa.String(64), nullable=False),
            sa.Column("question", sa.Text, nullable=False),
            sa.Column("answer", sa.Text, nullable=False),
            sa.Column("created_at", sa.String(32), nullable=False),
        )
        self._metadata = metadata
        self._prepared = False
        self._preparing = threading.Lock()

    def history(self, session_id: str) -> tuple[Message, ...]:
        """The latest turns, oldest first; empty for a session nobody has used."""
        turns = self._turns
        query = (
            self._sa.select(turns.c.question, turns.c.answer)
            .where(turns.c.session_id == session_id)
            .order_by(turns.c.id.desc())
            .limit(_MAX_TURNS)
        )
        with self._begin() as connection:
            rows = list(connection.execute(query))
        return tuple(
            message
            for question, answer in reversed(rows)
            for message in (Message("user", question), Message("assistant", answer))
        )

    def add(self, session_id: str, knowledge_base: str, question: str, answer: str) -> None:
        with self._begin() as connection:
            connection.execute(
                self._turns.insert().values(
                    session_id=session_id,
                    knowledge_base=knowledge_base,
                    question=question,
                    answer=answer,
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )

    def forget(self, session_id: str) -> bool:
        """False if there was nothing to forget."""
        with self._begin() as connection:
            result = connection.execute(
                self._turns.delete().where(self._turns.c.session_id == session_id)
            )
            return bool(result.rowcount)

    def _begin(self) -> AbstractContextManager[sqlalchemy.Connection]:
        with self._preparing:
            if not self._prepared:
                self._metadata.create_all(self._engine)
                self._prepared = True
        return self._engine.begin()

    def close(self) -> None:
        self._engine.dispose()
