"""Questions over HTTP: the real server, a real client, and a scripted model behind it."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from rag.config import Settings
from rag.errors import RagError
from tests.scripted_model import (
    DEADLINE,
    USAGE,
    Behaviour,
    ScriptedModel,
    answer,
    cut,
    gated,
    page,
    silent,
    stalled,
    status,
)
from tests.served import FILES, KEY, fake_engine, sample_folder, scripted, served

pytestmark = pytest.mark.slow  # real servers: seconds of starting, stopping and waiting

QUESTION = "How many days of annual leave after ten years of service?"
ANSWER_KEYS = {
    "answer", "refused", "citations", "model", "usage", "timings", "notice", "cached", "data",
    "session_id",
}  # fmt: skip
# What a model says and how it fails is to be seen here as it is, each time.
PLAIN: dict[str, Any] = {
    "threshold": 0.0,
    "ocr": False,
    "cache": False,
    "retry_attempts": 1,
    "breaker_failures": 1000,
    "extractive_fallback": False,
}
CITATION_KEYS = {
    "n", "document_id", "document", "page", "sheet", "row", "heading", "quote", "start", "end",
    "score",
}  # fmt: skip


@pytest.fixture(scope="module")
def one_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def model(one_model: ScriptedModel) -> ScriptedModel:
    one_model.forget()
    return one_model


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample files, ingested once."""
    root = tmp_path_factory.mktemp("api")
    with closing(fake_engine(Settings(indexes=root / "indexes", cache_dir=root / "cache"))) as e:
        e.ingest([sample_folder(root / "documents")], tags=["sample"])
    return root / "indexes"


Serve = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def serve(indexes: Path, one_model: ScriptedModel) -> Iterator[Serve]:
    """Gives a client of a server with these settings; servers of equal settings are one."""
    with ExitStack() as stack:
        clients: dict[str, httpx.Client] = {}

        def start(**changed: object) -> httpx.Client:
            key = repr(sorted(changed.items()))
            if key not in clients:
                settings = Settings(
                    indexes=indexes, cache_dir=indexes.parent / "cache", **PLAIN | changed
                )
                url = stack.enter_context(served(fake_engine(settings)))
                client = httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False)
                clients[key] = stack.enter_context(client)
            return clients[key]

        yield start


@pytest.fixture
def with_model(serve: Serve, model: ScriptedModel) -> Serve:
    """As `serve`, with the scripted model as the chat model."""
    return partial(serve, **scripted(model.url))


@pytest.fixture
def client(with_model: Serve) -> httpx.Client:
    """A server that answers with the scripted model, and no other."""
    return with_model()


