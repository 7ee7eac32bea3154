"""Documents over HTTP, ingests by others, and what a server says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from tests.fakes import FakeEmbedder
from tests.scripted_model import DEADLINE
from tests.served import FILES, fake_engine, sample_folder, served

pytestmark = pytest.mark.slow  # a server of its own for nearly every test

if TYPE_CHECKING:
    from rag.types import Matrix

File = tuple[str, str | bytes]


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    """A server with nothing in it."""
    with (
        served(fake_engine(settings)) as url,
        httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server over the sample files, which no test changes."""
    root = tmp_path_factory.mktemp("documents")
    settings = Settings(indexes=root / "indexes", cache_dir=root / "cache", threshold=0.0)
    engine = fake_engine(settings)
    engine.ingest([sample_folder(root / "files")], tags=["sample"])
    with (
        served(engine) as url,
        httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False) as client,
    ):
        yield client


def upload(client: httpx.Client, *files: File, **form: object) -> dict[str, Any]:
    sent = [("files", file) for file in files]
    response = client.post("/documents", files=sent, data=form)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


def names(client: httpx.Client, **query: str) -> list[str]:
    return [d["name"] for d in client.get("/documents", params=query).json()["documents"]]


def text_of(client: httpx.Client, name: str) -> str:
    documents = client.get("/documents").json()["documents"]
    [found] = [d["id"] for d in documents if d["name"] == name]
    text: str = client.get(f"/documents/{found}").json()["text"]
    return text


def ask(client: httpx.Client, question: str) -> dict[str, Any]:
    found: dict[str, Any] = client.post("/ask", json={"question": question}).json()
    return found


def found(client: httpx.Client, question: str) -> list[str]:
    """The documents of the best passages."""
    hits = client.post("/retrieve", json={"question": question}).json()["hits"]
    return [hit["document"] for hit in hits]


LEAVE = ("leave.md", "# Leave\n\nAnnual leave is 15 days.\n")
HOTEL = ("hotel.txt", "A hotel costs at most 650 a night.\n")


# --- adding, replacing, removing ----------------------------------------------------------------


def test_uploads_can_be_asked_about_at_once(client: httpx.Client) -> None:
    report = upload(client, LEAVE, HOTEL)
    assert report["added"] == ["leave.md", "hotel.txt"]
    assert report["failed"] == []
    assert (report["chunks"], report["generation"]) == (2, 1)
    assert names(client) == ["hotel.txt", "leave.md"]
    answer = ask(client, "annual leave")
    assert answer["citations"][0]["document"] == "leave.md"


def test_a_bad_file_fails_alone_and_says_why(client: httpx.Client) -> None:
    report = upload(client, LEAVE, ("scan.pdf", b"not a pdf"), ("a.exe", b"MZ"), ("e.txt", b""))
    assert report["added"] == ["leave.md"]
    assert {f["name"]: f["code"] for f in report["failed"]} == {
        "scan.pdf": "damaged_file",
        "a.exe": "unsupported_type",
        "e.txt": "empty_file",
    }
    assert all(f["reason"] and "Traceback" not in f["reason"] for f in report["failed"])


def test_a_document_of_the_same_name_is_replaced(client: httpx.Client) -> None:
    upload(client, LEAVE)
    report = upload(client, ("leave.md", "Annual leave is 20 days."))
    assert (report["changed"], report["added"]) == (["leave.md"], [])
    assert text_of(client, "leave.md").strip() == "Annual leave is 20 days."
    assert "15" not in ask(client, "annual leave")["answer"]
    assert upload(client, ("leave.md", "Annual leave is 20 days."))["unchanged"] == ["leave.md"]


def test_an_upload_that_cannot_be_read_loses_nothing(client: httpx.Client) -> None:
    upload(client, LEAVE, HOTEL)
    report = upload(client, ("leave.md", b"\x00\x01\x02\xff\xfe\x00" * 50))
    assert [f["name"] for f in report["failed"]] == ["leave.md"]
    assert names(client) == ["hotel.txt", "leave.md"]
    assert "15 days" in text_of(client, "leave.md")


def test_a_path_in_a_file_name_is_left_out(client: httpx.Client) -> None:
    assert upload(client, ("../../etc/leave.md", LEAVE[1]))["added"] == ["leave.md"]


def test_a_file_beyond_the_limit_is_refused(settings: Settings) -> None:
    small = Settings(**settings.model_dump(exclude_unset=True) | {"max_file_mb": 1})
    with served(fake_engine(small)) as url:
        big = ("big.txt", b"word " * 250_000)
        report = httpx.post(f"{url}/documents", files=[("files", big)], timeout=DEADLINE).json()
    assert [(f["name"], f["code"]) for f in report["failed"]] == [("big.txt", "file_too_large")]


def test_tags_and_knowledge_bases_are_kept_apart(client: httpx.Client) -> None:
    upload(client, LEAVE, tags=["hr", "2026"])
    upload(client, HOTEL, knowledge_base="travel")
    assert names(client, tag="hr") == ["leave.md"]
    assert names(client, tag="it") == []
    assert names(client, knowledge_base="travel") == ["hotel.txt"]
    bases = client.get("/status").json()["knowledge_bases"]
    assert [(b["name"], b["documents"]) for b in bases] == [("default", 1), ("travel", 1)]


