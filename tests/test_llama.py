"""The client against a real llama.cpp server.

RAG_TEST_LLAMA_URL names it, as http://127.0.0.1:8080/v1; without it these tests do not run. It has
to have one slot (--parallel 1), so that a call that was not cancelled is in the next one's way.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from rag.chat.client import OpenAIChat
from rag.config import Settings
from rag.engine import Engine
from rag.errors import ContextTooLongError
from rag.specs import ModelSpec
from rag.types import Abilities, ChatRequest, Delta, Finished, Message, Retried
from tests.served import fake_engine, sample_folder

URL = os.environ.get("RAG_TEST_LLAMA_URL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.llama,
    pytest.mark.skipif(not URL, reason="RAG_TEST_LLAMA_URL names no llama.cpp server"),
]
QUICK = 30.0  # seconds: far less than the long answers that are cancelled would take
LONG = "Count from 1 to 2000 in words, one number a line. Do not stop early."


@pytest.fixture(scope="module")
def model_id() -> str:
    found: str = httpx.get(f"{URL}/models", timeout=QUICK, trust_env=False).json()["data"][0]["id"]
    return found


@pytest.fixture
def client(model_id: str) -> OpenAIChat:
    return OpenAIChat(
        model_id,
        api_key="none",
        base_url=URL,
        abilities=Abilities(context_window=4096, schema=True),
        timeout=120.0,
    )


def request(text: str, **more: object) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), temperature=0.0, **more)  # type: ignore[arg-type]


def pieces(client: OpenAIChat, sent: ChatRequest) -> list[Delta]:
    async def run() -> list[Delta]:
        try:
            async with aclosing(client.chat(sent)) as stream:
                return [piece async for piece in stream]
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_an_answer_streams_and_its_usage_is_reported(client: OpenAIChat) -> None:
    found = pieces(client, request("List the days of the week.", max_tokens=24))
    assert sum(bool(piece.text) for piece in found) > 5
    assert "Monday" in "".join(piece.text for piece in found)
    assert [p.finish_reason for p in found if p.finish_reason] in (["stop"], ["length"])
    usage = found[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 5
    assert 5 < usage.completion_tokens <= 24
    assert not usage.estimated


def test_an_answer_comes_whole(client: OpenAIChat) -> None:
    [found] = pieces(client, request("Say: hello", max_tokens=8, stream=False))
    assert "hello" in found.text.lower()
    assert found.usage is not None
    assert found.usage.completion_tokens > 0


def test_an_answer_that_reaches_its_limit_says_so(client: OpenAIChat) -> None:
    found = pieces(client, request(LONG, max_tokens=8))
    assert [p.finish_reason for p in found if p.finish_reason] == ["length"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_schema_is_kept_to(client: OpenAIChat, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
        "required": ["city", "large"],
        "additionalProperties": False,
    }
    sent = request("Tell me about Berlin.", max_tokens=60, schema=schema, stream=stream)
    data = json.loads("".join(piece.text for piece in pieces(client, sent)))
    assert set(data) == {"city", "large"}
    assert isinstance(data["large"], bool)


def test_what_is_too_long_is_told_as_such(client: OpenAIChat) -> None:
    with pytest.raises(ContextTooLongError):
        pieces(client, request("word " * 20_000, max_tokens=8))


@pytest.mark.parametrize("how", ["closed", "cancelled", "not streamed"])
def test_a_call_that_is_left_frees_the_server_at_once(client: OpenAIChat, how: str) -> None:
    async def leave() -> None:
        begun = asyncio.Event()

        async def read() -> None:
            sent = request(LONG, max_tokens=3000, stream=how != "not streamed")
            if not sent.stream:
                begun.set()
            async with aclosing(client.chat(sent)) as stream:
                async for piece in stream:
                    assert piece.text
                    if how == "closed":
                        return
                    begun.set()

        if how == "closed":
            await read()
            return
        task = asyncio.create_task(read())
        await begun.wait()
        if how == "not streamed":
            await slot_is_busy()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run() -> float:
        await leave()
        began = time.monotonic()
        async with aclosing(client.chat(request("Say: hello", max_tokens=4))) as stream:
            assert [piece async for piece in stream]
        await client.aclose()
        return time.monotonic() - began

    assert asyncio.run(run()) < QUICK


async def slot_is_busy() -> None:
    """Returns when the server works on something."""
    base = URL.removesuffix("/v1")
    async with httpx.AsyncClient(trust_env=False, timeout=QUICK) as other:
        for _ in range(200):
            told = (await other.get(f"{base}/metrics")).text
            if "llamacpp:requests_processing 1" in told:
                return
            await asyncio.sleep(0.02)  # a server in another process has nothing to wait on
    raise AssertionError("the server never began")


# --- the whole way ------------------------------------------------------------------------------


@pytest.fixture
def engine(settings: Settings, model_id: str, tmp_path: Path) -> Iterator[Engine]:
    local = ModelSpec(
        name="local",
        profile="llamacpp",
        id=model_id,
        base_url=URL,
        context_window=4096,
        timeout=120.0,
    )
    changed = settings.model_copy(update={"models": (local,), "max_answer_tokens": 128})
    engine = fake_engine(changed)
    engine.ingest([sample_folder(tmp_path / "documents")])
    yield engine
    engine.close()


def test_a_question_is_answered_for_nothing(engine: Engine) -> None:
    async def run() -> list[object]:
        question = "How many days of annual leave after ten years of service?"
        return [event async for event in engine.ask(question, model="local")]

    found = asyncio.run(run())
    assert not [event for event in found if isinstance(event, Retried)]
    last = found[-1]
    assert isinstance(last, Finished)
    assert last.answer.model == "local"
    assert last.answer.usage.prompt_tokens > 100
    assert (last.answer.usage.estimated, last.answer.usage.cost) == (False, 0.0)


def test_rag_ask_answers_with_data_that_fits_a_schema(tmp_path: Path, model_id: str) -> None:
    sample_folder(tmp_path / "documents")
    schema = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    (tmp_path / "days.json").write_text(json.dumps(schema))
    (tmp_path / "rag.toml").write_text(
        f'[[models]]\nname = "local"\nprofile = "llamacpp"\nid = "{model_id}"\n'
        f'base_url = "{URL}"\ncontext_window = 4096\ntimeout = 120.0\n'
    )
    rag = Path(sys.executable).with_name("rag")
    env = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", str(tmp_path))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [rag, *arguments],
            cwd=tmp_path,
            env=env | {"RAG_EMBEDDING": '["intfloat/multilingual-e5-small"]'},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    assert run("ingest", "documents").returncode == 0
    question = "How many days of annual leave do staff with ten years of service have?"
    asked = run("ask", question, "--schema", "days.json", "--json", "--path", "hr/leave.md")
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert found["model"] == "local"
    assert found["refused"] or isinstance(found["data"]["days"], int)
