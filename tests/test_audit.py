"""Every call leaves a line, whole and without a secret, and never disturbs an answer."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rag.audit import AuditLog
from rag.records import BudgetWarned, CacheAsked, Called, CircuitChanged, KeyRejected
from rag.types import CallContext, ChatRequest, Image, Message, ToolCall, ToolSpec, Usage

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
SECRET = "sk-proj-0123456789abcdef"

REQUEST = ChatRequest(
    messages=(
        Message("system", "Answer from the sources."),
        Message("user", "年假有几天？", images=(Image("image/png", b"pixels"),)),
        Message("assistant", "", tool_calls=(ToolCall("1", "calculate", '{"x": 1}'),)),
        Message("tool", "1", tool_call_id="1"),
    ),
    context=CallContext(
        caller="ann",
        session_id="s1",
        knowledge_base="default",
        preset="analyst",
        question="年假有几天？",
        documents=("手册.md",),
    ),
)


def called(request: ChatRequest = REQUEST, reply: str = "十五天 [1]") -> Called:
    return Called(
        at=NOON - 2.5,
        model="gpt-5.1",
        outcome="failed",
        code="model_stream",
        usage=Usage(120, 7, False, 0.0015),
        seconds=2.5,
        first_token=0.4,
        request=request,
        reply=reply,
    )


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


Make = Callable[..., AuditLog]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    logs = []

    def make(**options: Any) -> AuditLog:
        log = AuditLog(tmp_path / "audit", **{"clock": clock, **options})
        logs.append(log)
        return log

    yield make
    for log in logs:
        log.close()


def files(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.name: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted((tmp_path / "audit").iterdir())
    }


def only_line(tmp_path: Path) -> dict[str, Any]:
    (lines,) = files(tmp_path).values()
    (line,) = lines
    return line


def test_a_call_is_told_without_its_texts(make: Make, tmp_path: Path) -> None:
    log = make()
    log.listen(called())
    log.close()
    line = only_line(tmp_path)
    assert len(line.pop("prompt_hash")) == 64
    assert line == {
        "kind": "called",
        "at": "2026-01-31T11:59:57.500+00:00",
        "caller": "ann",
        "session_id": "s1",
        "knowledge_base": "default",
        "preset": "analyst",
        "model": "gpt-5.1",
        "outcome": "failed",
        "code": "model_stream",
        "prompt_tokens": 120,
        "completion_tokens": 7,
        "estimated": False,
        "cost": 0.0015,
        "seconds": 2.5,
        "first_token": 0.4,
        "documents": ["手册.md"],
    }


def test_texts_are_written_only_when_asked_for_and_pictures_as_their_digest(
    make: Make, tmp_path: Path
) -> None:
    log = make(texts=True)
    log.listen(called())
    log.close()
    line = only_line(tmp_path)
    assert (line["question"], line["reply"]) == ("年假有几天？", "十五天 [1]")
    _, user, assistant, tool = line["messages"]
    assert user["text"] == "年假有几天？"
    assert len(user["images"][0]) == 64
    assert assistant["tool_calls"] == [{"id": "1", "name": "calculate", "arguments": '{"x": 1}'}]
    assert tool["tool_call_id"] == "1"


def test_the_hash_tells_two_prompts_apart_and_nothing_else(make: Make, tmp_path: Path) -> None:
    system, user, *rest = REQUEST.messages
    same = (
        REQUEST,
        ChatRequest(messages=REQUEST.messages, temperature=0.5, extra={"seed": 7}),
    )
    other = (
        (Message("user", system.text), user, *rest),
        (system, Message("user", "年假有几天"), *rest),
        (system, Message("user", user.text, images=(Image("image/png", b"other"),)), *rest),
        (system, user, Message("assistant", "", tool_calls=(ToolCall("1", "c", "{}"),)), rest[1]),
        (user, system, *rest),
    )
    log = make()
    for request in (*same, *(ChatRequest(messages=messages) for messages in other)):
        log.listen(called(request))
    log.close()
    (lines,) = files(tmp_path).values()
    hashes = [line["prompt_hash"] for line in lines]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 1 + len(other)


def test_the_other_records_are_told_by_their_kind(make: Make, tmp_path: Path) -> None:
    log = make()
    log.listen(KeyRejected(model="m", key="key 2 of 3 in OPENAI_API_KEY"))
    log.listen(CircuitChanged(model="m", state="open"))
    log.listen(BudgetWarned(budget="all", period="2026-01", share=0.81, limit=5.0))
    log.listen(CacheAsked(result="hit"))
    log.close()
    (lines,) = files(tmp_path).values()
    at = "2026-01-31T12:00:00.000+00:00"
    assert lines == [
        {"kind": "key_rejected", "at": at, "model": "m", "key": "key 2 of 3 in OPENAI_API_KEY"},
        {"kind": "circuit_changed", "at": at, "model": "m", "state": "open"},
        {
            "kind": "budget_warned",
            "at": at,
            "budget": "all",
            "period": "2026-01",
            "share": 0.81,
            "limit": 5.0,
        },
    ]


@pytest.mark.parametrize("texts", [False, True])
def test_what_is_sent_beside_the_messages_is_not_written(
    make: Make, tmp_path: Path, texts: bool
) -> None:
    request = ChatRequest(
        messages=(Message("user", "q"),),
        extra={"extra_headers": {"Authorization": f"Bearer {SECRET}"}, "api_key": SECRET},
        tools=(ToolSpec("t", SECRET, {}),),
    )
    log = make(texts=texts)
    log.listen(called(request))
    log.close()
    assert only_line(tmp_path)["kind"] == "called"
    assert all(SECRET not in path.read_text() for path in (tmp_path / "audit").iterdir())


def test_a_line_break_or_half_a_character_in_a_text_breaks_no_line(
    make: Make, tmp_path: Path
) -> None:
    log = make(texts=True)
    log.listen(called(reply="one\ntwo\u2028three\ud83d"))
    log.close()
    (path,) = (tmp_path / "audit").iterdir()
    (line,) = path.read_bytes().decode("utf-8").split("\n")[:-1]
    assert json.loads(line)["reply"] == "one\ntwo\u2028three?"


# --- files --------------------------------------------------------------------------------------


def test_only_the_owner_may_read(make: Make, tmp_path: Path) -> None:
    log = make()
    log.listen(called())
    log.close()
    (path,) = (tmp_path / "audit").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_day_of_utc_is_a_file(make: Make, tmp_path: Path, clock: Clock) -> None:
    log = make()
    for now in (NOON, NOON + DAY / 2 - 1, NOON + DAY / 2):
        clock.now = now
        log.listen(called())
    log.close()
    assert {name: len(lines) for name, lines in files(tmp_path).items()} == {
        "audit-2026-01-31.jsonl": 2,
        "audit-2026-02-01.jsonl": 1,
    }


def test_a_full_file_is_followed_by_another_and_never_renamed(make: Make, tmp_path: Path) -> None:
    log = make(max_mb=0.001)  # two lines of some 400 bytes
    for _ in range(5):
        log.listen(called())
    log.close()
    assert {name: len(lines) for name, lines in files(tmp_path).items()} == {
        "audit-2026-01-31.1.jsonl": 2,
        "audit-2026-01-31.2.jsonl": 1,
        "audit-2026-01-31.jsonl": 2,
    }
    again = make(max_mb=0.001)
    again.listen(called())
    again.close()
    assert len(files(tmp_path)["audit-2026-01-31.2.jsonl"]) == 2


def test_a_line_larger_than_a_file_may_be_has_one_for_itself(make: Make, tmp_path: Path) -> None:
    log = make(max_mb=0.0001)
    log.listen(called())
    log.listen(called())
    log.close()
    assert [len(lines) for lines in files(tmp_path).values()] == [1, 1]


def test_old_files_are_deleted_and_strange_ones_are_left_alone(
    make: Make, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    old = {"audit-2026-01-28.jsonl", "audit-2026-01-28.3.jsonl", "audit-2025-12-31.jsonl"}
    kept = {"audit-2026-01-29.jsonl", "audit.jsonl", "audit-2020-01-01.jsonl.gz", "notes.txt"}
    for name in old | kept:
        (folder / name).touch()
    log = make(days=2)
    log.listen(called())
    log.close()
    assert {path.name for path in folder.iterdir()} == kept | {"audit-2026-01-31.jsonl"}


# --- what goes wrong ----------------------------------------------------------------------------


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_folder_that_cannot_be_written_is_told_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit").write_text("a file in the way")
    log = make()
    for _ in range(3):
        log.listen(called())
    log.close()
    assert errors(caplog) == [f"The audit in {tmp_path / 'audit'} is not written: File exists."]


def test_when_it_can_be_written_again_it_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = iter(["full", "half", "well", "full", "well"])
    write = os.write

    def failing(file: int, data: bytes) -> int:
        outcome = next(outcomes)
        if outcome == "full":
            raise OSError(28, "No space left on device")
        return write(file, data[:20] if outcome == "half" else data)

    monkeypatch.setattr(os, "write", failing)
    log = make()
    for _ in range(5):
        log.listen(called())
    log.close()
    lines = (tmp_path / "audit" / "audit-2026-01-31.jsonl").read_text().splitlines()
    assert len(lines[0]) == 20
    assert [json.loads(line)["kind"] for line in lines[1:]] == ["called", "called"]
    assert len(errors(caplog)) == 2


def test_an_old_file_that_cannot_be_deleted_stops_nothing(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit" / "audit-2000-01-01.jsonl").mkdir(parents=True)
    log = make()
    log.listen(called())
    log.close()
    assert (tmp_path / "audit" / "audit-2026-01-31.jsonl").read_text()
    assert "cannot be deleted" in errors(caplog)[0]


def test_listening_never_waits_and_what_is_too_much_is_counted(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writing, disk = threading.Event(), threading.Event()
    write = os.write

    def hanging(file: int, data: bytes) -> int:
        writing.set()
        assert disk.wait(30)
        return write(file, data)

    monkeypatch.setattr(os, "write", hanging)
    log = make()
    log.listen(called())
    assert writing.wait(30)
    for _ in range(1007):
        log.listen(called())
    disk.set()
    log.close()
    assert len(files(tmp_path)["audit-2026-01-31.jsonl"]) == 1001
    assert errors(caplog) == ["The audit was too slow: 7 records are lost."]


def test_it_may_be_closed_twice_and_listened_to_afterwards(make: Make, tmp_path: Path) -> None:
    log = make()
    log.listen(called())
    log.close()
    log.listen(called())
    log.close()
    assert only_line(tmp_path)["kind"] == "called"


WRITER = """
    import sys
    from pathlib import Path
    from rag.audit import AuditLog
    from rag.records import CircuitChanged
    log = AuditLog(Path(sys.argv[1]), max_mb=0.5, clock=lambda: 0.0)
    sys.stdin.read()  # until both are there
    for number in range(900):
        log.listen(CircuitChanged(model=sys.argv[2] + "x" * (number * 7 % 5000), state="open"))
    log.close()
"""


@pytest.mark.slow
def test_two_processes_write_whole_lines_to_the_same_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "audit")]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent)
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    written = files(tmp_path)
    models = [line["model"] for lines in written.values() for line in lines]
    assert sorted(models) == sorted(
        name + "x" * (number * 7 % 5000) for name in "ab" for number in range(900)
    )
    assert len(written) > 5
    assert any({line["model"][0] for line in lines} == {"a", "b"} for lines in written.values())
