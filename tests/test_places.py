"""Where a knowledge base lives, and how those who have it open follow when it moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.errors import ConfigError, InputError, NotFoundError
from tests.fakes import FakeEmbedder

Folder = Callable[..., Path]


@pytest.fixture
def in_milvus(settings: Settings, tmp_path: Path, embedder: FakeEmbedder) -> Iterator[Engine]:
    """An engine that knows the way to Milvus Lite."""
    known = settings.model_copy(update={"milvus_uri": _secret(tmp_path / "milvus.db")})
    engine = Engine(known, choose=lambda *_: Choice(embedder, "a fake, for tests"))
    yield engine
    engine.close()


def _secret(path: Path) -> object:
    return Settings(milvus_uri=str(path)).milvus_uri  # type: ignore[arg-type]


def found(engine: Engine, question: str) -> list[str]:
    return [hit.document for hit in engine.retrieve(question, threshold=0.0)]


def test_looking_makes_nothing(engine: Engine, settings: Settings) -> None:
    assert engine.names() == []
    assert engine.bases.places.place("default") is None
    with pytest.raises(NotFoundError):
        engine.store("default")
    assert not settings.indexes.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".milvus", "x" * 65, "a b"])
def test_a_name_cannot_lead_out_of_the_folder(engine: Engine, name: str) -> None:
    with pytest.raises(InputError, match="cannot name"):
        engine.bases.places.place(name)


def test_without_the_address_a_moved_one_is_an_error_and_not_its_old_copy(
    engine: Engine, folder: Folder
) -> None:
    engine.ingest([folder(**{"a.md": "# A\n\nzebra"})])
    engine.bases.places.settle("default", "milvus")
    assert engine.names() == ["default"]
    with pytest.raises(ConfigError, match="no address"):
        engine.retrieve("zebra")
    engine.bases.places.settle("default", "embedded")
    assert found(engine, "zebra") == ["a.md"]


def test_what_a_knowledge_base_lives_in_is_not_discarded(engine: Engine, folder: Folder) -> None:
    engine.ingest([folder(**{"a.md": "# A\n\nzebra"})])
    with pytest.raises(InputError, match="lives there"):
        engine.bases.places.discard("default", "embedded")
    assert found(engine, "zebra") == ["a.md"]


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_an_open_knowledge_base_follows_when_it_moves(in_milvus: Engine, folder: Folder) -> None:
    root = folder(**{"a.md": "# A\n\nzebra"})
    in_milvus.ingest([root])
    assert found(in_milvus, "zebra") == ["a.md"]
    in_milvus.moving.migrate("milvus")
    assert found(in_milvus, "zebra") == ["a.md"]
    in_milvus.ingest([folder(**{"b.md": "# B\n\nlion"})])
    assert found(in_milvus, "lion")[0] == "b.md"
    in_milvus.moving.migrate("embedded")  # what came meanwhile goes along
    assert found(in_milvus, "lion")[0] == "b.md"
    assert in_milvus.bases.places.place("default") == "embedded"


@pytest.mark.slow
@pytest.mark.milvus_lite
def test_who_opened_a_writer_while_it_moved_writes_where_it_is_now(
    in_milvus: Engine, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_milvus.ingest([folder(**{"a.md": "# A\n\nzebra"})])
    old = in_milvus.bases.open_store("default")
    fingerprint = old.fingerprint
    assert fingerprint is not None
    opened = in_milvus.bases.open_store
    moved = threading.Event()

    def move_first(name: str) -> object:
        store = opened(name)
        if not moved.is_set():  # between the opening and the lock, another moves it
            moved.set()
            in_milvus.moving.migrate("milvus")
        return store

    monkeypatch.setattr(in_milvus.bases, "open_store", move_first)
    with in_milvus.bases.writer("default", fingerprint) as writer:
        writer.remove(next(iter(writer.known())))
        writer.publish()
    assert [i.name for i in old.documents()] == ["a.md"]
    assert in_milvus.bases.open_store("default").documents() == []


def test_an_open_knowledge_base_follows_when_another_process_makes_it_anew(
    engine: Engine, settings: Settings, embedder: FakeEmbedder, folder: Folder
) -> None:
    engine.ingest([folder(**{"a.md": "# A\n\nzebra"})])
    assert found(engine, "zebra") == ["a.md"]
    other = Engine(settings, choose=lambda *_: Choice(embedder, "a fake, for tests"))
    other.keeping.drop()
    with pytest.raises(NotFoundError):
        engine.retrieve("zebra")
    other.ingest([folder(**{"b.md": "# B\n\nlion"})])
    other.close()
    engine.refresh()  # as a server does several times a second
    assert found(engine, "lion")[0] == "b.md"
    assert {i.name for i in engine.store("default").documents()} == {"a.md", "b.md"}


def test_what_a_drop_that_died_has_left_is_no_knowledge_base_and_goes_with_the_next(
    engine: Engine, settings: Settings, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(**{"a.md": "# A\n\nzebra"})
    engine.ingest([root])

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rag.places.shutil.rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            engine.keeping.drop()
    assert engine.names() == []
    assert list(settings.indexes.glob(".default.gone-*"))
    engine.ingest([root])
    assert found(engine, "zebra") == ["a.md"]
    engine.keeping.drop()
    assert not list(settings.indexes.glob(".default.gone-*"))
