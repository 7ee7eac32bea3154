"""Moving a knowledge base from the command line: real processes, real files, real Milvus Lite."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rag.config import BUNDLED_MODEL, Settings
from rag.embed import open_embedder
from tests.desks import Desk, done, parsed, ready_cache, set_up

pytestmark = pytest.mark.slow

QUESTION = "How many days of annual leave?"
LEAVE = "Annual leave is 15 days a year.\n"
NO_MODEL = {"RAG_EMBEDDING": '["there/is-no-such-model"]'}  # whoever embeds now fails


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = set_up(
        tmp_path_factory.mktemp("moving") / "desk", ready_cache(tmp_path_factory.mktemp("cache"))
    )
    folder = desk.root / "documents"
    folder.mkdir()
    (folder / "leave.md").write_text(f"# Leave\n\n{LEAVE}", "utf-8")
    (folder / "travel.md").write_text("# Travel\n\nA hotel costs at most 650.\n", "utf-8")
    done(desk.rag("ingest", "documents", "--tag", "hr"))
    return desk


@pytest.fixture
def desk(ingested: Desk, tmp_path: Path) -> Desk:
    """Two documents, ingested once; a copy of its own."""
    root = tmp_path / "desk"
    shutil.copytree(ingested.root, root)
    return Desk(root, ingested.env)


def answer(desk: Desk, *options: str) -> str:
    return done(desk.rag("ask", QUESTION, *options)).stdout


@pytest.mark.parquet
def test_what_was_exported_answers_elsewhere_without_embedding(desk: Desk) -> None:
    before = answer(desk)
    assert "2 documents" in done(desk.rag("export", "parquet")).stdout
    assert "is there already" in done(desk.rag("export", "parquet"), 1).stderr
    done(desk.rag("import", "parquet", "--kb", "copy", **NO_MODEL))
    assert answer(desk, "--kb", "copy") == before
    assert "2 were there already" in done(desk.rag("import", "parquet", "--kb", "copy")).stdout
    assert parsed(desk.rag("docs", "ls", "--kb", "copy", "--json"))[0]["tags"] == ["hr"]
    done(desk.rag("verify", "--kb", "copy"))


@pytest.mark.parquet
def test_a_damaged_export_changes_nothing(desk: Desk) -> None:
    done(desk.rag("export", "parquet"))
    chunks = desk.root / "parquet" / "chunks.parquet"
    data = bytearray(chunks.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunks.write_bytes(data)
    assert "is damaged" in done(desk.rag("import", "parquet", "--kb", "copy"), 1).stderr
    assert "There is no knowledge base" in done(desk.rag("ask", QUESTION, "--kb", "copy"), 1).stderr


def test_a_folder_of_langchain_is_taken_over_without_embedding_it(desk: Desk) -> None:
    with warnings.catch_warnings():  # it says that it is no longer kept up
        warnings.simplefilter("ignore")
        from langchain_community.vectorstores import FAISS

    settings = Settings(indexes=desk.root / "indexes", cache_dir=Path(desk.env["RAG_CACHE_DIR"]))
    model: Any = open_embedder(BUNDLED_MODEL, settings)
    texts = [LEAVE, "A hotel costs at most 650."]
    FAISS.from_embeddings(
        list(zip(texts, model.embed_documents(texts).tolist(), strict=True)),
        model.embed_query,
        metadatas=[{"source": "leave.txt"}, {"source": "travel.txt"}],
    ).save_local(str(desk.root / "faiss"))
    refused = done(desk.rag("import", "--langchain-faiss", "faiss"), 1)
    assert "--embedding" in refused.stderr
    told = done(
        desk.rag(
            *("import", "--langchain-faiss", "faiss", "--embedding", BUNDLED_MODEL, "--kb", "chain")
        )
    )
    assert "2 documents, 2 chunks imported" in told.stdout
    assert "15 days a year" in answer(desk, "--kb", "chain")
    assert "leave.txt" in answer(desk, "--kb", "chain")
    done(desk.rag("verify", "--kb", "chain"))


@pytest.mark.milvus_lite
def test_a_knowledge_base_lives_in_milvus_and_comes_back(desk: Desk) -> None:
    before = answer(desk)
    assert "RAG_MILVUS_URI" in done(desk.rag("migrate", "--to", "milvus"), 1).stderr
    milvus = Desk(desk.root, desk.env | {"RAG_MILVUS_URI": str(desk.root / "milvus.db")})
    told = done(milvus.rag("migrate", "--to", "milvus", **NO_MODEL))
    assert "lives in Milvus now" in told.stdout
    assert "GOAWAY" not in told.stderr
    assert answer(milvus) == before
    (status,) = parsed(milvus.rag("status", "--json"))["knowledge_bases"]
    assert (status["store"], status["documents"]) == ("milvus", 2)
    # Who does not know the way there is told, and is not answered from the old copy.
    assert "RAG_MILVUS_URI" in done(desk.rag("ask", QUESTION), 1).stderr

    done(milvus.rag("docs", "rm", "leave.md"))
    assert answer(milvus) != before
    done(milvus.rag("verify"))
    done(milvus.rag("rollback", **NO_MODEL))
    assert answer(milvus) == before
    done(milvus.rag("ingest", "documents"))
    assert "2 unchanged" in done(milvus.rag("ingest", "documents")).stdout
    done(milvus.rag("gc"))

    assert "2 documents" in done(milvus.rag("backup", "kb.zip")).stdout
    assert "--kb" in done(milvus.rag("restore", "kb.zip"), 1).stderr
    done(milvus.rag("restore", "kb.zip", "--kb", "copy"))
    assert answer(milvus, "--kb", "copy") == before

    done(milvus.rag("migrate", "--to", "embedded", "--discard", **NO_MODEL))
    assert answer(desk) == before
    done(desk.rag("verify"))
    assert [b["name"] for b in parsed(milvus.rag("status", "--json"))["knowledge_bases"]] == [
        "copy",
        "default",
    ]


@pytest.mark.milvus_lite
def test_new_knowledge_bases_are_made_in_milvus_if_that_is_set(desk: Desk) -> None:
    milvus = Desk(
        desk.root,
        desk.env | {"RAG_MILVUS_URI": str(desk.root / "milvus.db"), "RAG_STORE": "milvus"},
    )
    before = answer(milvus)  # the one in its folder stays there
    done(milvus.rag("ingest", "documents", "--kb", "new"))
    assert answer(milvus, "--kb", "new") == before
    assert not (desk.root / "indexes" / "new").exists()
    stores = {
        base["name"]: base["store"]
        for base in parsed(milvus.rag("status", "--json"))["knowledge_bases"]
    }
    assert stores == {"default": "embedded", "new": "milvus"}
    done(milvus.rag("verify", "--kb", "new"))
    assert parsed(milvus.rag("verify", "--kb", "new", "--recall", "--json"))["recall"][
        "recall_at_10"
    ] == pytest.approx(1.0)


@pytest.mark.milvus_lite
def test_what_was_left_behind_is_deleted_when_told(desk: Desk) -> None:
    milvus = Desk(desk.root, desk.env | {"RAG_MILVUS_URI": str(desk.root / "milvus.db")})
    done(milvus.rag("migrate", "--to", "milvus"))
    again = done(milvus.rag("migrate", "--to", "milvus"), 1)
    assert "--discard" in again.stderr
    assert (desk.root / "indexes" / "default" / "knowledge.db").exists()
    before = answer(milvus)
    done(milvus.rag("migrate", "--to", "milvus", "--discard"))
    assert not (desk.root / "indexes" / "default").exists()
    assert answer(milvus) == before


@pytest.mark.milvus_lite
@pytest.mark.postgres
def test_with_postgresql_all_but_vectors_and_caches_is_there(desk: Desk, postgres_url: str) -> None:
    before = answer(desk)
    database = postgres_url.replace("/postgres", "/moving")
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE moving")
    milvus = Desk(
        desk.root,
        desk.env | {"RAG_MILVUS_URI": str(desk.root / "milvus.db"), "RAG_DATABASE_URL": database},
    )
    done(milvus.rag("migrate", "--to", "milvus", "--discard"))
    assert answer(milvus) == before
    done(milvus.rag("verify"))
    # Another machine: it has the addresses, and nothing else.
    shutil.rmtree(desk.root / "indexes")
    assert answer(milvus) == before
    assert "2 unchanged" in done(milvus.rag("ingest", "documents")).stdout
    assert "application database: it answers" in done(milvus.rag("doctor")).stdout
