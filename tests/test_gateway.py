"""Models through the whole stack, from the engine to scripted servers on loopback and back:
failures, retries, fallback, breaker, keys and money."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rag.errors import ConfigError, InputError
from rag.records import BudgetWarned, KeyRejected
from rag.specs import Budget, ModelSpec, Rule
from rag.types import AnswerEvent, Failed, Filters, Finished, Image, Retried, Token
from tests.scripted_model import (
    DEADLINE,
    NO_CHOICES,
    Behaviour,
    Connection,
    ScriptedModel,
    answer,
    body,
    cut,
    delta,
    events,
    late,
    page,
    silent,
    stalled,
    status,
    unfinished,
)
from tests.served import fake_engine
from tests.services import free_port
from tests.stacks import COST, KEYS, PRICE, QUESTION, Stack, Stacks, named, of, spec, stacks_in

pytestmark = pytest.mark.slow  # real servers on loopback, an ingest for each test


@pytest.fixture
def stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Stacks]:
    yield from stacks_in(tmp_path, monkeypatch, caplog)


# --- what servers do ----------------------------------------------------------------------------

WHOLE = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What must come of a script: the codes of the calls in order ("" went well), and the end.

    `end` is "answer", "extracts" (with `said` in the notice) or the code of a Failed. `charged`
    tells of each call whether it cost anything, `failures` what the breaker counts.
    """

    codes: list[str]
    end: str
    charged: list[bool]
    failures: int
    said: str = ""
    tokens: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


