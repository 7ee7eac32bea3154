"""What another website, or a request without measure, may not do."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rag.config import Settings
from rag.engine import Engine
from tests.served import served

pytestmark = pytest.mark.slow  # a server of its own for nearly every test


@pytest.fixture
def client(settings: Settings, engine: Engine) -> Iterator[httpx.Client]:
    engine.settings = settings.model_copy(update={"max_request_mb": 1})
    with served(engine) as url, httpx.Client(base_url=url) as client:
        yield client


def test_another_websites_page_cannot_add_a_document(client: httpx.Client) -> None:
    files = {"files": ("evil.md", b"# Evil")}
    refused = client.post("/documents", files=files, headers={"origin": "https://evil.example"})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "origin"
    assert client.get("/documents").json()["documents"] == []


def test_the_servers_own_page_and_other_programs_can(client: httpx.Client) -> None:
    files = {"files": ("good.md", b"# Good\n\nText.")}
    own = str(client.base_url).rstrip("/")
    assert client.post("/documents", files=files, headers={"origin": own}).status_code == 200
    assert client.post("/documents", files=files).status_code == 200


def test_a_request_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    files = {"files": ("big.md", b"x" * 1_100_000)}
    refused = client.post("/documents", files=files)
    assert refused.status_code == 413
    assert "RAG_MAX_REQUEST_MB" in refused.json()["error"]["hint"]


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    headers = {"content-type": "application/json"}
    try:
        status = client.post("/ask", content=endless(), headers=headers).status_code
    except httpx.TransportError:
        status = 0
    assert status != 200
    assert client.get("/healthz").status_code == 200
