"""What `rag models check` finds out, and how little it asks for it."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncGenerator, Iterator

import pytest

from rag.chat.check import CheckResult, check, check_all
from rag.chat.client import OpenAIChat
from rag.errors import ModelBusyError, ModelFormatError, ModelRequestError, RagError
from rag.types import Abilities, ChatModel, ChatRequest, Delta, ModelEvent, Retried, Usage
from tests.scripted_model import ScriptedModel, answer, body, events, page, silent, status

KEY = "sk-loopback-0123456789"


class Fake:
    """A model that plays one list of events or errors a call, and keeps what it was asked."""

    def __init__(self, *plays: list[ModelEvent] | RagError, tools: bool = False) -> None:
        self.name = "fake"
        self.abilities = Abilities(context_window=4096, tools=tools)
        self.asked: list[ChatRequest] = []
        self._plays = list(plays)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        self.asked.append(request)
        play = self._plays.pop(0)
        if isinstance(play, RagError):
            raise play
        for event in play:
            yield event

    async def aclose(self) -> None:
        pass


OK: list[ModelEvent] = [Delta("ok"), Delta(finish_reason="length"), Delta(usage=Usage(9, 1))]
REFUSED = ModelRequestError("fake: the server refused the request (400).", "Read its log.")


# --- what is asked --------------------------------------------------------------------------------


def test_one_token_is_asked_for_in_one_call() -> None:
    fake = Fake(OK)
    result = asyncio.run(check(fake))
    assert [(r.max_tokens, r.stream, r.tools) for r in fake.asked] == [(1, True, ())]
    assert (result.ok, result.streams, result.tools, result.usage_reported) == (
        True,
        True,
        None,
        True,
    )


def test_a_second_call_describes_a_tool_to_a_model_said_to_take_them() -> None:
    fake = Fake(OK, OK, tools=True)
    assert asyncio.run(check(fake)).tools is True
    assert [len(r.tools) for r in fake.asked] == [0, 1]
    assert fake.asked[1].max_tokens == 16


def test_refusing_the_tool_is_no_failure_of_the_model() -> None:
    result = asyncio.run(check(Fake(OK, REFUSED, tools=True)))
    assert (result.ok, result.tools, result.problem) == (True, False, "")


def test_another_error_at_the_tool_is_told_but_leaves_tools_unknown() -> None:
    busy = ModelBusyError("fake: too many requests.", "Try again later.")
    result = asyncio.run(check(Fake(OK, busy, tools=True)))
    assert (result.ok, result.tools) == (True, None)
    assert (result.problem, result.hint) == ("fake: too many requests.", "Try again later.")


def test_a_model_that_needs_more_than_one_token_to_begin_is_given_more() -> None:
    fake = Fake(REFUSED, OK, OK, tools=True)
    result = asyncio.run(check(fake))
    assert (result.ok, result.tools) == (True, True)
    assert [r.max_tokens for r in fake.asked] == [1, 256, 256]


def test_seconds_are_those_of_the_first_call() -> None:
    ticks = itertools.count(10.0, 0.5)  # started, first piece, end
    retried = Retried(model="fake", next_model="fake", code="model_busy", reason="")
    result = asyncio.run(check(Fake([retried, *OK], OK, tools=True), clock=lambda: next(ticks)))
    assert (result.first_token, result.total) == (0.5, 1.0)


def test_missing_usage_is_told() -> None:
    assert not asyncio.run(check(Fake([Delta("ok", finish_reason="stop")]))).usage_reported


def test_a_model_that_answers_only_in_one_piece_is_told_so() -> None:
    fake = Fake(ModelFormatError("fake: not the format (no events)."), OK)
    result = asyncio.run(check(fake))
    assert (result.ok, result.streams) == (False, False)
    assert result.problem == "fake: the server answers, but does not stream."
    assert [r.stream for r in fake.asked] == [True, False]


def test_a_bug_is_not_taken_for_a_broken_model() -> None:
    class Broken(Fake):
        async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
            raise ZeroDivisionError
            yield Delta()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(check(Broken()))


def test_all_are_checked_in_order_and_no_more_than_allowed_at_a_time() -> None:
    running = most = 0

    class Slow(Fake):
        async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            async for event in super().chat(request):
                yield event

    models: list[ChatModel] = []
    for n in range(7):
        fake = Slow(REFUSED, REFUSED) if n == 3 else Slow(OK)
        fake.name = f"m{n}"
        models.append(fake)
    results = asyncio.run(check_all(models, concurrency=2))
    assert [r.name for r in results] == [f"m{n}" for n in range(7)]
    assert [r.ok for r in results] == [n != 3 for n in range(7)]
    assert most == 2


# --- over the wire --------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ScriptedModel]:
    with ScriptedModel() as scripted:
        yield scripted


def checked(url: str, *, tools: bool = False, timeout: float = 5.0) -> CheckResult:
    async def run() -> CheckResult:
        client = OpenAIChat(
            "gpt-test",
            api_key=KEY,
            base_url=url,
            abilities=Abilities(context_window=4096, tools=tools),
            timeout=timeout,
        )
        try:
            return await check(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_a_good_server_is_found_good(server: ScriptedModel) -> None:
    server.next(answer("ok"), answer("ok"))
    found = checked(server.url, tools=True)
    assert (found.ok, found.streams, found.tools, found.usage_reported) == (True,) * 4
    assert found.problem == found.hint == ""
    assert [r.body["max_tokens"] for r in server.requests] == [1, 16]
    assert "tools" in server.requests[1].body


def test_a_server_without_usage_is_found_so(server: ScriptedModel) -> None:
    server.next(answer("ok", usage=False))
    assert checked(server.url).usage_reported is False


def test_a_server_that_refuses_tools_is_found_usable(server: ScriptedModel) -> None:
    server.next(answer("ok"), status(400))
    found = checked(server.url, tools=True)
    assert (found.ok, found.tools, found.problem) == (True, False, "")


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (401, "rejected the API key (401)", "OPENAI_API_KEY"),
        (404, "no such model or path (404)", "RAG_MODEL"),
        (429, "too many requests", "later"),
        (500, "the server failed (500)", "later"),
    ],
)
def test_what_is_wrong_is_said_after_one_call(
    server: ScriptedModel, code: int, words: str, hint: str
) -> None:
    server.next(status(code))
    found = checked(server.url, tools=True)
    assert found.ok is found.streams is found.usage_reported is False
    assert found.tools is found.first_token is None
    assert words in found.problem
    assert hint in found.hint
    assert len(server.requests) == 1
    assert KEY not in str(found)


def test_a_server_that_is_not_there_is_said_to_be_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = checked(f"http://127.0.0.1:{port}/v1")
    assert not found.ok
    assert "cannot be reached" in found.problem


def test_a_server_that_never_answers_is_said_to_be_silent(server: ScriptedModel) -> None:
    server.next(silent)
    found = checked(server.url, timeout=0.2)
    assert not found.ok
    assert "sent nothing for 0.2 s" in found.problem


def test_a_web_page_is_no_model(server: ScriptedModel) -> None:
    server.next(page, page)
    found = checked(server.url)
    assert not found.ok
    assert "not in the OpenAI format" in found.problem


def test_a_server_that_ignores_streaming_is_found_so(server: ScriptedModel) -> None:
    message = {"role": "assistant", "content": "ok"}
    whole = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    server.next(body(whole), body(whole))
    assert "does not stream" in checked(server.url).problem


def test_a_stream_without_choices_is_no_answer(server: ScriptedModel) -> None:
    server.next(events(), status(500))
    assert not checked(server.url).ok
