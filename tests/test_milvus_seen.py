"""Whatever lies hidden among the rows of Milvus, the best that are seen are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.stores.milvus import seen
from rag.stores.milvus.seen import best_seen

GENERATION = 3
SHOWN, HIDDEN, STAGED, DELETED = "shown", "hidden", "staged", "deleted"


@dataclass(frozen=True)
class Row:
    id: int
    document: int
    kind: str

    @property
    def added_in(self) -> int:
        return GENERATION + 1 if self.kind == STAGED else 1


class FakeRecords:
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {row.id: row for row in rows}

    def seen(self, ids: Sequence[int], generation: int) -> set[int]:
        assert generation == GENERATION
        return {i for i in ids if self._rows[i].kind == SHOWN}

    def owners(self, ids: Sequence[int]) -> dict[int, int]:
        return {i: self._rows[i].document for i in ids if self._rows[i].kind != DELETED}


class FakeMilvus:
    """Rows are nearer the lower their place."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.asked: list[tuple[str, int]] = []

    def ask(self, condition: str, count: int) -> Mapping[int, float]:
        self.asked.append((condition, count))
        meets = compile(condition or "True", "condition", "eval")  # it reads like Python
        found = {}
        for place, row in enumerate(self._rows):
            names = {"id": row.id, "document": row.document, "added_in": row.added_in}
            if eval(meets, {}, names):
                found[row.id] = 1 - place / 10_000
        return dict(list(found.items())[:count])


def rows_of(kinds: Sequence[str]) -> list[Row]:
    """Three chunks a document."""
    return [Row(3 * d + c, d, kind) for d, kind in enumerate(kinds) for c in range(3)]


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from((SHOWN, HIDDEN, HIDDEN, HIDDEN, STAGED, DELETED)), max_size=60),
    order=st.randoms(use_true_random=False),
    limit=st.integers(1, 12),
    told=st.booleans(),
    filtered=st.booleans(),
)
def test_the_best_that_are_seen_are_found(
    kinds: list[str], order: Any, limit: int, told: bool, filtered: bool
) -> None:
    rows = rows_of(kinds)
    order.shuffle(rows)
    keys = [d for d, kind in enumerate(kinds) if d % 3 and kind != DELETED] if filtered else None
    hidden = [d for d, kind in enumerate(kinds) if kind == HIDDEN] if told else []
    milvus = FakeMilvus(rows)
    if keys == []:
        return  # nobody asks
    found = best_seen(
        milvus.ask,  # type: ignore[arg-type]
        FakeRecords(rows),  # type: ignore[arg-type]
        GENERATION,
        limit,
        keys,
        lambda: hidden,
    )
    visible = [r.id for r in rows if r.kind == SHOWN and (keys is None or r.document in keys)]
    assert list(found) == visible[:limit]
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(("told", "requests"), [(True, 2), (False, 5)])
def test_thousands_of_hidden_ones_take_few_requests(
    told: bool, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "_MOST", 1_000)
    rows = rows_of([HIDDEN] * 600 + [SHOWN] * 9)
    milvus = FakeMilvus(rows)
    found = best_seen(
        milvus.ask,  # type: ignore[arg-type]
        FakeRecords(rows),  # type: ignore[arg-type]
        GENERATION,
        10,
        None,
        lambda: range(600) if told else (),
    )
    assert list(found) == [row.id for row in rows[1800:1810]]
    assert len(milvus.asked) <= requests
    assert milvus.asked[0] == ("", 30)