def ask(client: httpx.Client, **body: object) -> dict[str, Any]:
    response = client.post("/ask", json={"question": QUESTION} | body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response; every one has the same shape and tells no secret."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert error["message"]
    for secret in (KEY, "Traceback", "site-packages", 'File "'):
        assert secret not in response.text
    return error


def events(
    client: httpx.Client, headers: dict[str, str] | None = None, /, **body: object
) -> list[tuple[str, dict[str, Any]]]:
    sent = {"question": QUESTION, "stream": True} | body
    with client.stream("POST", "/ask", json=sent, headers=headers) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-store"
        return list(parsed(reply.iter_lines()))


def parsed(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


# --- answers ------------------------------------------------------------------------------------


def test_an_answer_has_exactly_the_fields_promised(client: httpx.Client) -> None:
    found = ask(client)
    assert set(found) == ANSWER_KEYS
    assert found["answer"].endswith("15 days of annual leave. [1]")
    assert (found["refused"], found["model"], found["notice"]) == (False, "scripted", "")
    assert found["usage"] == {
        "prompt_tokens": USAGE["prompt_tokens"],
        "completion_tokens": USAGE["completion_tokens"],
        "estimated": False,
        "cost": None,  # nobody knows the price of this model
    }
    assert (found["cached"], found["data"]) == (False, None)
    assert set(found["timings"]) == {"retrieved", "first_token", "total"}
    assert found["timings"]["retrieved"] <= found["timings"]["total"]
    [citation] = found["citations"]
    assert set(citation) == CITATION_KEYS
    assert citation["document"] == "hr/leave.md"
    assert citation["quote"] == "Staff with ten years of service have 15 days of annual leave."
    assert citation["heading"] == ["Annual leave"]


@pytest.mark.parametrize("question", [QUESTION, "工作满十年的员工有几天年假？"])
def test_a_quote_is_the_document_between_its_offsets(client: httpx.Client, question: str) -> None:
    for citation in ask(client, question=question)["citations"]:
        text = client.get(f"/documents/{citation['document_id']}").json()["text"]
        assert citation["quote"] == text[citation["start"] : citation["end"]]


def test_a_plain_question_is_not_streamed_from_the_model(
    client: httpx.Client, model: ScriptedModel
) -> None:
    ask(client)
    assert model.requests[0].body["stream"] is False


def test_marks_cut_between_pieces_are_whole_in_the_stream(
    client: httpx.Client, model: ScriptedModel
) -> None:
    model.next(answer("15 days [", "1", "], 🏖", "️ [7", "]. "))
    found = events(client)
    tokens = [data["text"] for name, data in found if name == "token"]
    assert "[1]" in tokens
    assert "".join(tokens) == "15 days [1], 🏖️ . "  # a source that was never given is no mark


@pytest.mark.parametrize("how", ["body", "header"])
def test_a_stream_is_retrieved_tokens_citations_and_the_answer(
    client: httpx.Client, how: str
) -> None:
    if how == "body":
        found = events(client)
    else:
        found = events(client, {"Accept": "text/event-stream"}, stream=False)
    names = [name for name, _ in found]
    assert names[0] == "retrieved"
    assert set(names[1:-1]) == {"token", "cited"}
    assert names[-1] == "finished"
    assert names.count("finished") == 1
    last = found[-1][1]
    assert set(last) == ANSWER_KEYS
    assert "".join(data["text"] for name, data in found if name == "token") == last["answer"]
    assert [data for name, data in found if name == "cited"] == last["citations"]
    assert found[0][1]["hits"][0]["document"] == "hr/leave.md"


def test_tokens_are_sent_while_the_model_still_writes(
    client: httpx.Client, model: ScriptedModel
) -> None:
    gate = threading.Event()
    model.next(gated(gate, "Fifteen", " days [1]."))
    body = {"question": QUESTION, "stream": True}
    with client.stream("POST", "/ask", json=body) as reply:
        found = parsed(reply.iter_lines())
        assert next(found)[0] == "retrieved"
        assert next(found) == ("token", {"text": "Fifteen"})
        gate.set()
        assert list(found)[-1][0] == "finished"


def test_nothing_found_is_a_refusal_without_a_call(
    client: httpx.Client, model: ScriptedModel
) -> None:
    nowhere = {"filters": {"paths": ["nowhere/*"]}}
    found = ask(client, **nowhere)
    assert found["refused"]
    assert found["citations"] == []
    assert [name for name, _ in events(client, **nowhere)] == ["retrieved", "token", "finished"]
    assert model.requests == []


def test_a_model_that_finds_no_answer_refuses(client: httpx.Client, model: ScriptedModel) -> None:
    sentence = "The documents do not hold an answer to this question."
    model.next(answer(sentence))
    found = ask(client)
    assert (found["refused"], found["answer"]) == (True, sentence)


def test_without_a_model_passages_are_quoted_and_it_is_said(serve: Serve) -> None:
    client = serve()
    found = ask(client)
    assert found["model"] == "extractive"
    assert found["notice"].startswith("No chat model is configured")
    assert found["citations"][0]["quote"] in found["answer"]
    assert client.get("/status").json()["model"]["extractive"] is True


def test_another_model_offered_here_can_be_asked_for(
    with_model: Serve, model: ScriptedModel
) -> None:
    client = with_model(models=("other",))
    assert ask(client, model="other")["model"] == "other"
    assert model.requests[0].body["model"] == "other"
    assert ask(client, model="extractive")["model"] == "extractive"
    assert len(model.requests) == 1


# --- failures of the model ----------------------------------------------------------------------

FAILURES: list[tuple[Behaviour, int, str]] = [
    (status(401), 502, "model_auth"),
    (status(429), 503, "model_busy"),
    (status(400), 502, "model_request"),
    (status(500), 502, "model_unavailable"),
    (page, 502, "model_format"),
    (cut("Fif"), 502, "model_unavailable"),
    (answer("  "), 502, "model_stream"),
]


@pytest.mark.parametrize(("behaviour", "code", "kind"), FAILURES)
def test_a_model_that_fails_is_an_error_with_its_status(
    client: httpx.Client, model: ScriptedModel, behaviour: Behaviour, code: int, kind: str
) -> None:
    model.next(behaviour)
    response = client.post("/ask", json={"question": QUESTION})
    error = problem(response, code)
    assert error["code"].startswith("model")
    assert error["code"] in (kind, "model_stream")


@pytest.mark.parametrize(("behaviour", "_code", "kind"), FAILURES)
def test_a_model_that_fails_ends_the_stream_with_failed(
    client: httpx.Client, model: ScriptedModel, behaviour: Behaviour, _code: int, kind: str
) -> None:
    model.next(behaviour)
    found = events(client)
    name, data = found[-1]
    assert name == "failed"
    assert set(data) == {"code", "message", "hint", "retryable"}
    assert data["code"] in (kind, "model_stream")
    assert KEY not in json.dumps(found)


@pytest.mark.parametrize("behaviour", [silent, stalled("Fif")], ids=["silent", "stalled"])
def test_a_model_that_stalls_is_left_after_its_time(
    with_model: Serve, model: ScriptedModel, behaviour: Behaviour
) -> None:
    client = with_model(model_timeout=0.1)
    model.next(behaviour)
    assert events(client)[-1][0] == "failed"
    assert model.requests[0].gone.wait(DEADLINE)
    model.next(silent)
    error = problem(client.post("/ask", json={"question": QUESTION}), 502)
    assert error["code"] == "model_timeout"
    assert error["retryable"] is True


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_call_to_the_model(
    client: httpx.Client, model: ScriptedModel, stream: bool
) -> None:
    model.next(silent)
    body = json.dumps({"question": QUESTION, "stream": stream})
    head = f"POST /ask HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    url = client.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        request = model.wait_for(1)
        assert not request.gone.is_set()
    assert request.gone.wait(DEADLINE)
    assert ask(client)["refused"] is False  # and the server goes on


# --- conversations ------------------------------------------------------------------------------


def turns(model: ScriptedModel, number: int) -> list[str]:
    """What was said before the question of the `number`-th call."""
    return [m["content"] for m in model.requests[number].body["messages"][1:-1]]


@pytest.fixture
def session() -> str:
    """A name nobody has used."""
    return uuid.uuid4().hex


def test_a_session_remembers_what_was_said(
    client: httpx.Client, model: ScriptedModel, session: str
) -> None:
    model.next(answer("15 days [1]."), answer("31 March [1]."), answer("Hello [1]."))
    assert ask(client, session_id=session)["session_id"] == session
    events(client, question="And when do they expire?", session_id=session)
    ask(client, question="Annual leave of somebody else?", session_id=session + "2")
    assert turns(model, 0) == []
    assert turns(model, 1) == [QUESTION, "15 days [1]."]
    assert turns(model, 2) == []


def test_a_turn_that_failed_is_not_remembered(
    client: httpx.Client, model: ScriptedModel, session: str
) -> None:
    model.next(status(500), cut("Fif"), answer("15 days [1]."))
    problem(client.post("/ask", json={"question": "annual leave?", "session_id": session}), 502)
    assert events(client, question="annual leave??", session_id=session)[-1][0] == "failed"
    ask(client, session_id=session)
    assert turns(model, 2) == []


def test_history_that_is_sent_takes_the_place_of_the_session(
    client: httpx.Client, model: ScriptedModel, session: str
) -> None:
    ask(client, session_id=session)
    history = [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
    ]
    ask(client, session_id=session, history=history)
    assert turns(model, 1) == ["Hello?", "Hello."]
    ask(client, session_id=session, history=[])
    assert turns(model, 2) == []


# --- images -------------------------------------------------------------------------------------


def png(size: tuple[int, int] = (2, 2)) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_picture_reaches_a_model_that_can_see(with_model: Serve, model: ScriptedModel) -> None:
    client = with_model(vision=True, max_image_pixels=1_000_000)
    ask(client, images=[png()])
    content = model.requests[0].body["messages"][-1]["content"]
    assert content[0] == {"type": "text", "text": QUESTION}
    assert content[1] == {"type": "image_url", "image_url": {"url": png()}}


def test_a_model_without_eyes_gets_no_picture(client: httpx.Client, model: ScriptedModel) -> None:
    body = {"question": QUESTION, "images": [png()]}
    for stream in (False, True):  # also a stream is refused before it begins
        error = problem(client.post("/ask", json=body | {"stream": stream}), 400)
        assert error["code"] == "no_vision"
        assert error["message"] == "scripted cannot see images."
        assert "RAG_VISION" in error["hint"]
    assert model.requests == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("https://example.org/a.png", "is not a base64 data URL"),
        ("data:image/png;base64,%%%", "is not valid base64"),
        ("data:image/png;base64,aGVsbG8=", "is not a picture"),
        (png((1001, 1001)), "million pixels"),
    ],
)
def test_a_bad_picture_is_refused_with_the_reason(
    with_model: Serve, model: ScriptedModel, image: str, said: str
) -> None:
    client = with_model(vision=True, max_image_pixels=1_000_000)
    error = problem(client.post("/ask", json={"question": QUESTION, "images": [image]}), 400)
    assert said in error["message"]
    assert model.requests == []


