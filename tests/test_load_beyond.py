"""What went beyond a limit is remembered for a day, and only while nothing has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rag.load.beyond import KEPT_SECONDS, Beyond
from rag.load.limits import Limits
from rag.load.process import EndedError


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def why(beyond: Beyond, data: bytes) -> str | None:
    told = beyond.told(data)
    return None if told is None else told.why


def test_the_same_bytes_under_the_same_limits_are_told_for_a_day(
    tmp_path: Path, clock: Clock
) -> None:
    beyond = Beyond(tmp_path / "there", Limits(), clock=clock)
    assert why(beyond, b"slow") is None
    beyond.remember(b"slow", EndedError("time"))
    assert why(beyond, b"slow") == "time"
    assert why(beyond, b"slow!") is None
    assert why(Beyond(tmp_path / "there", replace(Limits(), seconds=121.0)), b"slow") is None
    clock.now += KEPT_SECONDS
    assert why(beyond, b"slow") is None
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("reason", ["stopped", "start"])
def test_what_was_no_fault_of_the_file_is_not_remembered(tmp_path: Path, reason: str) -> None:
    beyond = Beyond(tmp_path, Limits())
    beyond.remember(b"fine", EndedError(reason))
    assert why(beyond, b"fine") is None


def test_a_reader_that_was_brought_down_is_remembered_with_its_status(tmp_path: Path) -> None:
    beyond = Beyond(tmp_path, Limits())
    beyond.remember(b"bomb", EndedError("", -11))
    told = beyond.told(b"bomb")
    assert told is not None
    assert (told.why, told.status) == ("", -11)


@pytest.mark.parametrize("noted", ["", "{}", "[1]", '{"at": "now", "why": 1, "status": 2}'])
def test_a_damaged_note_or_no_folder_is_as_good_as_none(
    tmp_path: Path, clock: Clock, noted: str
) -> None:
    beyond = Beyond(tmp_path, Limits(), clock=clock)
    beyond.remember(b"slow", EndedError("time"))
    (note,) = tmp_path.iterdir()
    note.write_text(noted)
    assert why(beyond, b"slow") is None
    nowhere = Beyond(None, Limits())
    nowhere.remember(b"slow", EndedError("time"))
    assert why(nowhere, b"slow") is None
