"""The OpenAI-format endpoint: what is sent, and how each failure is told."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.embed import EndpointEmbedder
from rag.embed import openai as endpoint
from rag.errors import EmbedderError, EmbedderUnavailableError
from tests.embed_parts import EmbeddingServer, embedding_server, honest
from tests.fakes import FakeEmbedder

KEY = "sk-very-secret"


@pytest.fixture
def server() -> Any:
    with embedding_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_RETRIES", 0)


def test_vectors_are_sorted_by_index_and_normalised(server: EmbeddingServer) -> None:
    texts = ["猫吃鱼", "股市", "the cat"]
    vectors = EndpointEmbedder(server.url, KEY, "tiny").embed_documents(texts)
    np.testing.assert_allclose(
        vectors, FakeEmbedder(dimension=16).embed_documents(texts), atol=1e-6
    )


def test_the_request_names_model_key_and_plain_floats(server: EmbeddingServer) -> None:
    embedder = EndpointEmbedder(server.url, KEY, "tiny")
    assert embedder.fingerprint.model == "openai:tiny"
    assert embedder.fingerprint.dimension == 16
    assert server.requests == [{"model": "tiny", "input": ["."], "encoding_format": "float"}]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_wanted_dimension_is_asked_for(server: EmbeddingServer) -> None:
    embedder = EndpointEmbedder(server.url, KEY, "tiny", 8)
    assert server.requests[0]["dimensions"] == 8
    assert embedder.fingerprint.dimension == 8


def test_many_texts_go_in_batches_of_64_and_of_bounded_length(server: EmbeddingServer) -> None:
    embedder = EndpointEmbedder(server.url, KEY, "tiny")
    embedder.embed_documents(["猫"] * 130)
    assert [len(request["input"]) for request in server.requests[1:]] == [64, 64, 2]
    server.requests.clear()
    embedder.embed_documents(["cat " * 5000] * 7)
    assert [len(request["input"]) for request in server.requests] == [3, 3, 1]


def test_empty_text_is_never_sent(server: EmbeddingServer) -> None:
    EndpointEmbedder(server.url, KEY, "tiny").embed_documents(["", "  "])
    assert server.requests[-1]["input"] == [".", "."]


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, EmbedderUnavailableError, "refused the key"),
        (403, EmbedderUnavailableError, "refused the key"),
        (404, EmbedderUnavailableError, "does not know openai:tiny"),
        (400, EmbedderError, "HTTP 400"),
        (500, EmbedderError, "HTTP 500"),
    ],
)
def test_a_refusal_is_told_without_the_key(
    server: EmbeddingServer, status: int, kind: type[EmbedderError], says: str
) -> None:
    server.script = lambda _: (status, {"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(kind, match=says) as caught:
        EndpointEmbedder(server.url, KEY, "tiny")
    assert KEY not in str(caught.value)
    assert caught.value.hint


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:password@127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EmbedderUnavailableError, match=r"127\.0\.0\.1 cannot be reached") as e:
            EndpointEmbedder(url, KEY, "tiny")
    assert "password" not in str(e.value)


def test_a_server_that_stalls_is_given_up(server: EmbeddingServer) -> None:
    release = threading.Event()

    def stall(request: dict[str, Any]) -> tuple[int, Any]:
        release.wait(10)
        return honest(request)

    server.script = stall
    try:
        with pytest.raises(EmbedderUnavailableError, match="did not answer in time"):
            EndpointEmbedder(server.url, KEY, "tiny", timeout=0.05)
    finally:
        release.set()


def _changed(**change: Any) -> Any:
    def script(request: dict[str, Any]) -> tuple[int, Any]:
        _, reply = honest(request)
        return 200, {**reply, **change}

    return script


def _row(index: int, *values: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": list(values)}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (_changed(data=[_row(0, *[1.0] * 16)]), "1 vectors for 2 texts"),
        (_changed(data=[_row(0, *[1.0] * 16)] * 2), "do not match the texts"),
        (_changed(data=[_row(0, 1.0), _row(1, 1.0)]), "instead of 16"),
        (_changed(data=[_row(0, 1.0), _row(1, 1.0, 2.0)]), "numbers of one length"),
        (_changed(data=[_row(0, *[0.0] * 16), _row(1, *[0.0] * 16)]), "of no length"),
        (lambda _: (200, {"nothing": 1}), "for 2 texts|cannot be read"),
        (lambda _: (200, b"<html>not a model</html>"), "127.0.0.1 sent"),
    ],
)
def test_an_answer_that_cannot_be_right_is_an_error(
    server: EmbeddingServer, script: Any, says: str
) -> None:
    embedder = EndpointEmbedder(server.url, KEY, "tiny")
    server.script = script
    with pytest.raises(EmbedderError, match=says):
        embedder.embed_documents(["猫", "鱼"])


def test_a_busy_server_is_asked_again(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_RETRIES", 1)
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0)
    embedder = EndpointEmbedder(server.url, KEY, "tiny")
    answers = iter([lambda _: (503, {}), honest])
    server.script = lambda request: next(answers)(request)
    assert embedder.embed_query("猫").shape == (16,)


def test_openai_itself_needs_a_key_and_a_server_of_ones_own_does_not(
    server: EmbeddingServer,
) -> None:
    with pytest.raises(EmbedderUnavailableError, match="needs a key"):
        EndpointEmbedder(None, None, "text-embedding-3-small")
    assert EndpointEmbedder(server.url, None, "tiny").fingerprint.dimension == 16


def test_estimates_count_wide_characters_as_one_token_and_four_others_as_one(
    server: EmbeddingServer,
) -> None:
    embedder = EndpointEmbedder(server.url, KEY, "tiny")
    assert embedder.count_tokens("知识库 问答") == 6
    assert embedder.count_tokens("knowledge") == 3


@given(st.lists(st.text(max_size=50), max_size=200))
def test_batches_hold_every_text_once_in_order(texts: list[str]) -> None:
    batches = list(endpoint._batches(iter(texts)))
    assert [text for batch in batches for text in batch] == texts
    assert all(0 < len(batch) <= 64 for batch in batches)
