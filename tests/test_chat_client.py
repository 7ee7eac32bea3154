"""The chat client against a server that keeps to the OpenAI format, and one that does not."""

from __future__ import annotations

import asyncio
import base64
import gc
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from rag.chat.client import OpenAIChat
from rag.errors import (
    ContextTooLongError,
    ModelAuthError,
    ModelBusyError,
    ModelError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from rag.types import (
    Abilities,
    ChatRequest,
    Delta,
    Image,
    Message,
    ToolCall,
    ToolSpec,
    Usage,
)
from tests.scripted_model import (
    DEADLINE,
    Behaviour,
    ScriptedModel,
    answer,
    body,
    bytewise,
    cut,
    delta,
    events,
    gated,
    page,
    silent,
    stalled,
    status,
    unfinished,
)

KEY = "sk-loopback-0123456789"
ASK = (Message("system", "Be brief."), Message("user", "年假有几天？"))


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


def chat_with(url: str, *, timeout: float = DEADLINE) -> OpenAIChat:
    return OpenAIChat(
        "gpt-test",
        api_key=KEY,
        base_url=url,
        abilities=Abilities(context_window=8192, vision=True, tools=True, schema=True),
        timeout=timeout,
    )


def reply(
    url: str,
    *,
    stream: bool = True,
    messages: tuple[Message, ...] = ASK,
    timeout: float = DEADLINE,
    **options: object,
) -> list[Delta]:
    """All deltas of one call."""

    async def run() -> list[Delta]:
        chat = chat_with(url, timeout=timeout)
        try:
            request = ChatRequest(messages=messages, stream=stream, **options)  # type: ignore[arg-type]
            return [piece async for piece in chat.chat(request)]
        finally:
            await chat.aclose()

    return asyncio.run(run())


def failure_of(url: str, **options: object) -> ModelError:
    """What a call fails with. No failure ever tells the key, wherever it is shown."""
    with pytest.raises(ModelError) as caught:
        reply(url, **options)  # type: ignore[arg-type]
    error = caught.value
    told = "".join(traceback.format_exception(error))
    assert KEY not in f"{error} {error!r} {error.message} {error.hint} {told}"
    return error


def text_of(deltas: list[Delta]) -> str:
    return "".join(d.text for d in deltas)


def usage_of(deltas: list[Delta]) -> list[Usage]:
    return [d.usage for d in deltas if d.usage is not None]


# --- what works ---------------------------------------------------------------------------------


def test_a_streamed_reply_arrives_in_pieces_with_its_usage(model: ScriptedModel) -> None:
    model.next(answer("十五", "天 [", "1", "]。"))
    deltas = reply(model.url)
    assert [d.text for d in deltas if d.text] == ["十五", "天 [", "1", "]。"]
    assert usage_of(deltas) == [Usage(120, 7)]
    assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]


def test_a_whole_reply_is_one_piece_with_its_usage(model: ScriptedModel) -> None:
    model.next(answer("十五天 [1]。"))
    assert reply(model.url, stream=False) == [
        Delta("十五天 [1]。", Usage(120, 7), "stop", model="gpt-test")
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_usage_that_is_not_reported_is_none(model: ScriptedModel, stream: bool) -> None:
    model.next(answer("ok", usage=False))
    deltas = reply(model.url, stream=stream)
    assert text_of(deltas) == "ok"
    assert usage_of(deltas) == []


def test_characters_cut_between_tcp_writes_stay_whole(model: ScriptedModel) -> None:
    model.next(bytewise("年假 15 天 🏖 𠮷 [1]"))
    assert text_of(reply(model.url)) == "年假 15 天 🏖 𠮷 [1]"


def test_the_first_piece_is_passed_on_before_the_rest_exists(model: ScriptedModel) -> None:
    gate = threading.Event()
    model.next(gated(gate, "first", " second"))

    async def run() -> list[str]:
        chat = chat_with(model.url)
        texts = []
        async with aclosing(chat.chat(ChatRequest(messages=ASK))) as pieces:
            async for piece in pieces:
                texts.append(piece.text)
                gate.set()  # only now does the server go on
        await chat.aclose()
        return texts

    assert "".join(asyncio.run(run())) == "first second"


def test_the_request_is_what_the_format_asks_for(model: ScriptedModel) -> None:
    reply_options = {"temperature": 0.2, "max_tokens": 64, "extra": {"enable_thinking": False}}
    model.next(answer("ok"))
    reply(model.url, **reply_options)
    request = model.requests[0]
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "gpt-test",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "年假有几天？"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.2,
        "max_tokens": 64,
        "enable_thinking": False,
    }


def test_a_request_sets_nothing_that_was_not_asked_for(model: ScriptedModel) -> None:
    model.next(answer("ok"))
    reply(model.url, stream=False)
    assert set(model.requests[0].body) == {"model", "messages", "stream"}


