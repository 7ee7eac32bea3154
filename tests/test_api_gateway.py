"""Models, money, tools, schemas, approval and callers over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from rag.errors import ConfigError
from rag.specs import Budget, PresetSpec
from tests.scripted_model import DEADLINE, ScriptedModel, answer, status, tool_calls
from tests.served import served
from tests.stacks import COST, QUESTION, Stack, Stacks, spec, stacks_in

pytestmark = pytest.mark.slow  # a server of its own for nearly every test

ADA, EVE = "rk-ada-0123456789", "rk-eve-0123456789"
CALLERS: dict[str, Any] = {
    "callers": {"ada": "ADA_KEY", "eve": "EVE_KEY"},
    "reviewers": ("eve",),
}
Start = Callable[..., httpx.Client]


@pytest.fixture
def stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Stacks]:
    monkeypatch.setenv("ADA_KEY", ADA)
    monkeypatch.setenv("EVE_KEY", EVE)
    yield from stacks_in(tmp_path, monkeypatch, caplog)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or (ADA.encode() not in path.read_bytes())
    assert ADA not in caplog.text


@pytest.fixture
def server(stacks: Stacks) -> ScriptedModel:
    return stacks.server()


@pytest.fixture
def start(stacks: Stacks, server: ScriptedModel) -> Iterator[Start]:
    """A client of a server with the scripted model, "first", and these settings."""
    with ExitStack() as closing:

        def begin(**changed: Any) -> httpx.Client:
            return client_of(stacks.stack(spec("first", server), **changed), closing)

        yield begin


def client_of(stack: Stack, closing: ExitStack) -> httpx.Client:
    url = closing.enter_context(served(stack.engine))
    return closing.enter_context(httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(
    client: httpx.Client, *, code: int = 200, headers: dict[str, str] | None = None, **body: Any
) -> dict[str, Any]:
    response = client.post("/ask", json={"question": QUESTION} | body, headers=headers)
    assert response.status_code == code, response.text
    found: dict[str, Any] = response.json()
    return found


def events(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    found, name = [], ""
    with client.stream("POST", path, json=body | {"stream": True}) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


# --- models and money ---------------------------------------------------------------------------


def test_models_are_listed_with_how_they_stand(start: Start, server: ScriptedModel) -> None:
    client = start(retry_attempts=1, breaker_failures=1, cache=False)
    shown = client.get("/models").json()
    assert shown["default"] == "first"
    assert {"assistant", "customer_support", "analyst", "code_completion"} <= set(shown["presets"])
    assert {"calculate", "search_knowledge"} <= set(shown["tools"])
    [model] = shown["models"]
    assert (model["name"], model["circuit"], model["rejected_keys"]) == ("first", "closed", [])
    assert model["first_token_seconds"] is None
    ask(client)
    [model] = client.get("/models").json()["models"]
    assert model["first_token_seconds"] > 0
    server.next(status(500))
    ask(client)
    [model] = client.get("/models").json()["models"]
    assert (model["circuit"], model["recent_failures"]) == ("open", 1)
    assert 0 < model["probing_in"] <= 30


def test_without_a_model_there_is_nothing_to_list(stacks: Stacks) -> None:
    with ExitStack() as closing:
        shown = client_of(stacks.stack(), closing).get("/models").json()
    assert (shown["default"], shown["models"]) == ("extractive", [])


def test_a_model_without_its_key_breaks_nothing_else(stacks: Stacks, server: ScriptedModel) -> None:
    """Whoever looks what is wrong has to be able to look."""
    keyless = spec("first", server, key_env="NO_SUCH_KEY")
    with ExitStack() as closing:
        client = client_of(stacks.stack(keyless), closing)
        for path in ("/models", "/status", "/metrics", "/costs"):
            assert client.get(path).status_code == 200
        error = ask(client, code=500)["error"]
    assert error["code"] == "config"
    assert "NO_SUCH_KEY" in error["hint"]


def test_costs_are_told_by_day_model_caller_and_session(start: Start) -> None:
    client = start(cache=False, budgets=(Budget(day=100.0),), **CALLERS)
    ask(client, headers=bearer(ADA), session_id="s1")
    ask(client, headers=bearer(ADA), session_id="s2")
    ask(client)
    found = {by: client.get("/costs", params={"by": by}).json() for by in
             ("day", "model", "caller", "session")}  # fmt: skip
    for costs in found.values():
        assert costs["total"] == pytest.approx(3 * COST)
    calls = {by: {row["key"]: row["calls"] for row in c["rows"]} for by, c in found.items()}
    assert calls["model"] == {"first": 3}
    assert calls["caller"] == {"ada": 2, "": 1}
    assert calls["session"] == {"s1": 1, "s2": 1, "": 1}
    assert list(calls["day"].values()) == [3]
    [budget] = found["day"]["budgets"]
    assert (budget["limit"], budget["spent"]) == (100.0, pytest.approx(3 * COST))
    assert client.get("/costs", params={"since": "2999-01-01"}).json()["rows"] == []
    assert client.get("/costs", params={"by": "colour"}).status_code == 422


def test_a_budget_that_is_used_up_is_402(start: Start, server: ScriptedModel) -> None:
    client = start(budgets=(Budget(day=0.01),), extractive_fallback=False)
    error = ask(client, code=402)["error"]
    assert error["code"] == "budget"
    assert "raise the budget" in error["hint"]
    assert events(client, "/ask", {"question": QUESTION})[-1][1]["code"] == "budget"
    assert server.requests == []


def test_an_open_circuit_is_503(start: Start, server: ScriptedModel) -> None:
    client = start(retry_attempts=1, breaker_failures=1, extractive_fallback=False)
    server.next(status(500))
    ask(client, code=502)
    error = ask(client, code=503)["error"]
    assert (error["code"], error["retryable"]) == ("circuit_open", True)


# --- callers ------------------------------------------------------------------------------------


ASKING: list[tuple[str, str, Any]] = [
    ("POST", "/ask", {"question": QUESTION}),
    ("POST", "/ask", {"question": QUESTION, "stream": True}),
    ("POST", "/complete", {"before": "def f():"}),
    ("POST", "/retrieve", {"question": QUESTION}),
    ("GET", "/documents", None),
    ("GET", "/models", None),
    ("GET", "/costs", None),
    ("GET", "/status", None),
    ("GET", "/reviews", None),
    ("GET", "/reviews/0123456789abcdef", None),
    ("POST", "/reviews/0123456789abcdef", {"approve": True}),
]


@pytest.mark.parametrize("settings", [{}, CALLERS], ids=["no callers", "callers"])
def test_an_unknown_key_is_turned_away(
    start: Start, server: ScriptedModel, settings: dict[str, Any]
) -> None:
    client = start(**settings)
    for method, path, body in ASKING:
        response = client.request(method, path, json=body, headers=bearer("rk-unknown"))
        assert response.status_code == 403, (method, path)
        assert response.json()["error"]["code"] == "caller"
        assert "rk-unknown" not in response.text
    assert server.requests == []


def test_a_caller_without_a_key_stops_the_start(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADA_KEY")
    with pytest.raises(ConfigError, match="The caller 'ada' has no key"):
        create_app(engine=stacks.stack(**CALLERS).engine)


# --- what a question may ask for ----------------------------------------------------------------


def test_a_kept_answer_is_marked_and_can_be_passed_by(start: Start, server: ScriptedModel) -> None:
    client = start()
    assert [ask(client)["cached"], ask(client)["cached"]] == [False, True]
    assert ask(client, headers={"Cache-Control": "no-cache"})["cached"] is False
    assert ask(client, cache=False)["cached"] is False
    assert len(server.requests) == 3
    streamed = events(client, "/ask", {"question": QUESTION})
    assert streamed[0][0] == "retrieved"
    assert streamed[-1][1]["cached"] is True


def test_a_session_remembers_a_kept_answer(start: Start, server: ScriptedModel) -> None:
    client = start()
    server.next(answer("15 days [1]."))
    ask(client)
    assert ask(client, session_id="s1")["cached"] is True
    ask(client, question="And when do they expire?", session_id="s1")
    said = [m["content"] for m in server.requests[-1].body["messages"][1:-1]]
    assert said == [QUESTION, "15 days [1]."]


def test_each_caller_has_a_budget_of_its_own(start: Start) -> None:
    budget = Budget(caller="ada", day=0.01)
    client = start(budgets=(budget,), extractive_fallback=False, **CALLERS)
    assert ask(client, code=402, headers=bearer(ADA))["error"]["code"] == "budget"
    ask(client, headers=bearer(EVE))
    ask(client)


def test_a_schema_is_answered_with_data(start: Start, server: ScriptedModel) -> None:
    schema = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    client = start(cache=False)
    server.next(answer('{"answer": {"days": 15}, "sources": [1]}'), answer("{}"), answer("{}"))
    found = ask(client, schema=schema)
    assert found["data"] == {"days": 15}
    assert found["citations"][0]["document"] == "hr/leave.md"
    response = client.post("/ask", json={"question": QUESTION, "schema": schema})
    assert response.status_code >= 500
    assert response.json()["error"]["code"] == "schema"
    assert ask(client, code=400, schema={"type": "nonsense"})["error"]["code"] == "input"


def test_tools_can_be_asked_for_and_are_told(start: Start, server: ScriptedModel) -> None:
    client = start()
    server.next(tool_calls(("calculate", '{"expression": "15 * 8"}')), answer("120 hours [1]."))
    found = events(client, "/ask", {"question": QUESTION, "tools": ["calculate"]})
    [used] = [data for name, data in found if name == "tool_used"]
    assert (used["name"], used["result"], used["failed"]) == ("calculate", "120", False)
    assert found[-1][1]["usage"]["cost"] == pytest.approx(2 * COST)
    assert ask(client, code=400, tools=["launch"])["error"]["code"] == "input"
    assert ask(client, code=400, preset="nothing")["error"]["code"] == "input"


def test_a_try_that_failed_is_told_in_the_stream(start: Start, server: ScriptedModel) -> None:
    client = start()
    server.next(status(503))
    found = events(client, "/ask", {"question": QUESTION})
    assert [name for name, _ in found[:3]] == ["retrieved", "retried", "token"]
    retried = found[1][1]
    assert (retried["model"], retried["code"]) == ("first", "model_unavailable")


# --- completion ---------------------------------------------------------------------------------

CODE = {"before": "def total(prices):\n    return ", "after": "\n", "name": "cart.py"}


def test_code_is_completed(start: Start, server: ScriptedModel) -> None:
    client = start()
    server.next(answer("```python\n", "sum(", "prices)", "\n```"))
    response = client.post("/complete", json=CODE)
    assert response.status_code == 200
    found = response.json()
    assert set(found) == {"completion", "model", "usage", "timings"}
    assert (found["completion"].strip(), found["model"]) == ("sum(prices)", "first")
    assert found["usage"]["cost"] == pytest.approx(COST)
    sent = server.requests[0].body
    assert sent["stream"] is False
    assert CODE["before"] in json.dumps(sent, ensure_ascii=False).replace("\\n", "\n")


def test_a_completion_streams(start: Start, server: ScriptedModel) -> None:
    client = start()
    server.next(answer("sum(", "prices)"))
    found = events(client, "/complete", CODE)
    tokens = [data["text"] for name, data in found if name == "token"]
    assert "".join(tokens) == "sum(prices)"
    assert [found[0][0], found[-1][0]] == ["retrieved", "finished"]
    assert found[-1][1]["answer"] == "sum(prices)"


def test_a_completion_that_fails_has_its_status(start: Start, server: ScriptedModel) -> None:
    client = start(retry_attempts=1)
    server.next(status(401))
    response = client.post("/complete", json=CODE)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "model_auth")
    assert client.post("/complete", json={"before": " "}).status_code == 400
    assert client.post("/complete", json={}).status_code == 422
    assert client.post("/complete", json=CODE | {"model": "extractive"}).status_code == 400


# --- approval -----------------------------------------------------------------------------------

REVIEWED = CALLERS | {"presets": {"medical": PresetSpec(review=True)}}


def test_an_answer_is_held_decided_and_released(start: Start, server: ScriptedModel) -> None:
    client = start(**REVIEWED)
    held = ask(client, code=202, preset="medical", session_id="s1", headers=bearer(ADA))
    assert set(held) == {"review_id", "reason"}
    place = f"/reviews/{held['review_id']}"

    waiting = client.get(place, headers=bearer(ADA)).json()  # the asker looks how it stands
    assert (waiting["state"], waiting["answer"]) == ("waiting", None)
    assert "15 days" not in json.dumps(waiting)
    for sent in (None, bearer(ADA)):  # only reviewers see and decide
        assert client.get("/reviews", headers=sent).status_code == 403
        refused = client.post(place, json={"approve": True}, headers=sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "caller")

    [listed] = client.get("/reviews", headers=bearer(EVE)).json()["reviews"]
    assert listed["id"] == held["review_id"]
    assert "15 days" in listed["answer"]["answer"]
    decided = client.post(place, json={"approve": True, "note": "Fine."}, headers=bearer(EVE))
    assert decided.status_code == 200
    assert decided.json()["reviewer"] == "eve"

    released = client.get(place, headers=bearer(ADA)).json()
    assert (released["state"], released["note"]) == ("approved", "Fine.")
    assert "15 days" in released["answer"]["answer"]
    assert client.get("/reviews", headers=bearer(EVE)).json()["reviews"] == []
    again = client.post(place, json={"approve": False}, headers=bearer(EVE))
    assert again.status_code == 400
    ask(client, session_id="s1", question="And when do they expire?")
    said = [m["content"] for m in server.requests[-1].body["messages"][1:-1]]
    assert said == [QUESTION, released["answer"]["answer"]]


def test_a_rejected_answer_is_never_shown(start: Start) -> None:
    client = start(**REVIEWED)
    held = ask(client, code=202, preset="medical")
    place = f"/reviews/{held['review_id']}"
    client.post(place, json={"approve": False, "note": "Wrong."}, headers=bearer(EVE))
    shown = client.get(place).json()
    assert (shown["state"], shown["answer"], shown["note"]) == ("rejected", None, "Wrong.")
    assert client.get("/reviews/nothing").status_code == 404


def test_a_held_stream_ends_with_held_and_tells_no_word_of_the_answer(start: Start) -> None:
    client = start(**REVIEWED)
    found = events(client, "/ask", {"question": QUESTION, "preset": "medical"})
    assert [name for name, _ in found] == ["retrieved", "held"]
    assert found[-1][1]["reason"] == "preset medical"


# --- what the server says of itself -------------------------------------------------------------


def test_the_description_of_the_api_lists_everything(start: Start) -> None:
    described = start().get("/openapi.json").json()
    paths = described["paths"]
    assert {
        "/ask", "/complete", "/retrieve", "/models", "/costs", "/reviews", "/reviews/{review_id}",
        "/metrics", "/status", "/healthz", "/documents",
    } <= set(paths)  # fmt: skip
    answers = set(paths["/ask"]["post"]["responses"])
    assert {"200", "202", "400", "402", "403", "404", "422", "502"} <= answers
    fields = described["components"]["schemas"]["AskBody"]["properties"]
    assert {"model", "preset", "tools", "schema", "cache", "stream", "session_id"} <= set(fields)
