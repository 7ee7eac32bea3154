"""A knowledge base moves to another embedding model while questions go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rag.bases
from rag.config import Settings
from rag.embed import Choice
from rag.engine import Engine
from rag.errors import EmbedderError, EmbedderUnavailableError, FingerprintError
from rag.types import Fingerprint
from tests.fakes import FakeEmbedder

if TYPE_CHECKING:
    from rag.types import Matrix

TEXTS = {"leave.md": "# Leave\n\nTen days a year.", "pay.md": "# Pay\n\nMoney comes on the 5th."}


class Models:
    """Embedding models by name, as `choose_embedder` and `open_embedder` would give them."""

    def __init__(self) -> None:
        self.old = FakeEmbedder(model="old", dimension=64)
        self.new = FakeEmbedder(model="new", dimension=32)

    def choose(
        self, _settings: Settings, recorded: Fingerprint | None, _progress: object
    ) -> Choice:
        name = recorded.model if recorded else "old"
        return Choice(self.open(name, None, None), "for a test")

    def open(self, name: str, _settings: object, _progress: object) -> FakeEmbedder:
        models = {"old": self.old, "new": self.new}
        if name not in models:
            raise EmbedderUnavailableError(f"{name} is not to be had.")
        return models[name]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    models = Models()
    monkeypatch.setattr(rag.bases, "open_embedder", models.open)
    return models


@pytest.fixture
def make_engine(settings: Settings, models: Models) -> Callable[[], Engine]:
    return lambda: Engine(settings, choose=models.choose)


@pytest.fixture
def filled(make_engine: Callable[[], Engine], folder: Callable[..., Path]) -> Engine:
    engine = make_engine()
    engine.ingest([folder(**TEXTS)], tags=["hr"])
    return engine


def answers(engine: Engine) -> list[str]:
    return [hit.document for hit in engine.retrieve("Money comes", top_k=1)]


def test_everything_is_embedded_with_the_new_model_and_nothing_is_lost(
    filled: Engine, models: Models
) -> None:
    before = filled.store("default").documents()
    report = filled.reindex("new")
    after = filled.store("default").documents()
    assert [(d.id, d.name, d.tags, d.content_hash) for d in after] == [
        (d.id, d.name, d.tags, d.content_hash) for d in before
    ]
    assert report.embedded == 2
    assert filled.knowledge_base().store.fingerprint == models.new.fingerprint
    assert answers(filled) == ["pay.md"]


def test_a_server_in_another_process_follows(
    filled: Engine, make_engine: Callable[[], Engine], models: Models
) -> None:
    server = make_engine()
    assert answers(server) == ["pay.md"]
    filled.reindex("new")
    assert answers(server) == ["pay.md"]  # with the old vectors, until it looks
    server.refresh()
    assert answers(server) == ["pay.md"]
    assert server.knowledge_base().embedder is models.new


def test_one_that_was_closed_opens_with_the_new_model(
    filled: Engine, make_engine: Callable[[], Engine], models: Models
) -> None:
    filled.reindex("new")
    assert answers(make_engine()) == ["pay.md"]
    assert make_engine().knowledge_base().embedder is models.new


def test_the_next_ingest_finds_everything_unchanged(
    filled: Engine, folder: Callable[..., Path], models: Models
) -> None:
    filled.reindex("new")
    embedded = models.new.texts
    report = filled.ingest([folder()])
    assert (sorted(report.unchanged), report.embedded) == (sorted(TEXTS), 0)
    assert models.new.texts == embedded


def test_a_try_that_broke_off_changes_nothing_and_is_taken_up_again(
    filled: Engine, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models.new.embed_documents

    def fails_at_money(texts: list[str]) -> Matrix:
        if any("Money" in text for text in texts):
            raise EmbedderError("out of memory")
        return whole(texts)

    for size in ("_BATCH_CHUNKS", "_SLICE_CHUNKS"):
        monkeypatch.setattr(f"rag.ingest.run.{size}", 1)
    monkeypatch.setattr(models.new, "embed_documents", fails_at_money)
    with pytest.raises(EmbedderError):
        filled.reindex("new")
    assert filled.store("default").fingerprint == models.old.fingerprint
    assert answers(filled) == ["pay.md"]
    monkeypatch.setattr(models.new, "embed_documents", whole)
    report = filled.reindex("new")
    assert (report.unchanged, report.added) == (["leave.md"], ["pay.md"])
    assert answers(filled) == ["pay.md"]


def test_an_ingest_between_two_tries_leaves_no_vector_of_the_wrong_model(
    filled: Engine, models: Models, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled.store("default")
    with store.writer(models.new.fingerprint, replacing=True) as writer:
        document = store.documents()[0]
        writer.put(store.document(document.id), [], models.new.embed_documents([]))
    filled.ingest([folder(**{"extra.md": "# Extra\n\nA new thing."})])
    assert store.fingerprint == models.old.fingerprint
    assert len(store.documents()) == 3
    filled.reindex("new")
    assert len(store.documents()) == 3
    assert answers(filled) == ["pay.md"]


def test_a_rollback_answers_with_the_old_models_vectors_and_embeds_nothing(
    filled: Engine, make_engine: Callable[[], Engine], models: Models
) -> None:
    server = make_engine()
    before = {hit.chunk.text: hit.dense for hit in server.retrieve("Money comes", top_k=5)}
    filled.reindex("new")
    server.refresh()
    with_new = {hit.chunk.text: hit.dense for hit in server.retrieve("Money comes", top_k=5)}
    assert with_new != before
    documents = models.old.texts
    store = filled.bases.open_store("default")
    store.rollback()
    assert models.old.texts == documents
    server.refresh()
    for engine in (filled, server, make_engine()):
        hits = engine.retrieve("Money comes", top_k=5)
        assert {hit.chunk.text: hit.dense for hit in hits} == pytest.approx(before, abs=1e-6)
        assert engine.knowledge_base().embedder is models.old
    store.rollback()
    server.refresh()
    hits = server.retrieve("Money comes", top_k=5)
    assert {hit.chunk.text: hit.dense for hit in hits} == pytest.approx(with_new, abs=1e-6)


def test_after_a_rollback_the_next_ingest_finds_everything_unchanged(
    filled: Engine, folder: Callable[..., Path], models: Models
) -> None:
    filled.reindex("new")
    filled.bases.open_store("default").rollback()
    report = filled.ingest([folder()])
    assert (sorted(report.unchanged), report.embedded) == (sorted(TEXTS), 0)


def test_a_model_that_is_not_to_be_had_leaves_all_as_it_was(filled: Engine, models: Models) -> None:
    with pytest.raises(EmbedderUnavailableError):
        filled.reindex("elsewhere")
    assert filled.store("default").fingerprint == models.old.fingerprint
    assert answers(filled) == ["pay.md"]


def test_what_was_found_with_another_models_vectors_is_not_returned(
    filled: Engine, models: Models
) -> None:
    retriever = filled.knowledge_base().retriever
    models.new = FakeEmbedder(model="new", dimension=64)
    filled.reindex("new")
    with pytest.raises(FingerprintError, match="from old to new"):
        retriever.retrieve("Money comes", top_k=1)