GOOD = answer("15 days [1].")
TIGHT = {"model_timeout": 0.3}
SCRIPTS: dict[str, tuple[list[Behaviour], Outcome]] = {
    "401": (
        [status(401)],
        Outcome(codes=["model_auth"], end="model_auth", charged=[False], failures=1,
                said="rejected the API key (401)"),
    ),
    "403": (
        [status(403)],
        Outcome(codes=["model_auth"], end="model_auth", charged=[False], failures=1, said="(403)"),
    ),
    "404": (
        [status(404)],
        Outcome(codes=["model_request"], end="model_request", charged=[False], failures=0,
                said="no such model or path (404)"),
    ),
    "400": (
        [status(400)],
        Outcome(codes=["model_request"], end="model_request", charged=[False], failures=0,
                said="refused the request (400)"),
    ),
    "408, 409, then an answer": (
        [status(408), status(409), GOOD],
        Outcome(codes=["model_unavailable"] * 2 + [""], end="answer",
                charged=[False, False, True], failures=2),
    ),
    "429 without Retry-After": (
        [status(429), GOOD],
        Outcome(codes=["model_busy", ""], end="answer", charged=[False, True], failures=1),
    ),
    "429 with a short Retry-After": (
        [status(429, {"Retry-After": "0.02"}), GOOD],
        Outcome(codes=["model_busy", ""], end="answer", charged=[False, True], failures=1),
    ),
    "429 with a Retry-After beyond the deadline": (
        [status(429, {"Retry-After": "3600"})],
        Outcome(codes=["model_busy"], end="extracts", charged=[False], failures=1, said="(429)"),
    ),
    "429 because the money is used up": (
        [status(429, message="insufficient_quota")],
        Outcome(codes=["model_auth"], end="model_auth", charged=[False], failures=1, said="quota"),
    ),
    "a storm of 429": (
        [status(429)] * 4,
        Outcome(codes=["model_busy"] * 4, end="extracts", charged=[False] * 4, failures=4,
                said="too many requests"),
    ),
    "a storm of 500": (
        [status(500), status(502), status(503), status(504)],
        Outcome(codes=["model_unavailable"] * 4, end="extracts", charged=[False] * 4, failures=4,
                said="the server failed (504)"),
    ),
    "a storm of 500 with nothing to fall back to": (
        [status(500)] * 4,
        Outcome(codes=["model_unavailable"] * 4, end="model_unavailable", charged=[False] * 4,
                failures=4, settings={"extractive_fallback": False}),
    ),
    "503 that passes": (
        [status(503), status(503), GOOD],
        Outcome(codes=["model_unavailable"] * 2 + [""], end="answer",
                charged=[False, False, True], failures=2),
    ),
    "a first byte that does not come": (
        [silent, GOOD],
        Outcome(codes=["model_timeout", ""], end="answer", charged=[True, True], failures=1,
                settings=TIGHT),
    ),
    "a first byte after the deadline": (
        [silent],
        Outcome(codes=["model_timeout"], end="extracts", charged=[True], failures=1,
                said="sent nothing for 0.45 s",
                settings={"retry_deadline": 0.5, "retry_attempts": 1}),
    ),
    "a stall in mid-stream": (
        [stalled("Fif")],
        Outcome(codes=["model_stream"], end="model_stream", charged=[True], failures=1,
                tokens="Fif", said="sent nothing for 0.3 s", settings=TIGHT),
    ),
    "a cut in mid-stream": (
        [cut("Fif")],
        Outcome(codes=["model_stream"], end="model_stream", charged=[True], failures=1,
                tokens="Fif", said="broke in the middle"),
    ),
    "a cut before the first word": (
        [cut(""), GOOD],
        Outcome(codes=["model_stream", ""], end="answer", charged=[True, True], failures=1),
    ),
    "an end without an end": (
        [unfinished("Fif")],
        Outcome(codes=["model_stream"], end="model_stream", charged=[True], failures=1,
                tokens="Fif", said="stopped in the middle"),
    ),
    "a malformed chunk": (
        [events("{not json")],
        Outcome(codes=["model_format"], end="extracts", charged=[True], failures=1,
                said="not in the OpenAI format"),
    ),
    "a malformed chunk in mid-stream": (
        [events(delta("Fif"), "{not json")],
        Outcome(codes=["model_format"], end="model_format", charged=[True], failures=1,
                tokens="Fif"),
    ),
    "an error within the stream": (
        [events({"error": {"message": "overloaded", "code": "x"}}), GOOD],
        Outcome(codes=["model_stream", ""], end="answer", charged=[True, True], failures=1),
    ),
    "chunks without choices among others": (
        [events(NO_CHOICES, delta("15 days [1]."), NO_CHOICES, delta("", finish="stop"))],
        Outcome(codes=[""], end="answer", charged=[True], failures=0),
    ),
    "nothing but chunks without choices": (
        [events(NO_CHOICES, NO_CHOICES), GOOD],
        Outcome(codes=["model_stream", ""], end="answer", charged=[True, True], failures=1),
    ),
    "the wrong content type": (
        [page],
        Outcome(codes=["model_format"], end="extracts", charged=[True], failures=1),
    ),
    "one JSON in place of a stream": (
        [body(WHOLE | {"choices": []})],
        Outcome(codes=["model_format"], end="extracts", charged=[True], failures=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("script", "expected"), SCRIPTS.values(), ids=SCRIPTS)
def test_what_a_server_does_has_one_outcome(
    stacks: Stacks, script: list[Behaviour], expected: Outcome
) -> None:
    stack, server = stacks.alone(**expected.settings)
    server.next(*script)
    found = stack.ask(caller="ada")
    last = found[-1]

    # the events, in order: every failed try but the last is told before the next one
    retried = of(Retried, found)
    assert [event.code for event in retried] == expected.codes[:-1]
    assert all((e.model, e.next_model) == ("first", "first") and e.reason for e in retried)
    kinds = ["Retrieved", *["Retried"] * bool(retried)]
    if expected.end == "answer":
        assert isinstance(last, Finished)
        assert (last.answer.text, last.answer.model) == ("15 days [1].", "first")
        assert named(found) == [*kinds, "Token", "Cited", "Token", "Finished"]
    elif expected.end == "extracts":
        assert isinstance(last, Finished)
        assert last.answer.model == "extractive"
        assert last.answer.citations
        assert "No chat model can answer now" in last.answer.notice
        assert expected.said in last.answer.notice
    else:
        assert isinstance(last, Failed)
        assert last.code == expected.end
        assert expected.said in last.message
        assert last.hint
        assert "".join(event.text for event in of(Token, found)) == expected.tokens
        assert named(found) == [*kinds, *["Token"] * bool(expected.tokens), "Failed"]

    # the server, the records, the ledger, the breaker and the audit
    assert len(server.requests) == len(expected.codes)
    calls = stack.calls()
    assert [call.code or "" for call in calls] == [
        c.replace("cancelled", "") for c in expected.codes
    ]
    assert [bool(call.usage.cost) for call in calls] == expected.charged
    assert stack.recent_failures("first") == expected.failures
    [row] = stack.booked("caller")
    assert (row.key, row.calls) == ("ada", len(calls))
    assert row.cost == pytest.approx(sum(call.usage.cost or 0 for call in calls))
    audited = stack.audited()
    assert [line["code"] for line in audited] == [call.code for call in calls]
    assert [line["outcome"] for line in audited] == [call.outcome for call in calls]
    assert all(line["caller"] == "ada" and line["model"] == "first" for line in audited)
    assert all("hr/leave.md" in line["documents"] for line in audited)
    assert QUESTION not in json.dumps(audited)


def test_an_answer_costs_what_the_server_reports(stacks: Stacks) -> None:
    stack, _ = stacks.alone()
    usage = stack.answer().usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (120, 7, False)
    assert usage.cost == pytest.approx(COST)
    assert stack.spent() == pytest.approx(COST)


def test_usage_that_a_server_does_not_report_is_estimated_and_marked(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    server.next(answer("15 days [1].", usage=False))
    usage = stack.answer().usage
    assert usage.estimated
    assert 50 < usage.prompt_tokens < 2000
    assert 1 < usage.completion_tokens < 20
    assert usage.cost == pytest.approx(
        usage.prompt_tokens * 0.001 + usage.completion_tokens * 0.002
    )
    [row] = stack.engine.ledger.costs("model")
    assert (row.estimated_calls, row.cost) == (1, pytest.approx(usage.cost))


def test_an_answer_that_is_not_streamed_has_the_same_outcomes(stacks: Stacks) -> None:
    stack, server = stacks.alone(cache=False)
    server.next(status(500), GOOD, body(WHOLE | {"choices": []}))
    first = stack.ask(stream=False)
    assert [event.code for event in of(Retried, first)] == ["model_unavailable"]
    assert first[-1].answer.text == "15 days [1]."
    assert stack.answer(stream=False).model == "extractive"
    assert [call.code for call in stack.calls()] == ["model_unavailable", "", "model_format"]


@pytest.mark.parametrize("asked", ["0.02", "0"])
def test_a_server_that_says_when_to_come_again_is_heeded(stacks: Stacks, asked: str) -> None:
    stack, server = stacks.alone()
    server.next(status(429, {"Retry-After": asked}))
    [retried] = of(Retried, stack.ask())
    assert float(asked) <= retried.wait <= float(asked) + 0.01


def test_a_slow_first_byte_is_waited_for(stacks: Stacks) -> None:
    stack, server = stacks.alone()
    gate = threading.Event()
    server.next(late(gate, GOOD))

    async def run() -> list[AnswerEvent]:
        asking = asyncio.create_task(stack.asked())
        await asyncio.to_thread(server.wait_for, 1)
        assert not asking.done()
        gate.set()
        return await asking

    assert asyncio.run(run())[-1].answer.text == "15 days [1]."
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_tried_again_and_then_told(stacks: Stacks) -> None:
    gone = ModelSpec(name="gone", base_url=f"http://127.0.0.1:{free_port()}/v1", **PRICE)
    stack = stacks.stack(gone, extractive_fallback=False)
    found = stack.ask()
    assert [event.code for event in of(Retried, found)] == ["model_unavailable"] * 3
    assert "cannot be reached" in found[-1].message
    assert [(row.calls, row.cost) for row in stack.booked("model")] == [(4, 0.0)]


def test_who_leaves_ends_the_call_and_it_is_charged(stacks: Stacks) -> None:
    stack, server = stacks.alone(budgets=(Budget(day=100.0),))
    server.next(stalled("Fif"))

    async def leave() -> None:
        asking = stack.engine.ask(QUESTION)
        async for event in asking:
            if isinstance(event, Token):
                break
        await asking.aclose()

    asyncio.run(leave())
    assert server.requests[0].gone.wait(DEADLINE)
    [call] = stack.calls()
    assert (call.outcome, call.code, call.reply) == ("cancelled", "", "Fif")
    assert call.usage.estimated
    assert stack.recent_failures("first") == 0
    [row] = stack.booked("model")
    assert row.cost == pytest.approx(call.usage.cost)
    with closing(fake_engine(stack.engine.settings)) as other:
        [use] = other.ledger.budgets_used()
    assert (use.spent, use.reserved) == (pytest.approx(call.usage.cost), 0.0)


# --- several models -----------------------------------------------------------------------------


@dataclass
class Pair:
    stack: Stack
    first: ScriptedModel
    second: ScriptedModel


def pair(stacks: Stacks, one: dict[str, Any], two: dict[str, Any], **changed: Any) -> Pair:
    first, second = stacks.server(), stacks.server()
    specs = spec("first", first, **one), spec("second", second, **two)
    return Pair(stacks.stack(*specs, **changed), first, second)


def test_the_next_model_answers_where_the_first_is_down(stacks: Stacks) -> None:
    two = pair(stacks, {}, {})
    two.first.next(*[status(500)] * 4)
    found = two.stack.ask()
    told = [(e.model, e.next_model) for e in of(Retried, found)]
    assert told == [("first", "first")] * 3 + [("first", "second")]
    assert found[-1].answer.model == "second"
    assert found[-1].answer.notice == ""
    assert (len(two.first.requests), len(two.second.requests)) == (4, 1)
    assert [line["model"] for line in two.stack.audited()] == ["first"] * 4 + ["second"]


@pytest.mark.parametrize("code", [400, 401, 404])
def test_the_next_model_answers_at_once_what_the_first_refuses(stacks: Stacks, code: int) -> None:
    two = pair(stacks, {}, {})
    two.first.next(status(code))
    assert two.stack.answer().model == "second"
    assert len(two.first.requests) == 1


def test_with_all_models_down_passages_are_quoted_with_a_notice(stacks: Stacks) -> None:
    two = pair(stacks, {}, {}, retry_attempts=1)
    two.first.next(status(401))
    two.second.next(status(500))
    found = two.stack.answer("工作满十年的员工有几天年假？")
    assert found.model == "extractive"
    assert found.notice.startswith("对话模型暂时不可用")
    assert found.citations[0].document == "hr/年假.md"


def test_with_all_models_down_and_nothing_found_no_document_is_blamed(stacks: Stacks) -> None:
    stack, server = stacks.alone(retry_attempts=1)
    server.next(status(500), answer("Nothing is told of it."))
    nowhere = {"filters": Filters(paths=("nowhere/*",)), "tools": ["calculate"]}
    failed = stack.ask(**nowhere)[-1]
    assert failed.code == "model_unavailable"
    assert stack.answer(**nowhere).text == "Nothing is told of it."


def test_once_a_word_was_said_no_other_model_is_asked(stacks: Stacks) -> None:
    two = pair(stacks, {}, {})
    two.first.next(cut("Fif"))
    assert named(two.stack.ask()) == ["Retrieved", "Token", "Failed"]
    assert two.second.requests == []


def test_a_model_asked_for_by_name_is_never_replaced(stacks: Stacks) -> None:
    two = pair(stacks, {}, {}, retry_attempts=2)
    two.first.next(*[status(500)] * 2)
    found = two.stack.ask(model="first")
    assert found[-1].code == "model_unavailable"
    assert two.second.requests == []
    assert two.stack.answer(model="second").model == "second"
    with pytest.raises(InputError, match="no model 'third'"):
        two.stack.ask(model="third")


def test_priority_and_price_decide_who_is_asked_first(stacks: Stacks) -> None:
    two = pair(stacks, {"priority": 5}, {"priority": 1, "price_out": 9000.0}, cache=False)
    assert two.stack.answer().model == "second"
    cheap = stacks.stack(*two.stack.engine.settings.models, route_by="price", cache=False)
    assert cheap.answer().model == "first"


RULES: dict[str, tuple[Rule, dict[str, Any]]] = {
    "pattern": (Rule(use=("second",), pattern="annual|年假"), {}),
    "preset": (Rule(use=("second",), preset="customer_support"), {"preset": "customer_support"}),
    "tools": (Rule(use=("second",), tools=True), {"tools": ["calculate"]}),
    "caller": (Rule(use=("second",), caller="ada"), {"caller": "ada"}),
    "longer": (Rule(use=("second",), longer_than=10), {}),
    "tag of a model": (Rule(use=("big",)), {}),
}


@pytest.mark.parametrize(("rule", "options"), RULES.values(), ids=RULES)
def test_a_rule_chooses_the_model(stacks: Stacks, rule: Rule, options: dict[str, Any]) -> None:
    two = pair(stacks, {}, {"tags": "big"}, rules=(rule,))
    assert two.stack.answer(**options).model == "second"
    assert two.first.requests == []


def test_a_rule_that_does_not_fit_changes_nothing(stacks: Stacks) -> None:
    two = pair(stacks, {}, {}, rules=(Rule(use=("second",), pattern="invoice"),))
    assert two.stack.answer().model == "first"


def test_a_picture_goes_to_a_model_that_sees(stacks: Stacks) -> None:
    two = pair(stacks, {"vision": False}, {"vision": True})
    picture = Image("image/png", png())
    assert two.stack.answer(images=[picture]).model == "second"
    [request] = two.second.requests
    assert request.body["messages"][-1]["content"][1]["type"] == "image_url"
    assert two.first.requests == []


def png() -> bytes:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.new("RGB", (2, 2), "red").save(file, "PNG")
    return file.getvalue()


# --- the circuit breaker ------------------------------------------------------------------------


def test_a_model_that_fails_too_often_is_left_alone(stacks: Stacks) -> None:
    stack, server = stacks.alone(retry_attempts=1, breaker_failures=3, cache=False)
    server.next(*[status(500)] * 3)
    for _ in range(3):
        stack.ask()
    assert stack.circuits() == [("first", "open")]
    found = stack.answer()
    assert "failed too often" in found.notice
    assert found.model == "extractive"
    assert len(server.requests) == 3
    assert len(stack.calls()) == 3  # what is not sent is no call


def test_an_open_circuit_fails_at_once_where_a_model_was_named(stacks: Stacks) -> None:
    stack, server = stacks.alone(retry_attempts=4, breaker_failures=2)
    server.next(*[status(500)] * 2)
    found = stack.ask(model="first")
    assert (found[-1].code, found[-1].retryable) == ("circuit_open", True)
    assert len(server.requests) == 2  # the tries that were left are not made


BROKEN = {"retry_attempts": 1, "breaker_failures": 2, "breaker_open": 30.0, "cache": False}


def test_an_open_circuit_is_tried_again_and_closes(stacks: Stacks) -> None:
    stack, server = stacks.alone(**BROKEN, breaker_successes=2)
    clock = stack.clock("first")
    server.next(status(500), status(500))
    for _ in range(2):
        stack.ask()
    clock.advance(29)
    assert stack.answer().model == "extractive"
    clock.advance(2)
    assert [stack.answer().model for _ in range(2)] == ["first", "first"]
    assert stack.circuits() == [("first", "open"), ("first", "half_open"), ("first", "closed")]
    assert len(server.requests) == 4


def test_a_probe_that_fails_opens_it_again(stacks: Stacks) -> None:
    stack, server = stacks.alone(**BROKEN)
    clock = stack.clock("first")
    server.next(*[status(500)] * 3)
    for _ in range(2):
        stack.ask()
    clock.advance(31)
    for _ in range(2):
        stack.ask()
    assert [state for _, state in stack.circuits()] == ["open", "half_open", "open"]
    assert len(server.requests) == 3


def test_a_probe_that_times_out_late_opens_it_again(stacks: Stacks) -> None:
    """A server that hangs is given RAG_MODEL_TIMEOUT, longer than RAG_BREAKER_OPEN."""
    stack, server = stacks.alone(**BROKEN, model_timeout=0.3)
    clock = stack.clock("first")

    def hanging(connection: Connection) -> None:
        clock.advance(60)
        silent(connection)

    server.next(status(500), status(500), hanging)
    for _ in range(2):
        stack.ask()
    clock.advance(31)
    for _ in range(2):
        stack.ask()
    assert [state for _, state in stack.circuits()] == ["open", "half_open", "open"]
    assert len(server.requests) == 3


def test_a_probe_that_answers_at_length_closes_it(stacks: Stacks) -> None:
    stack, server = stacks.alone(**BROKEN, breaker_successes=1)
    clock = stack.clock("first")

    def long(connection: Connection) -> None:
        clock.advance(60)
        answer("15 days [1].")(connection)

    server.next(status(500), status(500), long)
    for _ in range(2):
        stack.ask()
    clock.advance(31)
    assert stack.answer().model == "first"
    assert [state for _, state in stack.circuits()] == ["open", "half_open", "closed"]


# --- keys ---------------------------------------------------------------------------------------


@pytest.fixture
def two_keys(monkeypatch: pytest.MonkeyPatch, stacks: Stacks) -> Stacks:
    monkeypatch.setenv("TEST_KEY", ",".join(KEYS))
    return stacks


def keys_sent(server: ScriptedModel) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]


def test_keys_take_turns(two_keys: Stacks) -> None:
    stack, server = two_keys.alone(cache=False)
    for _ in range(4):
        stack.ask()
    assert sorted(keys_sent(server)) == sorted(KEYS * 2)


def test_a_rejected_key_is_set_aside_and_said_so(
    two_keys: Stacks, caplog: pytest.LogCaptureFixture
) -> None:
    stack, server = two_keys.alone(cache=False)
    server.next(status(401))
    found = stack.ask()
    assert named(found) == ["Retrieved", "Token", "Cited", "Finished"]
    assert keys_sent(server) == list(KEYS)
    [rejected] = [record for record in stack.records if isinstance(record, KeyRejected)]
    assert rejected == KeyRejected(model="first", key="key 1 of 2 in TEST_KEY")
    assert "key 1 of 2 in TEST_KEY was rejected" in caplog.text
    stack.ask()
    assert keys_sent(server) == [*KEYS, KEYS[1]]
    assert stack.recent_failures("first") == 0
    assert [call.outcome for call in stack.calls()] == ["ok", "ok"]


def test_a_busy_key_makes_way_for_the_next(two_keys: Stacks) -> None:
    stack, server = two_keys.alone()
    server.next(status(429, {"Retry-After": "3600"}))
    assert stack.answer().model == "first"
    assert keys_sent(server) == list(KEYS)


def test_with_all_keys_rejected_it_is_said(two_keys: Stacks) -> None:
    stack, server = two_keys.alone(cache=False)
    server.next(status(401), status(401))
    failed = stack.ask()[-1]
    assert failed.code == "model_auth"
    assert "all 2 API keys were rejected" in failed.message
    assert stack.ask()[-1].code == "model_auth"
    assert len(server.requests) == 2  # neither key is tried again yet


# --- money --------------------------------------------------------------------------------------


def test_a_budget_refuses_before_the_call(stacks: Stacks) -> None:
    stack, server = stacks.alone(budgets=(Budget(day=0.01),), extractive_fallback=False)
    failed = stack.ask()[-1]
    assert failed.code == "budget"
    assert "budget of $0.01" in failed.message
    assert (server.requests, stack.calls(), stack.spent()) == ([], [], 0.0)


def test_out_of_budget_passages_are_quoted_and_it_is_said(stacks: Stacks) -> None:
    stack, server = stacks.alone(budgets=(Budget(day=0.01),))
    found = stack.answer()
    assert found.model == "extractive"
    assert "budget of $0.01" in found.notice
    assert server.requests == []


def test_out_of_budget_the_next_model_answers(stacks: Stacks) -> None:
    two = pair(
        stacks, {}, {"price_in": 0.0, "price_out": 0.0}, budgets=(Budget(model="first", day=0.01),)
    )
    assert two.stack.answer().model == "second"
    assert two.first.requests == []


def test_questions_at_once_never_pass_a_budget(stacks: Stacks) -> None:
    free_to_ask = {"price_in": 0.0, "price_out": 1000.0}  # at most $0.016, at last $0.007
    server = stacks.server()
    stack = stacks.stack(
        spec("first", server, **free_to_ask),
        budgets=(Budget(day=0.05),),
        max_answer_tokens=16,
        cache=False,
        extractive_fallback=False,
    )

    async def many() -> list[list[AnswerEvent]]:
        return await asyncio.gather(*(stack.asked() for _ in range(20)))

    ends = [found[-1] for found in asyncio.run(many())] + [stack.ask()[-1] for _ in range(6)]
    answered = [end for end in ends if isinstance(end, Finished)]
    assert {end.code for end in ends if isinstance(end, Failed)} == {"budget"}
    assert len(server.requests) == len(answered)
    assert stack.spent() == pytest.approx(len(answered) * 0.007)
    assert 0.05 - 0.016 < stack.spent() <= 0.05
    [use] = stack.engine.ledger.budgets_used()
    assert use.reserved == 0.0


def test_a_budget_warns_once_before_it_refuses(
    stacks: Stacks, caplog: pytest.LogCaptureFixture
) -> None:
    server = stacks.server()
    stack = stacks.stack(
        spec("first", server, price_in=0.0, price_out=1000.0),
        budgets=(Budget(day=0.1),),
        max_answer_tokens=16,
        cache=False,
        extractive_fallback=False,
    )
    while isinstance(stack.ask()[-1], Finished):
        assert len(server.requests) < 30
    stack.engine.close()  # the last of it is told from another thread
    [warned] = [record for record in stack.records if isinstance(record, BudgetWarned)]
    assert 0.8 <= warned.share < 1
    assert warned.limit == 0.1


def test_each_caller_has_a_budget_of_its_own(stacks: Stacks) -> None:
    stack, _ = stacks.alone(
        budgets=(Budget(caller="*", day=2.8),), cache=False, extractive_fallback=False
    )
    spent = {"ada": 0, "bob": 0}
    for caller in spent:
        while isinstance(stack.ask(caller=caller)[-1], Finished):
            spent[caller] += 1
            assert spent[caller] < 30
    assert spent["ada"] == spent["bob"] > 0


def test_a_budget_needs_a_price(stacks: Stacks) -> None:
    server = stacks.server()
    unpriced = spec("first", server, price_in=None, price_out=None)
    stack = stacks.stack(unpriced, budgets=(Budget(day=1.0),))
    with pytest.raises(ConfigError, match="The price of first is not known") as caught:
        stack.ask()
    assert "price_in and price_out" in caught.value.hint
    assert server.requests == []


def test_without_a_budget_an_unknown_price_is_counted_as_such(stacks: Stacks) -> None:
    server = stacks.server()
    stack = stacks.stack(spec("first", server, price_in=None, price_out=None))
    assert stack.answer().usage.cost is None
    [row] = stack.engine.ledger.costs("model")
    assert (row.calls, row.unknown_cost_calls, row.cost) == (1, 1, 0.0)
