"""Answers that wait for a person's approval, kept in the application database."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from rag.application import ApplicationDatabase
from rag.errors import InputError, NotFoundError

if TYPE_CHECKING:
    import sqlalchemy

State = Literal["waiting", "approved", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """An answer, and what was decided about it; times are ISO 8601, UTC.

    `answer` is the wire form (rag/wire.py), with the reviewer's text if there is one. `reviewer`,
    `decided_at` and `note` are empty while it waits.
    """

    id: str
    created_at: str
    state: State
    reason: str
    knowledge_base: str
    session_id: str
    caller: str
    question: str
    answer: Mapping[str, Any]
    reviewer: str
    decided_at: str
    note: str


class Reviews:
    """Every answer that was ever held. Each is decided exactly once, whoever else decides too."""

    def __init__(
        self, database: ApplicationDatabase, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._reviews = database.part(_reviews)
        self._clock = clock

    def hold(
        self,
        *,
        reason: str,
        knowledge_base: str,
        question: str,
        answer: Mapping[str, Any],
        session_id: str = "",
        caller: str = "",
    ) -> str:
        """The id of the new review, 16 hex digits that cannot be guessed."""
        review_id = secrets.token_hex(8)
        held = self._reviews.tables.insert().values(
            id=review_id,
            created_at=self._now(),
            state="waiting",
            reason=reason,
            knowledge_base=knowledge_base,
            session_id=session_id,
            caller=caller,
            question=question,
            answer=dict(answer),
            reviewer="",
            decided_at="",
            note="",
        )
        with self._reviews.writing() as connection:
            connection.execute(held)
        return review_id

    def get(self, review_id: str) -> Review:
        """Raises NotFoundError."""
        table = self._reviews.tables
        found = self._fetched(table.select().where(table.c.id == review_id))
        if not found:
            raise NotFoundError(
                f"There is no review {review_id!r}.", "List them with: rag reviews ls"
            )
        return found[0]

    def list(self, state: State | None = None, limit: int = 100) -> Sequence[Review]:
        """Those that wait, oldest first; any others, latest first."""
        table = self._reviews.tables
        query = table.select().limit(limit)
        if state is not None:
            query = query.where(table.c.state == state)
        order = table.c.created_at if state == "waiting" else table.c.created_at.desc()
        return self._fetched(query.order_by(order, table.c.id))

    def decide(
        self,
        review_id: str,
        *,
        approve: bool,
        reviewer: str,
        note: str = "",
        answer_text: str | None = None,
    ) -> Review:
        """The review as it is from now on. `answer_text` replaces the text of an approved answer.

        Raises NotFoundError, and InputError if it was decided before or a rejected answer is given
        a text.
        """
        if answer_text is not None and not approve:
            raise InputError(
                "A rejected answer cannot be given a text.", "Approve it, or leave it."
            )
        review = self.get(review_id)
        changed: dict[str, Any] = {
            "state": "approved" if approve else "rejected",
            "reviewer": reviewer,
            "decided_at": self._now(),
            "note": note,
        }
        if answer_text is not None:
            changed["answer"] = {**review.answer, "answer": answer_text}
        table = self._reviews.tables
        undecided = (table.c.id == review_id) & (table.c.state == "waiting")
        with self._reviews.writing() as connection:
            first = connection.execute(table.update().where(undecided).values(changed)).rowcount
        review = self.get(review_id)
        if not first:
            raise InputError(
                f"Review {review_id} was {review.state} by {review.reviewer} at "
                f"{review.decided_at} already."
            )
        return review

    def _fetched(self, query: sqlalchemy.Select[Any]) -> Sequence[Review]:
        with self._reviews.reading() as connection:
            return [Review(**row) for row in connection.execute(query).mappings()]

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")


def _reviews(metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
    import sqlalchemy as sa

    return sa.Table(
        "reviews",
        metadata,
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("created_at", sa.String(32), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("knowledge_base", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("reviewer", sa.String(128), nullable=False),
        sa.Column("decided_at", sa.String(32), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