def test_a_deleted_document_answers_nothing_more(client: httpx.Client) -> None:
    upload(client, LEAVE, HOTEL)
    documents = client.get("/documents").json()["documents"]
    gone = next(d["id"] for d in documents if d["name"] == "leave.md")
    assert client.delete(f"/documents/{gone}").json() == {"deleted": gone}
    assert names(client) == ["hotel.txt"]
    assert {c["document"] for c in ask(client, "annual leave")["citations"]} <= {"hotel.txt"}
    for response in (client.delete(f"/documents/{gone}"), client.get(f"/documents/{gone}")):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


def test_an_upload_without_files_is_told_so(client: httpx.Client) -> None:
    response = client.post("/documents", data={"knowledge_base": "default"})
    assert response.status_code == 422
    assert "files" in response.json()["error"]["message"]


def test_a_server_with_nothing_in_it_answers_all_the_same(client: httpx.Client) -> None:
    assert client.get("/documents").json() == {"documents": [], "generation": 0}
    assert client.get("/status").json()["knowledge_bases"] == []
    response = client.post("/ask", json={"question": "annual leave"})
    assert response.status_code == 404
    assert "rag ingest" in response.json()["error"]["hint"]


def test_a_document_is_shown_with_its_elements(sample: httpx.Client) -> None:
    documents = sample.get("/documents", params={"type": "md"}).json()["documents"]
    assert set(documents[0]) == {
        "id", "name", "type", "title", "size", "tags", "chunks", "updated_at",
    }  # fmt: skip
    found = next(d for d in documents if d["name"] == "hr/年假.md")
    assert found["size"] == len(FILES["hr/年假.md"].encode())
    shown = sample.get(f"/documents/{found['id']}").json()
    kinds = [(e["kind"], shown["text"][e["start"] : e["end"]]) for e in shown["elements"]]
    assert kinds[0][0] == "heading"
    assert "年假" in kinds[0][1]
    assert kinds[1] == ("text", "𠮷野同事🏖️说：工作满十年的员工有十五天年假。")
    assert names(sample, path="it/*") == ["it/travel.txt"]


# --- beside other processes ---------------------------------------------------------------------


class _HeldEmbedder(FakeEmbedder):
    """Embeds documents only once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.let_go = threading.Event(), threading.Event()

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        self.reached.set()
        assert self.let_go.wait(DEADLINE)
        return super().embed_documents(texts)


def test_an_ingest_elsewhere_is_seen_within_a_second_and_stops_nobody(
    client: httpx.Client, settings: Settings, folder: Callable[..., Path]
) -> None:
    upload(client, LEAVE)
    embedder = _HeldEmbedder()
    with closing(Engine(settings, choose=lambda *_: Choice(embedder, "held"))) as other:
        thread = threading.Thread(target=other.ingest, args=([folder(**{HOTEL[0]: HOTEL[1]})],))
        thread.start()
        assert embedder.reached.wait(DEADLINE)
        assert ask(client, "annual leave")["citations"][0]["document"] == "leave.md"
        assert names(client) == ["leave.md"]
        embedder.let_go.set()
        thread.join(DEADLINE)
        published = time.monotonic()
        while "hotel.txt" not in found(client, "A hotel costs at most how much?"):
            assert time.monotonic() - published < 1.0
        assert names(client) == ["hotel.txt", "leave.md"]


def test_while_another_process_writes_an_upload_is_told_to_wait(
    client: httpx.Client, settings: Settings, folder: Callable[..., Path]
) -> None:
    upload(client, LEAVE)
    embedder = _HeldEmbedder()
    with closing(Engine(settings, choose=lambda *_: Choice(embedder, "held"))) as other:
        thread = threading.Thread(target=other.ingest, args=([folder(**{HOTEL[0]: HOTEL[1]})],))
        thread.start()
        assert embedder.reached.wait(DEADLINE)
        response = client.post("/documents", files=[("files", ("b.txt", b"More."))])
        embedder.let_go.set()
        thread.join(DEADLINE)
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "busy"
    assert response.json()["error"]["retryable"] is True


# --- what the server says of itself -------------------------------------------------------------


def test_health_is_told_without_a_question(sample: httpx.Client) -> None:
    body = sample.get("/healthz").json()
    assert body["status"] == "ok"
    assert body["version"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/main.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_is_served_with_the_headers_that_keep_it_safe(
    sample: httpx.Client, path: str, kind: str
) -> None:
    response = sample.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == kind
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_nothing_but_the_page_is_served_as_files(sample: httpx.Client) -> None:
    for path in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd"):
        assert sample.get(path).status_code == 404


def test_the_description_has_every_door_and_examples(sample: httpx.Client) -> None:
    described = sample.get("/openapi.json").json()
    assert set(described["paths"]) >= {
        "/ask", "/retrieve", "/documents", "/documents/{document_id}", "/healthz", "/status",
    }  # fmt: skip
    schemas = described["components"]["schemas"]
    for name in ("AskBody", "AnswerBody", "RetrieveBody"):
        assert schemas[name]["examples"], name
    content = described["paths"]["/ask"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert operation.get("description"), path


def test_the_example_questions_are_accepted(sample: httpx.Client) -> None:
    schemas = sample.get("/openapi.json").json()["components"]["schemas"]
    for body in schemas["AskBody"]["examples"]:
        assert sample.post("/ask", json=body).status_code == 200
    for body in schemas["RetrieveBody"]["examples"]:
        assert sample.post("/retrieve", json=body).status_code == 200
