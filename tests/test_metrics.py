"""`GET /metrics`, read as Prometheus reads it, after real questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rag.specs import Budget
from tests.scripted_model import DEADLINE, status
from tests.served import served
from tests.stacks import COST, QUESTION, Stack, Stacks, spec, stacks_in

pytestmark = pytest.mark.slow  # a server of its own for each test

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Stacks]:
    yield from stacks_in(tmp_path, monkeypatch, caplog)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client_of(stack: Stack, closing: ExitStack) -> httpx.Client:
    url = closing.enter_context(served(stack.engine))
    return closing.enter_context(httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False))


def ask(client: httpx.Client, **body: Any) -> None:
    assert client.post("/ask", json={"question": QUESTION} | body).status_code == 200


def measured(client: httpx.Client) -> Samples:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_calls_tokens_and_money_are_counted(stacks: Stacks, closing: ExitStack) -> None:
    stack, server = stacks.alone(cache=False)
    client = client_of(stack, closing)
    server.next(status(503))
    ask(client)
    ask(client)
    found = measured(client)
    calls = {"model": "first", "outcome": "ok", "code": ""}
    assert value(found, "rag_model_calls_total", **calls) == 2
    failed = {"model": "first", "outcome": "failed", "code": "model_unavailable"}
    assert value(found, "rag_model_calls_total", **failed) == 1
    assert value(found, "rag_model_tokens_total", model="first", kind="prompt") == 240
    assert value(found, "rag_model_tokens_total", model="first", kind="completion") == 14
    assert value(found, "rag_model_cost_dollars_total", model="first") == pytest.approx(2 * COST)
    assert value(found, "rag_model_seconds_count", model="first") == 3
    assert value(found, "rag_model_first_token_seconds_count", model="first") == 2


def test_kept_answers_and_the_money_they_saved_are_counted(
    stacks: Stacks, closing: ExitStack
) -> None:
    stack, _ = stacks.alone()
    client = client_of(stack, closing)
    for _ in range(3):
        ask(client)
    ask(client, cache=False)
    found = measured(client)
    counted = {
        r: value(found, "rag_cache_asked_total", result=r) for r in ("miss", "hit", "bypassed")
    }
    assert counted == {"miss": 1, "hit": 2, "bypassed": 1}
    assert value(found, "rag_cache_saved_dollars_total") == pytest.approx(2 * COST)
    assert value(found, "rag_model_cost_dollars_total", model="first") == pytest.approx(2 * COST)


def test_circuits_tell_their_state_and_what_they_turned_away(
    stacks: Stacks, closing: ExitStack
) -> None:
    stack, server = stacks.alone(retry_attempts=1, breaker_failures=2, cache=False)
    client = client_of(stack, closing)

    def states() -> dict[str, float]:
        found = measured(client)
        return {
            state: value(found, "rag_circuit_state", model="first", state=state)
            for state in ("closed", "half_open", "open")
        }

    ask(client)
    assert states() == {"closed": 1, "half_open": 0, "open": 0}
    server.next(status(500), status(500))
    for _ in range(3):
        ask(client)
    assert states() == {"closed": 0, "half_open": 0, "open": 1}
    found = measured(client)
    assert value(found, "rag_circuit_opened_total", model="first") == 1
    assert value(found, "rag_circuit_rejections", model="first") == 1


def test_budgets_and_rejected_keys_are_told(
    stacks: Stacks, closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-first-0123456789,sk-second-987654321")
    stack, server = stacks.alone(budgets=(Budget(day=100.0),))
    client = client_of(stack, closing)
    server.next(status(401))
    ask(client)
    found = measured(client)
    assert value(found, "rag_model_keys_rejected_total", model="first") == 1
    [share] = [v for (name, _), v in found.items() if name == "rag_budget_used_ratio"]
    assert share == pytest.approx(COST / 100)
    assert value(found, "rag_knowledge_base_generation", name="default") == 1


def test_a_model_that_nobody_asked_yet_has_a_state(stacks: Stacks, closing: ExitStack) -> None:
    server = stacks.server()
    client = client_of(stacks.stack(spec("first", server), spec("second", server)), closing)
    found = measured(client)
    for name in ("first", "second"):
        assert value(found, "rag_circuit_state", model=name, state="closed") == 1


def test_every_metric_is_documented_and_of_this_program(stacks: Stacks, closing: ExitStack) -> None:
    stack, _ = stacks.alone()
    client = client_of(stack, closing)
    ask(client)
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    assert families
    assert all(family.name.startswith("rag_") and family.documentation for family in families)