def test_images_go_as_data_urls_behind_the_text(model: ScriptedModel) -> None:
    model.next(answer("A chart."))
    image = Image("image/png", b"\x89PNG\r\n")
    reply(model.url, messages=(Message("user", "What is this?", images=(image,)),))
    assert model.requests[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + base64.b64encode(image.data).decode()},
        },
    ]


# --- tools and schemas ---------------------------------------------------------------------------

WEATHER = ToolSpec("weather", "Tells the weather.", {"type": "object", "properties": {}})


def fragment(index: int | None, **function: object) -> dict[str, object]:
    """One event with a fragment of a tool call."""
    call = {"index": index, "id": function.pop("id", None), "function": function}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice]}


def test_fragments_of_tool_calls_are_put_together(model: ScriptedModel) -> None:
    """Cut inside a JSON string and between two calls that take turns."""
    model.next(
        events(
            delta("Let me see."),
            fragment(0, id="a", name="weather", arguments=""),
            fragment(0, arguments='{"city": "砚'),
            fragment(1, id="b", name="calculate", arguments='{"expression"'),
            fragment(0, arguments='谷"}'),
            fragment(1, arguments=': "1+1"}'),
            delta("", finish="tool_calls"),
        )
    )
    deltas = reply(model.url, tools=(WEATHER,))
    assert text_of(deltas) == "Let me see."
    assert [d.tool_calls for d in deltas if d.tool_calls] == [
        (
            ToolCall("a", "weather", '{"city": "砚谷"}'),
            ToolCall("b", "calculate", '{"expression": "1+1"}'),
        )
    ]
    assert deltas[-1].finish_reason == "tool_calls"


def test_calls_that_are_all_numbered_alike_are_told_apart_by_their_ids(
    model: ScriptedModel,
) -> None:
    model.next(
        events(
            fragment(0, id="a", name="weather", arguments="{}"),
            fragment(0, id="b", name="weather", arguments="{}"),
            delta("", finish="tool_calls"),
        )
    )
    (last,) = reply(model.url, tools=(WEATHER,))
    assert [call.id for call in last.tool_calls] == ["a", "b"]


def test_tools_their_calls_and_results_are_what_the_format_asks_for(model: ScriptedModel) -> None:
    model.next(answer("Sunny."))
    call = ToolCall("a", "weather", "{}")
    turns = (
        *ASK,
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sunny", tool_call_id="a"),
    )
    reply(model.url, messages=turns, tools=(WEATHER,), schema={"type": "object"})
    sent = model.requests[0].body
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells the weather.",
                "parameters": {"type": "object", "properties": {}},
            },
        }
    ]
    assert sent["messages"][2] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ],
    }
    assert sent["messages"][3] == {"role": "tool", "tool_call_id": "a", "content": "sunny"}
    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }


# --- what fails ---------------------------------------------------------------------------------

REFUSALS = [
    (status(401), ModelAuthError, "gpt-test: the server rejected the API key (401)."),
    (status(403), ModelAuthError, "gpt-test: the API key may not use this model (403)."),
    (status(404), ModelRequestError, "gpt-test: the server knows no such model or path (404)."),
    (
        status(429, {"Retry-After": "7"}),
        ModelBusyError,
        "gpt-test: too many requests, or the quota is used up (429).",
    ),
    (
        status(400, message="maximum context length is 4096 tokens"),
        ContextTooLongError,
        "gpt-test: the question with its sources is too long for the model (400).",
    ),
    (
        status(413),
        ContextTooLongError,
        "gpt-test: the question with its sources is too long for the model (413).",
    ),
    (
        status(429, message="insufficient_quota"),
        ModelAuthError,
        "gpt-test: the quota of the API key is used up (429).",
    ),
    (status(402), ModelAuthError, "gpt-test: the account has no money left (402)."),
    (status(400), ModelRequestError, "gpt-test: the server refused the request (400)."),
    (status(408), ModelUnavailableError, "gpt-test: the server failed (408)."),
    (status(409), ModelUnavailableError, "gpt-test: the server failed (409)."),
    (status(422), ModelRequestError, "gpt-test: the server refused the request (422)."),
    (status(500), ModelUnavailableError, "gpt-test: the server failed (500)."),
    (status(503), ModelUnavailableError, "gpt-test: the server failed (503)."),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("behaviour", "kind", "message"), REFUSALS)
def test_each_status_is_its_own_error_and_is_not_tried_again(
    model: ScriptedModel, behaviour: Behaviour, kind: type[ModelError], message: str, stream: bool
) -> None:
    model.next(behaviour)
    error = failure_of(model.url, stream=stream)
    assert type(error) is kind
    assert error.message == message
    assert error.hint
    assert error.retryable is kind.retryable
    assert len(model.requests) == 1


