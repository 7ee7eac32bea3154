"""What several test modules need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.types import AnswerEvent
from tests.fakes import FakeEmbedder
from tests.services import postgres_server, redis_server

KNOWLEDGE = Path(__file__).parent.parent / "knowledge"


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    """Tests see neither the developer's `.env` and `rag.toml` nor a key in the environment."""
    monkeypatch.chdir(elsewhere)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RAG_MODEL", "RAG_INDEXES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a real Redis that all tests of this run share: use keys of your own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy's, of a real PostgreSQL that all tests of this run share."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose every place lies in the test's own folder."""
    return Settings(
        indexes=tmp_path / "indexes",
        cache_dir=tmp_path / "cache",
        threshold=0.0,
        ocr=False,
        parse_workers=0,
    )


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def engine(settings: Settings, embedder: FakeEmbedder) -> Iterator[Engine]:
    """A whole engine, with an instant embedder instead of a model."""
    engine = Engine(settings, choose=lambda *_: Choice(embedder, "a fake, for tests"))
    yield engine
    engine.close()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of documents: `folder(**{"a.md": "# A"})`; called again, it changes it."""

    def make(**files: str | bytes) -> Path:
        root = tmp_path / "documents"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return make


@pytest.fixture
def events_of() -> Callable[..., list[AnswerEvent]]:
    """All events of an answer: `events_of(engine, "question", top_k=3)`."""

    def collect(engine: Engine, question: str, **options: object) -> list[AnswerEvent]:
        async def run() -> list[AnswerEvent]:
            return [event async for event in engine.ask(question, **options)]  # type: ignore[arg-type]

        return asyncio.run(run())

    return collect