# --- requests that cannot be used ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "kind"),
    [
        ({}, 422, "invalid"),
        ({"question": QUESTION, "colour": "red"}, 422, "invalid"),
        ({"question": QUESTION, "top_k": 0}, 422, "invalid"),
        ({"question": QUESTION, "filters": {"owner": "me"}}, 422, "invalid"),
        ({"question": QUESTION, "history": [{"role": "system", "content": "x"}]}, 422, "invalid"),
        ({"question": " \n"}, 400, "input"),
        ({"question": "x" * 8001}, 400, "input"),
        ({"question": QUESTION, "knowledge_base": "../etc"}, 400, "input"),
        ({"question": QUESTION, "knowledge_base": "other"}, 404, "not_found"),
        ({"question": QUESTION, "model": "gpt-9"}, 400, "input"),
    ],
)
def test_a_request_that_cannot_be_used_is_told_so(
    client: httpx.Client, model: ScriptedModel, body: dict[str, Any], code: int, kind: str
) -> None:
    for more in ({}, {"stream": True}):
        error = problem(client.post("/ask", json=body | more), code)
        assert error["code"] == kind
    assert model.requests == []


def test_a_field_that_is_wrong_is_named(client: httpx.Client) -> None:
    error = problem(client.post("/ask", json={"question": QUESTION, "colour": "red"}), 422)
    assert "colour" in error["message"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[]"])
def test_a_body_that_is_not_json_is_told_so(client: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert problem(client.post("/ask", content=content, headers=headers), 422)


@pytest.mark.parametrize(
    "body",
    [
        b'{"question": "annual leave \\ud800?"}',
        b'{"question": "leave?", "session_id": "\\udfff"}',
        b'{"question": "leave?", "history": [{"role": "user", "content": "\\ud83c"}]}',
    ],
)
def test_half_a_character_is_told_so(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    error = problem(client.post("/ask", content=body, headers=headers), 422)
    assert "half a character" in error["message"]


def test_a_wrong_method_or_path_has_the_same_shape(client: httpx.Client) -> None:
    problem(client.get("/nowhere"), 404)
    problem(client.put("/ask"), 405)


def test_a_bug_is_an_error_of_the_same_shape(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"a secret: {KEY}")

    monkeypatch.setattr("rag.engine.Engine.retrieve", broken)
    headers = {"Connection": "close"}  # which is what the server does after a bug
    response = client.post("/retrieve", json={"question": QUESTION}, headers=headers)
    assert problem(response, 500)["code"] == "internal"


def test_a_bug_within_a_stream_ends_it_with_failed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"a secret: {KEY}")

    monkeypatch.setattr("rag.extract.Extractor.best", broken)
    name, data = events(client)[-1]
    assert (name, data["code"]) == ("failed", "internal")
    assert KEY not in json.dumps(data)


def test_every_error_of_the_tree_has_a_status(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()

    def kinds(kind: type[RagError]) -> Iterator[type[RagError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from kinds(below)

    for kind in kinds(RagError):

        def fail(*_: object, kind: type[RagError] = kind, **__: object) -> None:
            raise kind("It broke.", "Mend it.")

        monkeypatch.setattr("rag.engine.Engine.retrieve", fail)
        response = client.post("/retrieve", json={"question": QUESTION})
        error = problem(response, response.status_code)
        assert response.status_code >= 400
        assert error == {
            "code": kind.code,
            "message": "It broke.",
            "hint": "Mend it.",
            "retryable": kind.retryable,
        }


# --- retrieval alone ----------------------------------------------------------------------------


def test_passages_are_found_with_both_scores(client: httpx.Client, model: ScriptedModel) -> None:
    hits = client.post("/retrieve", json={"question": QUESTION, "top_k": 2}).json()["hits"]
    assert [hit["n"] for hit in hits] == [1, 2]
    assert hits[0]["document"] == "hr/leave.md"
    assert set(hits[0]) == {
        "n", "document_id", "document", "title", "page", "sheet", "row", "heading", "text",
        "start", "end", "score", "dense", "keyword", "via",
    }  # fmt: skip
    assert all(0 <= hit["score"] <= 1 for hit in hits)
    text = client.get(f"/documents/{hits[0]['document_id']}").json()["text"]
    assert hits[0]["text"] == text[hits[0]["start"] : hits[0]["end"]]
    assert model.requests == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"paths": ["it/*"]}, {"it/travel.txt"}),
        ({"types": ["txt"]}, {"it/travel.txt"}),
        ({"documents": ["hr/年假.md"]}, {"hr/年假.md"}),
        ({"tags": ["sample"]}, set(FILES)),
        ({"tags": ["none"]}, set()),
        ({"paths": ["hr/*"], "types": ["txt"]}, set()),
    ],
)
def test_filters_choose_the_documents(
    client: httpx.Client, filters: dict[str, list[str]], found: set[str]
) -> None:
    body = {"question": "annual leave 年假 hotel", "filters": filters, "top_k": 50}
    hits = client.post("/retrieve", json=body).json()["hits"]
    assert {hit["document"] for hit in hits} == found


def test_a_threshold_leaves_out_what_is_not_sure(client: httpx.Client) -> None:
    body = {"question": "annual leave", "threshold": 1.0}
    assert client.post("/retrieve", json=body).json() == {"hits": []}
