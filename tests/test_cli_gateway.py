"""Models, money, tools and approval on the command line: real processes, a scripted model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.desks import Desk, done, parsed, ready_cache, set_up
from tests.scripted_model import (
    Connection,
    ScriptedModel,
    answer,
    silent,
    status,
    tool_calls,
)
from tests.served import KEY
from tests.services import free_port

pytestmark = pytest.mark.slow

QUESTION = "How many days of annual leave?"
COST = 120 * 0.001 + 7 * 0.002  # of the tokens every scripted answer reports
RAG_TOML = """\
[[models]]
name = "qwen-3.0"
profile = "dashscope"
key_env = "DASHSCOPE_API_KEY"
base_url = "{url}"
price_in = 1000.0
price_out = 2000.0

[[models]]
name = "bad"
base_url = "{url}"

[[models]]
name = "gone"
base_url = "http://127.0.0.1:{port}/v1"

[presets.medical]
review = true
"""


@pytest.fixture(scope="module")
def one_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def model(one_model: ScriptedModel) -> ScriptedModel:
    one_model.forget()
    return one_model


@pytest.fixture(scope="module")
def ingested(one_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = set_up(
        tmp_path_factory.mktemp("gateway") / "desk", ready_cache(tmp_path_factory.mktemp("cache"))
    )
    (desk.root / "leave.md").write_text("# Leave\n\nAnnual leave is 15 days a year.\n", "utf-8")
    settings = RAG_TOML.format(url=one_model.url, port=free_port())
    (desk.root / "rag.toml").write_text(settings, "utf-8")
    done(desk.rag("ingest", "leave.md"))
    return replace(desk, env=desk.env | {"DASHSCOPE_API_KEY": KEY, "RAG_RETRY_BASE": "0.001"})


@pytest.fixture
def desk(ingested: Desk, model: ScriptedModel, tmp_path: Path) -> Desk:
    """One document, three models, the first of which can be used; an audit and costs of its own."""
    apart = tmp_path / "indexes"
    apart.mkdir()
    (apart / "default").symlink_to(ingested.root / "indexes" / "default")
    return replace(ingested, env=ingested.env | {"RAG_INDEXES": str(apart)})


# --- answers ------------------------------------------------------------------------------------


def test_a_model_of_a_profile_is_asked_by_its_name(desk: Desk, model: ScriptedModel) -> None:
    finished = done(desk.rag("ask", QUESTION, "--model", "qwen-3.0"))
    assert finished.stdout.startswith("Annual leave is 15 days a year. [1]")
    [request] = model.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body["model"] == "qwen3-max"
    for path in (desk.root, Path(desk.env["RAG_INDEXES"])):
        files = [file for file in path.rglob("*") if file.is_file()]
        assert not [file for file in files if KEY.encode() in file.read_bytes()]
    keyless = desk.rag("ask", QUESTION, "--model", "qwen-3.0", DASHSCOPE_API_KEY="")
    assert "Set DASHSCOPE_API_KEY." in done(keyless, 1).stderr


def test_an_analyst_calls_its_tools(desk: Desk, model: ScriptedModel) -> None:
    model.next(tool_calls(("calculate", '{"expression": "15 * 8"}')), answer("120 hours [1]."))
    finished = done(desk.rag("ask", QUESTION, "--preset", "analyst"))
    assert finished.stdout.startswith("120 hours [1].\n")
    assert '(calculate {"expression": "15 * 8"} → 120)' in finished.stderr
    offered = {tool["function"]["name"] for tool in model.requests[0].body["tools"]}
    assert offered == {"calculate", "search_knowledge"}


def test_an_answer_fits_a_schema(desk: Desk, model: ScriptedModel, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    file = tmp_path / "days.json"
    file.write_text(json.dumps(schema))
    model.next(answer('{"answer": {"days": 15}, "sources": [1]}'))
    finished = done(desk.rag("ask", QUESTION, "--schema", file))
    assert json.loads(finished.stdout.splitlines()[0]) == {"days": 15}
    model.next(answer("fifteen"), answer("fifteen"))
    failed = parsed(desk.rag("ask", QUESTION, "--schema", file, "--json"), 1)["error"]
    assert failed["code"] == "schema"


@pytest.mark.redis
def test_no_cache_asks_anew(desk: Desk, model: ScriptedModel, redis_url: str) -> None:
    shared = {"RAG_REDIS_URL": redis_url}
    cached = [
        parsed(desk.rag("ask", QUESTION, "--json", *more, **shared))["cached"]
        for more in ([], [], ["--no-cache"])
    ]
    assert cached == [False, True, False]
    assert len(model.requests) == 2


def test_tries_that_fail_are_told_beside_the_answer(desk: Desk, model: ScriptedModel) -> None:
    model.next(*[status(503)] * 4, *[status(401)])
    finished = done(desk.rag("ask", QUESTION))
    assert "the server failed (503). Asking again" in finished.stderr
    assert "Asking bad" in finished.stderr
    assert "Asking gone" in finished.stderr
    assert "No chat model can answer now" in finished.stderr
    assert "Annual leave is 15 days a year. [1]" in finished.stdout


# --- models and money ---------------------------------------------------------------------------


def test_models_are_listed_with_what_they_need(desk: Desk) -> None:
    rows = {row["name"]: row for row in parsed(desk.rag("models", "--json"))}
    assert rows["qwen-3.0"]["state"] == "configured"
    assert rows["deepseek-chat"]["state"] == "needs DEEPSEEK_API_KEY"
    shown = done(desk.rag("models", DASHSCOPE_API_KEY="")).stdout
    [line] = [line for line in shown.splitlines() if line.startswith("qwen-3.0 ")]
    assert "needs DASHSCOPE_API_KEY" in line


def test_each_model_is_called_and_what_is_wrong_is_told(desk: Desk, model: ScriptedModel) -> None:
    def by_model(connection: Connection) -> None:
        refused = connection.request.body["model"] == "bad"
        (status(401) if refused else answer("ok"))(connection)

    model.next(*[by_model] * 6)
    fine = done(desk.rag("models", "check", "qwen-3.0")).stdout.splitlines()
    assert fine[1].split()[:2] == ["qwen-3.0", "ok"]
    found = done(desk.rag("models", "check"), 1).stdout
    assert [line.split()[:2] for line in found.splitlines()[1:4]] == [
        ["qwen-3.0", "ok"], ["bad", "bad"], ["gone", "bad"],
    ]  # fmt: skip
    assert "bad: the server rejected the API key (401)." in found
    assert "gone: the server 127.0.0.1 cannot be reached." in found
    results = parsed(desk.rag("models", "check", "gone", "--json"), 1)
    assert [(r["name"], r["ok"], r["tools"]) for r in results] == [("gone", False, None)]


def test_costs_are_told_after_a_question(desk: Desk, model: ScriptedModel) -> None:
    model.next(status(503))
    done(desk.rag("ask", QUESTION))
    costs = parsed(desk.rag("costs", "--by", "model", "--json"))
    [row] = costs["rows"]
    assert (row["key"], row["calls"], row["prompt_tokens"]) == ("qwen-3.0", 2, 120)
    assert row["cost"] == pytest.approx(COST)
    [caller] = parsed(desk.rag("costs", "--by", "caller", "--json"))["rows"]
    assert caller["key"]  # who sits at the terminal
    assert "0.1340" in done(desk.rag("costs")).stdout


def test_the_status_and_the_doctor_know_the_models(desk: Desk) -> None:
    assert parsed(desk.rag("status", "--json"))["model"] == "qwen-3.0"
    sick = {f["detail"]: f for f in parsed(desk.rag("doctor", "--json", DASHSCOPE_API_KEY=""), 1)}
    finding = sick["There is no way to the model 'qwen-3.0'."]
    assert (finding["state"], finding["hint"]) == ("bad", "Set DASHSCOPE_API_KEY.")


# --- completion, batches, approval --------------------------------------------------------------


def test_code_is_completed_at_the_cursor(desk: Desk, model: ScriptedModel) -> None:
    file = desk.root / "cart.py"
    file.write_text("import math\n\ndef total(prices):\n    return \n\nprint(total([1]))\n")
    model.next(answer("sum(", "prices)"), answer("x"))
    assert done(desk.rag("complete", file, "--at", "4:12")).stdout == "sum(prices)\n"
    asked = model.requests[0].question
    assert "def total(prices):\n    return </before>" in asked
    assert "print(total([1]))" in asked.split("</before>")[1]
    assert "is not a place in a file" in done(desk.rag("complete", file, "--at", "x"), 1).stderr


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_batch_that_was_killed_goes_on_and_pays_nothing_twice(
    desk: Desk, model: ScriptedModel, tmp_path: Path
) -> None:
    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    asked = [{"id": f"q{n}", "question": f"Annual leave in year {n}?"} for n in range(1, 7)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in asked))
    command = ["batch", questions, "-o", answers, "--concurrency", "1"]
    model.next(*[answer("15 days [1].")] * 3, silent)
    with desk.started(*command) as process:
        fourth = model.wait_for(4)
        process.kill()
        process.wait()
    assert [line["id"] for line in lines(answers)] == ["q1", "q2", "q3"]
    finished = done(desk.rag(*command))
    assert "6 questions: 3 answered, 3 done before" in finished.stderr
    assert len(model.requests) == 4 + 3
    assert model.requests[4].question == fourth.question
    assert [line["id"] for line in lines(answers)] == [f"q{n}" for n in range(1, 7)]
    assert all(line["citations"] for line in lines(answers))


def test_an_answer_waits_until_a_person_approves(desk: Desk) -> None:
    held = done(desk.rag("ask", QUESTION, "--preset", "medical"), 4)
    assert "15 days" not in held.stdout + held.stderr
    assert "waits for approval (preset medical)" in held.stderr
    [review] = parsed(desk.rag("reviews", "ls", "--json"))
    assert review["id"] in held.stderr
    shown = done(desk.rag("reviews", "show", review["id"])).stdout
    assert "A: Annual leave is 15 days a year. [1]" in shown
    assert f"{review['id']} approved" in done(desk.rag("reviews", "approve", review["id"])).stdout
    assert "0 answers." in done(desk.rag("reviews", "ls")).stdout
