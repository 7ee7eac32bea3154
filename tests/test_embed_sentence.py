"""sentence-transformers models, by path and by name; no test reaches a hub."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from rag.embed import SentenceEmbedder, hub
from rag.embed.sentence import prefixes_for
from rag.errors import EmbedderUnavailableError
from tests.embed_parts import write_tiny_model

TEXTS = ["猫喜欢吃鱼", "the cat eats fish", "今天股市大", ""]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def _empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "m3e-tiny")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("moka-ai/m3e-small", ("", "")),
        ("/models/m3e-base", ("", "")),
        ("intfloat/multilingual-e5-base", ("query: ", "passage: ")),
        ("/models/e5-small-v2/", ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large-instruct", ("Q ", "D ")),
        ("BAAI/bge-small-zh-v1.5", ("为这个句子生成表示以用于检索相关文章：", "")),
        ("someone/other", ("Q ", "D ")),
    ],
)
def test_prefixes_follow_the_family_or_else_the_models_own(
    model: str, expected: tuple[str, str]
) -> None:
    assert prefixes_for(model, {"query": "Q ", "document": "D "}) == expected
    assert prefixes_for("someone/other", {"query": None, "passage": "P "}) == ("", "P ")


def test_a_folder_that_is_not_there_is_told_at_once() -> None:
    for path in ("/no/such/folder", "./missing", "~/missing", "a/b/c"):
        with pytest.raises(EmbedderUnavailableError, match="There is no folder") as caught:
            hub.find_model(path, "huggingface")
        assert "RAG_EMBEDDING" in caught.value.hint


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(EmbedderUnavailableError, match="is a file"):
        hub.find_model(str(tmp_path / "model.bin"), "huggingface")


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_round() -> None:
    with pytest.raises(EmbedderUnavailableError, match="cannot be reached") as caught:
        hub.find_model("moka-ai/m3e-small", "huggingface")
    assert caught.value.message.startswith("moka-ai/m3e-small is not in the local cache")
    assert "path of its folder" in caught.value.hint


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_REACH_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening, or never accepted
        assert not hub._reachable(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_offline_mode_does_not_ask_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_reachable", lambda _: pytest.fail("asked the hub"))
    with pytest.raises(EmbedderUnavailableError, match="HF_HUB_OFFLINE is set"):
        hub.find_model("moka-ai/m3e-small", "huggingface")


def test_modelscope_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbedderUnavailableError, match="needs modelscope") as caught:
        hub.find_model("moka-ai/m3e-small", "modelscope")
    assert "rag-server[modelscope]" in caught.value.hint


def test_a_cached_snapshot_is_found_without_the_hub_and_its_commit_is_the_revision(
    tmp_path: Path,
) -> None:
    repository = tmp_path / "hub" / "models--moka-ai--m3e-small"
    commit = "a" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    assert hub.find_model("moka-ai/m3e-small", "huggingface") == hub.Found(snapshot, commit)


def test_the_revision_of_a_folder_follows_its_files_and_not_their_place_or_age(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = bytearray(5 << 20)
    (folder / "model.safetensors").write_bytes(weights)
    before = hub.find_model(str(folder), "huggingface").revision
    moved = shutil.copytree(folder, tmp_path / "two", copy_function=shutil.copyfile)
    (moved / "README.md").write_text("other words")
    assert hub.find_model(str(moved), "huggingface").revision == before
    weights[-5] = 1
    (moved / "model.safetensors").write_bytes(weights)
    changed = hub.find_model(str(moved), "huggingface").revision
    (moved / "config.json").write_text('{"a": 1}')
    assert len({before, changed, hub.find_model(str(moved), "huggingface").revision}) == 3


@pytest.mark.slow
@pytest.mark.m3e
def test_vectors_are_the_normalised_mean_of_the_last_layer(tiny: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).eval()
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    embedder = SentenceEmbedder(str(tiny), threads=1)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), np.stack(expected), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_query(TEXTS[0]), expected[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.m3e
def test_a_models_own_prompts_become_its_prefixes(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    folder = write_tiny_model(tmp_path / "other", prompts=prompts)
    embedder = SentenceEmbedder(str(folder))
    mark = embedder.fingerprint
    assert (mark.query_prefix, mark.document_prefix) == ("query: ", "passage: ")
    assert embedder.max_tokens == 28
    question, passage = embedder.embed_query("猫"), embedder.embed_documents(["猫"])[0]
    bare = SentenceEmbedder(str(shutil.copytree(folder, tmp_path / "m3e-copy")))
    np.testing.assert_allclose(bare.embed_query("query: 猫"), question, atol=1e-5)
    np.testing.assert_allclose(bare.embed_query("passage: 猫"), passage, atol=1e-5)
    assert bare.fingerprint.query_prefix == ""


@pytest.mark.slow
@pytest.mark.m3e
def test_other_weights_are_another_revision(tiny: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "m3e-tiny", seed=1)
    assert (
        SentenceEmbedder(str(tiny)).fingerprint.revision
        != SentenceEmbedder(str(other)).fingerprint.revision
    )


@pytest.mark.slow
@pytest.mark.m3e
@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_broken_folder_is_told(tiny: Path, tmp_path: Path, missing: str) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / missing).unlink()
    with pytest.raises(EmbedderUnavailableError, match="cannot be loaded") as caught:
        SentenceEmbedder(str(broken))
    assert "fetch it again" in caught.value.hint