LATER = "Wed, 21 Oct 2026 07:28:30 GMT"
NOW = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After-Ms": "250"}, 0.25),
        ({"Retry-After": LATER, "Date": NOW}, 30.0),
        ({"Retry-After": NOW, "Date": LATER}, 0.0),
        ({"Retry-After": LATER}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_the_server_says_when_to_come_back(
    model: ScriptedModel, code: int, headers: dict[str, str], seconds: float | None
) -> None:
    model.next(status(code, headers))
    assert failure_of(model.url).retry_after == seconds


BROKEN = [
    (
        cut("Fifteen"),
        ModelStreamError,
        "gpt-test: the connection broke in the middle of the answer.",
    ),
    (unfinished("Fifteen"), ModelStreamError, "gpt-test stopped in the middle of its answer."),
    (
        events(delta("Fif"), '{"choices": [{"del'),
        ModelFormatError,
        "gpt-test: the server's reply is not in the OpenAI format (JSONDecodeError).",
    ),
    (
        events(delta("Fif"), '"just a string"'),
        ModelFormatError,
        "gpt-test: the server's reply is not in the OpenAI format (AttributeError).",
    ),
    (
        events(delta("Fif"), {"error": {"message": f"overloaded {KEY}", "code": 500}}),
        ModelStreamError,
        "gpt-test: the server reported an error in the middle of the answer.",
    ),
    (
        events(),
        ModelFormatError,
        "gpt-test: the server's reply is not in the OpenAI format (no events).",
    ),
]


@pytest.mark.parametrize(("behaviour", "kind", "message"), BROKEN)
def test_a_stream_that_breaks_says_how(
    model: ScriptedModel, behaviour: Behaviour, kind: type[ModelError], message: str
) -> None:
    model.next(behaviour)
    error = failure_of(model.url)
    assert type(error) is kind
    assert error.message == message
    assert error.retryable is kind.retryable
    assert len(model.requests) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_web_page_in_place_of_a_reply_is_a_wrong_address(
    model: ScriptedModel, stream: bool
) -> None:
    model.next(page)
    error = failure_of(model.url, stream=stream)
    assert "not in the OpenAI format" in error.message
    assert "OPENAI_BASE_URL" in error.hint


@pytest.mark.parametrize(
    "data",
    [{"choices": []}, {"choices": None}, {}, [], {"error": {"message": "no"}}, {"choices": [{}]}],
)
def test_a_whole_reply_without_a_choice_is_not_of_the_format(
    model: ScriptedModel, data: object
) -> None:
    model.next(body(data))
    error = failure_of(model.url, stream=False)
    assert type(error) is ModelFormatError
    assert "not in the OpenAI format" in error.message


def test_a_server_that_stalls_in_the_middle_is_left(model: ScriptedModel) -> None:
    model.next(stalled("Fifteen"))
    error = failure_of(model.url, timeout=0.1)
    assert type(error) is ModelStreamError
    assert error.message == "gpt-test: the server sent nothing for 0.1 s."
    assert model.wait_for(1).gone.wait(DEADLINE)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_server_that_never_answers_is_left(model: ScriptedModel, stream: bool) -> None:
    model.next(silent)
    error = failure_of(model.url, stream=stream, timeout=0.1)
    assert type(error) is ModelTimeoutError
    assert error.message == "gpt-test: the server sent nothing for 0.1 s."
    assert model.wait_for(1).gone.wait(DEADLINE)
    assert len(model.requests) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_server_that_is_not_there_is_named(stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failure_of(f"http://127.0.0.1:{port}/v1", stream=stream)
    assert type(error) is ModelUnavailableError
    assert error.message == "gpt-test: the server 127.0.0.1 cannot be reached."


# --- going away ---------------------------------------------------------------------------------


def test_closing_the_reply_early_hangs_up(model: ScriptedModel) -> None:
    model.next(stalled("Fifteen"))

    async def run() -> None:
        chat = chat_with(model.url)
        pieces = chat.chat(ChatRequest(messages=ASK))
        assert (await anext(pieces)).text == "Fifteen"
        await pieces.aclose()
        assert await asyncio.to_thread(model.requests[0].gone.wait, DEADLINE)
        await chat.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_cancelling_the_task_hangs_up(model: ScriptedModel, stream: bool) -> None:
    model.next(silent)

    async def run() -> None:
        chat = chat_with(model.url)

        async def consume() -> None:
            async for _ in chat.chat(ChatRequest(messages=ASK, stream=stream)):
                pass

        task = asyncio.create_task(consume())
        request = await asyncio.to_thread(model.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(request.gone.wait, DEADLINE)
        await chat.aclose()

    asyncio.run(run())


def test_one_client_serves_many_calls_at_once(model: ScriptedModel) -> None:
    model.next(*(answer(f"answer {n}") for n in range(8)))

    async def run() -> list[str]:
        chat = chat_with(model.url)

        async def one() -> str:
            return "".join([d.text async for d in chat.chat(ChatRequest(messages=ASK))])

        texts = await asyncio.gather(*(one() for _ in range(8)))
        await chat.aclose()
        return texts

    assert sorted(asyncio.run(run())) == [f"answer {n}" for n in range(8)]
    gc.collect()  # a connection left open would warn here
