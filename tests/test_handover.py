"""Documents between the thread that reads and the one that embeds: in order, and bounded."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import LoadError
from rag.ingest.handover import Handover, Prepared
from rag.types import Document

LONGEST = 30


def prepared(size: int, number: int = 0) -> Prepared:
    document = Document(
        type="txt",
        title="",
        text="x" * size,
        elements=(),
        id=str(number),
        uri=str(number),
        name="",
        content_hash="",
        size=size,
    )
    return Prepared(document, [], True)


@given(sizes=st.lists(st.integers(0, 2 * LONGEST), max_size=40), most=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_all_come_in_order_and_never_more_than_there_is_room_for(
    sizes: list[int], most: int
) -> None:
    handover = Handover(documents=most, characters=LONGEST)
    held: list[int] = []

    def read() -> None:
        for number, size in enumerate(sizes):
            handover.put(prepared(size, number))
            held.append(size)
        handover.close()

    thread = threading.Thread(target=read)
    thread.start()
    taken = []
    while (next_ := handover.take()) is not None:
        taken.append(int(next_.document.id))
        waiting = sizes[len(taken) : len(held)]  # put, and for sure not taken yet
        assert len(waiting) <= most
        assert len(waiting) <= 1 or sum(waiting) <= LONGEST
    thread.join()
    assert taken == list(range(len(sizes)))


def test_what_ended_the_reading_is_raised_after_what_was_read() -> None:
    handover = Handover()
    handover.put(prepared(1))
    handover.close(LoadError("The disk is gone."))
    assert handover.take() is not None
    with pytest.raises(LoadError, match="gone"):
        handover.take()


def test_who_waits_for_room_is_let_go_when_nobody_takes_any_more() -> None:
    handover = Handover(documents=1)
    handover.put(prepared(1))
    thread = threading.Thread(target=handover.put, args=(prepared(1),))
    thread.start()
    handover.close()
    thread.join(10)
    assert not thread.is_alive()
