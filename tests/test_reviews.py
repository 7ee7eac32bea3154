"""An answer that is held waits until one person has decided, once."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rag.application import ApplicationDatabase
from rag.errors import InputError, NotFoundError
from rag.reviews import Review, Reviews

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
ANSWER: dict[str, Any] = {
    "answer": "每年十五天 [1]",
    "refused": False,
    "citations": [{"n": 1, "heading": ["假期"], "score": 0.5, "page": None}],
    "usage": {"cost": None},
}


class Clock:
    """A second later each time."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        self.now += 1
        return self.now


Connect = Callable[[], Reviews]


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.slow, pytest.mark.postgres]),
    ]
)
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Connections to the same database, each as another process would have it."""
    url = f"sqlite:///{tmp_path / 'application.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        drop_table(url)
    connections: list[ApplicationDatabase] = []
    clock = Clock()

    def connect() -> Reviews:
        connections.append(ApplicationDatabase(url))
        return Reviews(connections[-1], clock=clock)

    yield connect
    for connection in connections:
        connection.close()


def drop_table(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS reviews"))
    engine.dispose()


@pytest.fixture
def reviews(connect: Connect) -> Reviews:
    return connect()


def hold(reviews: Reviews, question: str = "年假有几天？") -> str:
    return reviews.hold(
        reason="tag finance",
        knowledge_base="default",
        session_id="s",
        caller="ann",
        question=question,
        answer=ANSWER,
    )


def test_a_held_answer_waits_as_it_was_given(reviews: Reviews) -> None:
    review_id = hold(reviews)
    assert len(review_id) == 16
    assert set(review_id) <= set(string.hexdigits.lower())
    assert reviews.get(review_id) == Review(
        id=review_id,
        created_at="2026-01-31T12:00:01.000+00:00",
        state="waiting",
        reason="tag finance",
        knowledge_base="default",
        session_id="s",
        caller="ann",
        question="年假有几天？",
        answer=ANSWER,
        reviewer="",
        decided_at="",
        note="",
    )


def test_an_approved_answer_names_who_and_when_and_is_there_for_others(
    reviews: Reviews, connect: Connect
) -> None:
    review_id = hold(reviews)
    decided = reviews.decide(review_id, approve=True, reviewer="bo", note="checked")
    assert (decided.state, decided.reviewer, decided.note) == ("approved", "bo", "checked")
    assert decided.decided_at == "2026-01-31T12:00:02.000+00:00"
    assert decided.answer == ANSWER
    assert connect().get(review_id) == decided


def test_an_approved_answer_may_be_given_another_text(reviews: Reviews) -> None:
    review_id = hold(reviews)
    decided = reviews.decide(review_id, approve=True, reviewer="bo", answer_text="十天 [1]")
    assert decided.answer == {**ANSWER, "answer": "十天 [1]"}


def test_a_rejected_answer_keeps_its_text(reviews: Reviews) -> None:
    review_id = hold(reviews)
    with pytest.raises(InputError, match="cannot be given a text"):
        reviews.decide(review_id, approve=False, reviewer="bo", answer_text="十天")
    assert reviews.get(review_id).state == "waiting"
    decided = reviews.decide(review_id, approve=False, reviewer="bo")
    assert (decided.state, decided.answer) == ("rejected", ANSWER)


@pytest.mark.parametrize("approve", [True, False])
def test_what_was_decided_stays_and_the_second_is_told_by_whom(
    reviews: Reviews, approve: bool
) -> None:
    review_id = hold(reviews)
    first = reviews.decide(review_id, approve=False, reviewer="bo")
    with pytest.raises(InputError, match=r"was rejected by bo at 2026-01-31T12:00:02"):
        reviews.decide(review_id, approve=approve, reviewer="cy", note="no")
    assert reviews.get(review_id) == first


def test_of_many_who_decide_at_once_one_does(connect: Connect) -> None:
    review_id = hold(connect())
    people = [f"person{number}" for number in range(8)]
    connections = [connect() for _ in people]

    def decide(number: int) -> str:
        try:
            decided = connections[number].decide(
                review_id,
                approve=number % 2 == 0,
                reviewer=people[number],
                answer_text=f"by {people[number]}" if number % 2 == 0 else None,
            )
        except InputError as error:
            return error.message
        assert decided.reviewer == people[number]
        return "decided"

    with ThreadPoolExecutor(len(people)) as pool:
        outcomes = list(pool.map(decide, range(len(people))))

    winner = outcomes.index("decided")
    final = connections[0].get(review_id)
    assert final.reviewer == people[winner]
    assert final.state == ("approved" if winner % 2 == 0 else "rejected")
    text = f"by {people[winner]}" if winner % 2 == 0 else ANSWER["answer"]
    assert final.answer["answer"] == text
    others = outcomes[:winner] + outcomes[winner + 1 :]
    assert all(f"by {people[winner]} at" in outcome for outcome in others)


def test_many_may_be_the_first_to_use_the_database(connect: Connect) -> None:
    connections = [connect() for _ in range(8)]
    with ThreadPoolExecutor(len(connections)) as pool:
        ids = list(pool.map(hold, connections))
    assert {review.id for review in connections[0].list()} == set(ids)
    assert len(set(ids)) == 8


def test_an_unknown_review_is_told(reviews: Reviews) -> None:
    with pytest.raises(NotFoundError, match="no review 'nothing'"):
        reviews.get("nothing")
    with pytest.raises(NotFoundError, match="no review 'nothing'"):
        reviews.decide("nothing", approve=True, reviewer="bo")


def test_who_waits_longest_comes_first_and_what_is_decided_latest_first(reviews: Reviews) -> None:
    ids = [hold(reviews, question) for question in "abcdef"]
    for number in (1, 4, 5):
        reviews.decide(ids[number], approve=number != 5, reviewer="bo")

    def questions(*args: Any, **options: Any) -> str:
        return "".join(review.question for review in reviews.list(*args, **options))

    assert questions() == "fedcba"
    assert questions("waiting") == "acd"
    assert questions("waiting", limit=2) == "ac"
    assert questions("approved") == "eb"
    assert questions("rejected") == "f"
    assert questions(limit=2) == "fe"
