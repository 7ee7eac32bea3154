"""Which model is chosen, what is said about it, and when a knowledge base refuses one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from rag.config import BUNDLED_MODEL, Settings
from rag.embed import check_fingerprint, choose, choose_embedder
from rag.errors import EmbedderUnavailableError, FingerprintError
from tests.embed_parts import embedding_server
from tests.fakes import FakeEmbedder


class Shelf:
    """Stands in for `open_embedder`: models by name; any other is unavailable."""

    def __init__(self, *models: str) -> None:
        self.revisions = dict.fromkeys(models, "1")
        self.asked: list[str] = []

    def open(self, model: str, *_: object) -> FakeEmbedder:
        self.asked.append(model)
        if model not in self.revisions:
            raise EmbedderUnavailableError(f"{model} is not installed.", f"pip install {model}")
        return FakeEmbedder(model=model, revision=self.revisions[model])


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf(BUNDLED_MODEL, "b")
    monkeypatch.setattr(choose, "open_embedder", shelf.open)
    return shelf


def _settings(*models: str, **more: object) -> Settings:
    return Settings.read(embedding=models, **more)


def test_the_first_preference_that_is_available_is_taken(shelf: Shelf) -> None:
    choice = choose_embedder(_settings("a", "b", BUNDLED_MODEL), None)
    assert choice.embedder.fingerprint.model == "b"
    assert choice.reason == "b: a is not installed (pip install a)"
    assert shelf.asked == ["a", "b"]


def test_the_bundled_model_is_called_so(shelf: Shelf) -> None:
    assert choose_embedder(_settings(BUNDLED_MODEL), None).reason == f"{BUNDLED_MODEL} (bundled)"


def test_when_none_is_available_every_reason_is_told(shelf: Shelf) -> None:
    with pytest.raises(EmbedderUnavailableError) as caught:
        choose_embedder(_settings("x", "y"), None)
    assert "x is not installed (pip install x); y is not installed (pip install y)" in str(
        caught.value
    )


def test_an_empty_list_is_told(shelf: Shelf) -> None:
    with pytest.raises(EmbedderUnavailableError, match="none is named"):
        choose_embedder(_settings(), None)


@pytest.mark.parametrize("preferences", [("b",), (BUNDLED_MODEL, "b"), (BUNDLED_MODEL,), ()])
def test_a_knowledge_base_keeps_its_model_whatever_is_preferred_now(
    shelf: Shelf, preferences: tuple[str, ...]
) -> None:
    recorded = FakeEmbedder(model="b").fingerprint
    choice = choose_embedder(_settings(*preferences), recorded)
    assert choice.embedder.fingerprint == recorded
    assert shelf.asked == ["b"]


def test_a_model_that_changed_is_refused_with_both_named(shelf: Shelf) -> None:
    shelf.revisions["b"] = "2"
    with pytest.raises(FingerprintError) as caught:
        choose_embedder(_settings("b"), FakeEmbedder(model="b").fingerprint)
    assert "b (1, 64 dimensions" in caught.value.message
    assert "b (2, 64 dimensions" in caught.value.message
    assert "rag reindex --embedding" in caught.value.hint


def test_a_model_that_is_gone_is_told_with_both_ways_out(shelf: Shelf) -> None:
    with pytest.raises(EmbedderUnavailableError) as caught:
        choose_embedder(_settings("b"), FakeEmbedder(model="gone").fingerprint)
    assert "was built with gone" in caught.value.message
    assert "pip install gone" in caught.value.hint
    assert "rag reindex --embedding" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"revision": "2"},
        {"dimension": 65},
        {"normalized": False},
        {"query_prefix": "q"},
        {"document_prefix": "d"},
    ],
)
def test_every_part_of_a_fingerprint_counts(change: dict[str, object]) -> None:
    recorded = FakeEmbedder().fingerprint
    check_fingerprint(recorded, FakeEmbedder().fingerprint)
    with pytest.raises(FingerprintError):
        check_fingerprint(recorded, replace(recorded, **change))


def test_an_endpoint_is_asked_with_its_own_key(tmp_path: Path) -> None:
    with embedding_server() as server:
        choice = choose_embedder(
            _settings(
                "openai:tiny",
                embedding_base_url=server.url,
                embedding_api_key=SecretStr("own"),
                openai_api_key=SecretStr("other"),
            ),
            None,
        )
        assert choice.embedder.fingerprint.model == "openai:tiny"
        assert server.headers[0]["authorization"] == "Bearer own"


def test_the_chat_models_key_is_not_sent_to_another_server() -> None:
    with embedding_server() as server:
        choose_embedder(
            _settings(
                "openai:tiny",
                embedding_base_url=server.url,
                openai_base_url="http://chat.example/v1",
                openai_api_key=SecretStr("other"),
            ),
            None,
        )
        assert "other" not in server.headers[0]["authorization"]


def test_the_chat_models_server_and_key_are_used_when_no_other_is_set() -> None:
    with embedding_server() as server:
        choose_embedder(
            _settings(
                "openai:tiny", openai_base_url=server.url, openai_api_key=SecretStr("shared")
            ),
            None,
        )
        assert server.headers[0]["authorization"] == "Bearer shared"


def test_without_sentence_transformers_the_install_line_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbedderUnavailableError) as caught:
        choose_embedder(_settings("moka-ai/m3e-small"), None)
    assert (
        "moka-ai/m3e-small needs sentence-transformers, which is not installed "
        '(pip install "rag-server[m3e]")'
    ) in caught.value.message
