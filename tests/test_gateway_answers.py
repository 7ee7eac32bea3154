"""Answers through the whole stack, from the engine to a scripted server on loopback and back:
cache, tools, schemas, what is too long, and approval."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rag.errors import InputError
from rag.records import CacheAsked
from rag.specs import DatabaseSpec, PresetSpec
from rag.tools import tool
from rag.types import (
    AnswerEvent,
    Cited,
    Finished,
    Held,
    Message,
    Retried,
    Retrieved,
    Token,
    ToolUsed,
)
from tests.scripted_model import DEADLINE, Behaviour, answer, cut, gated, status, tool_calls
from tests.stacks import COST, QUESTION, Stacks, named, of, spec, stacks_in

GOOD = answer("15 days [1].")
TOO_LONG = status(400, message="context_length_exceeded")


pytestmark = pytest.mark.slow  # real servers on loopback, an ingest for each test


@pytest.fixture
def stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Stacks]:
    yield from stacks_in(tmp_path, monkeypatch, caplog)


# --- the cache ----------------------------------------------------------------------------------


def test_the_same_question_is_paid_once_and_streams_again(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    first = stack.ask()
    second = stack.ask(f"  {QUESTION} ")
    assert len(server.requests) == 1
    assert named(first) == named(second)
    assert of(Token, first) == of(Token, second)
    assert (first[-1].answer.cached, second[-1].answer.cached) == (False, True)
    assert second[-1].answer.usage.cost == pytest.approx(COST)
    assert stack.spent() == pytest.approx(COST)
    assert stack.cached() == ["miss", "hit"]
    saved = [record.saved for record in stack.records if isinstance(record, CacheAsked)]
    assert saved == pytest.approx([0.0, COST])


DIFFERENT: list[dict[str, Any]] = [
    {"question": "How long is annual leave?"},
    {"history": (Message("user", "Hello?"), Message("assistant", "Hello."))},
    {"top_k": 1},
    {"preset": "customer_support"},
    {"tools": ["calculate"]},
    {"knowledge_base": "other"},
    {"model": "first"},
]


@pytest.mark.parametrize("different", DIFFERENT, ids=[next(iter(d)) for d in DIFFERENT])
def test_what_is_asked_otherwise_is_asked_anew(stacks: Stacks, different: dict[str, Any]) -> None:
    stack, server = stacks.alone()
    stack.engine.ingest([stack.root / "documents"], knowledge_base="other")
    stack.ask()
    assert not stack.answer(**different).cached
    assert len(server.requests) == 2


def test_a_changed_document_never_serves_an_old_answer(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    assert "15 days" in stack.answer().text
    changed = stack.root / "documents" / "hr" / "leave.md"
    changed.write_text("# Annual leave\n\nAfter ten years of service: 20 days.\n")
    stack.engine.ingest([stack.root / "documents"])
    found = stack.answer()
    assert "20 days" in found.text
    assert not found.cached
    assert len(server.requests) == 2
    assert stack.answer().cached


def test_many_equal_questions_at_once_are_one_call(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    gate = threading.Event()
    server.next(gated(gate, "Fif", "teen days [1]."))
    waiting = 20

    async def many() -> list[list[AnswerEvent]]:
        streamed = asyncio.Semaphore(0)

        async def one() -> list[AnswerEvent]:
            found = []
            async for event in stack.engine.ask(QUESTION):
                found.append(event)
                if isinstance(event, Token) and event.text == "Fif":
                    streamed.release()
            return found

        asking = [asyncio.create_task(one()) for _ in range(waiting)]
        for _ in asking:  # each gets its stream while the model still writes
            await asyncio.wait_for(streamed.acquire(), DEADLINE)
        gate.set()
        return await asyncio.gather(*asking)

    answers = [found[-1].answer for found in asyncio.run(many())]
    assert {found.text for found in answers} == {"Fifteen days [1]."}
    assert sum(found.cached for found in answers) == waiting - 1
    assert len(server.requests) == 1
    assert sorted(stack.cached()) == ["joined"] * (waiting - 1) + ["miss"]


def test_who_wants_no_kept_answer_gets_a_new_one(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    stack.ask()
    assert not stack.answer(cache=False).cached
    assert len(server.requests) == 2
    assert stack.cached() == ["miss", "bypassed"]


@pytest.mark.parametrize(("seconds", "requests"), [(0.0001, 2), (60.0, 1)])
def test_refusals_are_kept_for_a_time_of_their_own(
    stacks: Stacks, seconds: float, requests: int
) -> None:
    stack, server = stacks.alone(cache_refusal_ttl=seconds)
    refusal = answer("The documents do not hold an answer to this question.")
    server.next(refusal, refusal)
    assert stack.answer().refused
    assert stack.answer().refused
    assert len(server.requests) == requests


@pytest.mark.parametrize("script", [[cut("Fif")], [status(500)] * 4], ids=["broken", "extracts"])
def test_what_failed_is_not_kept(stacks: Stacks, script: list[Behaviour]) -> None:
    stack, server = stacks.alone()
    server.next(*script, GOOD)
    stack.ask()
    assert stack.answer().text == "15 days [1]."


# --- tools --------------------------------------------------------------------------------------

SUM = ("calculate", '{"expression": "15 * 8"}')


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_call_cut_anywhere_is_put_together(stacks: Stacks, size: int, bytewise: bool) -> None:
    stack, server = stacks.alone()
    wanted = '{"question": "工作满十年🏖️ \\u5e74\\u5047 \\"hotel\\""}'
    server.next(
        tool_calls(("search_knowledge", wanted), size=size, bytewise=bytewise),
        answer("15 days [1]."),
    )
    found = stack.ask(tools=["search_knowledge"])
    [used] = of(ToolUsed, found)
    assert (used.name, used.arguments, used.failed) == ("search_knowledge", wanted, False)
    said = server.requests[1].body["messages"][-2]
    assert said["tool_calls"][0]["function"]["arguments"] == wanted


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_tool_found_is_sent_back_and_the_answer_follows(
    stacks: Stacks, stream: bool
) -> None:
    stack, server = stacks.alone()
    server.next(tool_calls(SUM), answer("120 hours [1]."))
    found = stack.ask(tools=["calculate"], stream=stream)
    assert named(found) == ["Retrieved", "ToolUsed", "Token", "Cited", "Token", "Finished"]
    [used] = of(ToolUsed, found)
    assert (used.name, used.result, used.failed) == ("calculate", "120", False)
    offered = [t["function"]["name"] for t in server.requests[0].body["tools"]]
    assert offered == ["calculate"]
    asked, result = server.requests[1].body["messages"][-2:]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"] == "call_0"
    assert (result["role"], result["content"]) == ("tool", "120")
    usage = found[-1].answer.usage  # of both calls
    assert (usage.prompt_tokens, usage.completion_tokens) == (240, 14)
    assert usage.cost == pytest.approx(2 * COST)
    assert stack.spent() == pytest.approx(2 * COST)


def test_a_second_search_finds_what_the_first_did_not(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    wanted = '{"question": "hotel in Shanghai", "passages": 1}'
    server.next(tool_calls(("search_knowledge", wanted)), answer("At most 650 a night [2]."))
    found = stack.ask(top_k=1, tools=["search_knowledge"])
    before, after = of(Retrieved, found)
    assert [hit.document for hit in before.hits] == ["hr/leave.md"]
    assert [hit.document for hit in after.hits] == ["hr/leave.md", "it/travel.txt"]
    [cited] = of(Cited, found)
    assert (cited.citation.n, cited.citation.document) == (2, "it/travel.txt")
    assert "650" in cited.citation.quote
    assert '<source n="2"' in server.requests[1].body["messages"][-1]["content"]
    assert stack.ask(top_k=1, tools=["search_knowledge"])[-1].answer.cached


def test_calls_of_one_turn_run_at_once(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    @tool
    def meet(name: str) -> str:
        """Returns when the other one is here too."""
        together.wait(DEADLINE)
        return f"met {name}"

    module = ModuleType("tools_of_a_test")
    module.meet = meet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    stack, server = stacks.alone(tool_modules=(module.__name__,))
    server.next(tool_calls(("meet", '{"name": "a"}'), ("meet", '{"name": "b"}')), GOOD)
    found = stack.ask(tools=["meet"])
    assert [used.failed for used in of(ToolUsed, found)] == [False, False]
    results = server.requests[1].body["messages"][-2:]
    assert [(m["tool_call_id"], m["content"]) for m in results] == [
        ("call_0", "met a"), ("call_1", "met b"),
    ]  # fmt: skip
    stack.ask(tools=["meet"])
    assert len(server.requests) == 3  # what an unknown tool told is not kept for another time


def test_after_the_last_step_the_model_has_to_answer(stacks: Stacks) -> None:
    stack, server = stacks.alone(tool_steps=2)
    server.next(tool_calls(SUM), tool_calls(SUM), GOOD)
    assert stack.answer(tools=["calculate"]).text == "15 days [1]."
    assert ["tools" in request.body for request in server.requests] == [True, True, False]
    assert server.requests[2].question.startswith("No more tools")


def test_a_tool_that_hangs_is_given_up(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    @tool
    async def hang() -> str:
        """Never returns."""
        await asyncio.Event().wait()
        return ""

    module = ModuleType("tools_of_a_test")
    module.hang = hang  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    stack, server = stacks.alone(tool_modules=(module.__name__,), tool_seconds=0.3)
    server.next(tool_calls(("hang", "{}")), GOOD)
    found = stack.ask(tools=["hang"])
    [used] = of(ToolUsed, found)
    assert used.failed
    assert "took longer than" in used.result
    assert "tools" not in server.requests[1].body  # the time is used up
    assert found[-1].answer.text == "15 days [1]."


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("calculate", '{"expression": "1/0"}'), "zero"),
        (("calculate", '{"expression": 1'), "JSON"),
        (("calculate", '{"sum": "1"}'), "expression"),
        (("launch", "{}"), "There is no tool 'launch'. Tools: calculate."),
        (("calculate", '{"expression": "__import__(\\"os\\")"}'), ""),
    ],
)
def test_what_goes_wrong_in_a_tool_is_told_to_the_model(
    stacks: Stacks, call: tuple[str, str], said: str
) -> None:
    stack, server = stacks.alone()
    server.next(tool_calls(call), GOOD)
    found = stack.ask(tools=["calculate"])
    [used] = of(ToolUsed, found)
    assert used.failed
    assert said in used.result
    assert server.requests[1].body["messages"][-1]["content"] == used.result
    assert isinstance(found[-1], Finished)


def test_a_database_is_described_and_read_but_never_changed(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stacks.root / "sales.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE invoices (town TEXT, total INTEGER)")
        database.execute("INSERT INTO invoices VALUES ('上海', 650)")
    monkeypatch.setenv("SALES_URL", f"sqlite:///{file}")
    stack, server = stacks.alone(databases=(DatabaseSpec(name="sales", url_env="SALES_URL"),))
    read = {"database": "sales", "sql": "SELECT town, total FROM invoices"}
    drop = {"database": "sales", "sql": "DELETE FROM invoices"}
    server.next(
        tool_calls(*(("query_database", json.dumps(wanted)) for wanted in (read, drop))),
        answer("650."),
    )
    found = stack.ask(tools=["query_database"])
    results = {used.arguments: used for used in of(ToolUsed, found)}
    told, refused = (results[json.dumps(wanted)] for wanted in (read, drop))
    assert not told.failed
    assert "上海" in told.result
    assert "650" in told.result
    assert refused.failed
    described = json.dumps(server.requests[0].body["tools"])
    assert "invoices" in described
    assert "town" in described
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM invoices").fetchone() == (1,)
    assert found[-1].answer.notice  # that it rests on a tool, not on documents
    stack.ask(tools=["query_database"])
    assert len(server.requests) == 3  # the database may say something else by then


def test_a_tool_that_is_not_here_is_refused(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    with pytest.raises(InputError, match="no tool 'launch'"):
        stack.ask(tools=["launch"])
    assert server.requests == []


def test_a_model_without_tools_is_given_them_in_words(stacks: Stacks) -> None:
    server = stacks.server()
    stack = stacks.stack(spec("first", server, tools=False))
    written = '{"tool_calls": [{"name": "calculate", "arguments": {"expression": "15 * 8"}}]}'
    server.next(answer(*written), answer("120 hours [1]."))
    found = stack.ask(preset="analyst")
    [used] = of(ToolUsed, found)
    assert (used.name, used.result) == ("calculate", "120")
    assert found[-1].answer.text == "120 hours [1]."
    first, second = (request.body for request in server.requests)
    assert "tools" not in first
    assert "search_knowledge" in first["messages"][0]["content"]
    assert {message["role"] for message in second["messages"]} <= {"system", "user", "assistant"}
    assert "120" in second["messages"][-1]["content"]


def test_what_was_paid_before_the_model_failed_is_told(stacks: Stacks) -> None:
    stack, server = stacks.alone(retry_attempts=1)
    server.next(tool_calls(SUM), status(500))
    found = stack.answer(tools=["calculate"])
    assert found.model == "extractive"
    assert stack.calls()[0].usage.cost == pytest.approx(COST)
    assert found.usage.cost == pytest.approx(COST)


# --- schemas ------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
FITS = '{"answer": {"days": 15}, "sources": [1]}'
MISFIT = '{"answer": {"days": "fifteen"}, "sources": [1]}'


@pytest.mark.parametrize("enforced", [True, False])
def test_data_that_fits_the_schema_is_the_answer(stacks: Stacks, enforced: bool) -> None:
    server = stacks.server()
    stack = stacks.stack(spec("first", server, schema_mode=enforced))
    server.next(answer(*FITS))
    found = stack.ask(schema=SCHEMA)
    assert named(found) == ["Retrieved", "Token", "Cited", "Finished"]
    result = found[-1].answer
    assert result.data == json.loads(result.text) == {"days": 15}
    assert result.citations[0].document == "hr/leave.md"
    assert ("response_format" in server.requests[0].body) is enforced
    assert stack.answer(schema=SCHEMA).cached
    assert len(server.requests) == 1


def test_a_schema_does_not_keep_a_model_from_calling_tools_in_words(stacks: Stacks) -> None:
    """A server that holds every reply to the schema, as llama.cpp does, would let no call pass."""
    server = stacks.server()
    stack = stacks.stack(spec("first", server, tools=False, schema_mode=True))
    written = '{"tool_calls": [{"name": "calculate", "arguments": {"expression": "3 * 5"}}]}'
    server.next(answer(written), answer(FITS))
    found = stack.ask(schema=SCHEMA, tools=["calculate"])
    assert [used.result for used in of(ToolUsed, found)] == ["15"]
    assert found[-1].answer.data == {"days": 15}
    assert "response_format" not in server.requests[0].body


def test_data_that_does_not_fit_is_repaired_once(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(answer(MISFIT), answer(FITS))
    result = stack.answer(schema=SCHEMA)
    assert result.data == {"days": 15}
    asked = server.requests[1].body["messages"]
    assert asked[-2] == {"role": "assistant", "content": MISFIT}
    assert "/answer/days" in asked[-1]["content"]
    assert result.usage.cost == pytest.approx(2 * COST)


def test_data_that_never_fits_is_an_error_without_a_word(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(answer(MISFIT), answer("no JSON at all"))
    found = stack.ask(schema=SCHEMA)
    assert named(found) == ["Retrieved", "Failed"]
    assert found[-1].code == "schema"
    assert len(server.requests) == 2


def test_a_schema_that_is_none_is_refused_before_anything_is_asked(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    with pytest.raises(InputError):
        stack.ask(schema={"type": "nonsense"})
    with pytest.raises(InputError, match="schema"):
        stack.ask(schema=SCHEMA, model="extractive")
    assert server.requests == []


# --- too long -----------------------------------------------------------------------------------

TURNS = tuple(
    message
    for n in range(4)
    for message in (Message("user", f"question {n}?"), Message("assistant", f"answer {n}."))
)


def test_too_long_for_the_model_first_turns_are_left_out_then_passages(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(*[TOO_LONG] * 4)
    found = stack.ask(history=TURNS)
    result = found[-1].answer
    sizes = [(len(r.body["messages"]) - 2, len(r.sources)) for r in server.requests]
    turns, passages = zip(*sizes, strict=True)
    assert (turns[0], turns[-1]) == (8, 0)
    assert sorted(turns, reverse=True) == list(turns)
    assert sorted(passages, reverse=True) == list(passages)
    assert passages[turns.index(0)] == passages[0] > passages[-1] >= 1
    assert result.notice == (
        f"Too long for the model: 4 earlier turns and {passages[0] - passages[-1]} passages"
        " were left out."
    )
    assert result.citations
    assert of(Retried, found) == []
    assert stack.recent_failures("first") == 0


def test_too_long_after_a_tool_turns_and_passages_are_left_out_too(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(tool_calls(SUM), TOO_LONG, TOO_LONG)
    found = stack.answer(history=TURNS, tools=["calculate"])
    assert found.model == "first"
    assert "Too long for the model" in found.notice
    sizes = [len(request.body["messages"]) for request in server.requests]
    assert sizes[1] > sizes[2] > sizes[3]


def test_what_no_model_can_hold_is_said(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(*[TOO_LONG] * 30)
    failed = stack.ask()[-1]
    assert (failed.code, failed.retryable) == ("context_too_long", False)
    assert len(server.requests) < 8


# --- approval -----------------------------------------------------------------------------------

MEDICAL = {"presets": {"medical": PresetSpec(review=True)}}


def test_an_answer_that_needs_approval_is_held_and_nothing_of_it_leaks(stacks: Stacks) -> None:
    stack, _ = stacks.alone(**MEDICAL)
    found = stack.ask(preset="medical", session_id="s1", caller="ada")
    assert named(found) == ["Retrieved", "Held"]
    held = found[-1]
    assert isinstance(held, Held)
    assert held.reason == "preset medical"
    [waiting] = stack.engine.reviews.list("waiting")
    assert (waiting.id, waiting.caller, waiting.question) == (held.review_id, "ada", QUESTION)
    assert stack.engine.sessions.history("s1") == ()
    decided = stack.engine.decide(held.review_id, approve=True, reviewer="eve", note="Fine.")
    assert (decided.state, decided.reviewer, decided.note) == ("approved", "eve", "Fine.")
    text = stack.engine.reviews.get(held.review_id).answer["answer"]
    assert text.endswith("15 days of annual leave. [1]")
    assert stack.engine.sessions.history("s1") == (
        Message("user", QUESTION), Message("assistant", text),
    )  # fmt: skip
    with pytest.raises(InputError):
        stack.engine.decide(held.review_id, approve=False, reviewer="eve")


def test_a_rejected_answer_is_never_remembered(stacks: Stacks) -> None:
    stack, _ = stacks.alone(**MEDICAL)
    held = stack.ask(preset="medical", session_id="s1")[-1]
    stack.engine.decide(held.review_id, approve=False, reviewer="eve")
    assert stack.engine.sessions.history("s1") == ()


def test_answers_from_marked_documents_are_held(stacks: Stacks) -> None:
    stack, _ = stacks.alone(review_tags=("hr",))
    assert [e.reason for e in of(Held, stack.ask())] == ["tag hr"]
    open_ = stacks.stack(*stack.engine.settings.models, review_tags=("finance",))
    assert named(open_.ask())[-1] == "Finished"


def test_what_a_second_search_finds_may_need_approval(stacks: Stacks) -> None:
    stack, server = stacks.alone(review_tags=("secret",))
    secret = stack.root / "secret.txt"
    secret.write_text("The zebra project ends in May.\n")
    stack.engine.ingest([secret], tags=["secret"])
    wanted = '{"question": "zebra project", "passages": 1}'
    server.next(tool_calls(("search_knowledge", wanted)), answer("In May [2]."))
    found = stack.ask(top_k=1, tools=["search_knowledge"])
    assert named(found) == ["Retrieved", "Held"]
    assert found[-1].reason == "tag secret"


def test_a_kept_answer_needs_approval_like_the_first(stacks: Stacks) -> None:
    stack, server = stacks.alone(**MEDICAL)
    first, second = (stack.ask(preset="medical")[-1] for _ in range(2))
    assert first.review_id != second.review_id
    assert len(server.requests) == 1
