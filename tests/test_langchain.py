"""LangChain's own parts work with ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from rag.engine import Engine
from rag.langchain import RagEmbeddings, RagRetriever
from rag.types import Filters
from tests.fakes import FakeEmbedder


@pytest.fixture
def filled(engine: Engine, folder: Callable[..., Path]) -> Engine:
    engine.ingest(
        [folder(**{"leave.md": "# Leave\n\nTen days a year.", "pay.md": "# Pay\n\nOn the 5th."})]
    )
    return engine


def test_a_knowledge_base_is_a_retriever_in_a_chain(filled: Engine) -> None:
    retriever = RagRetriever(retriever=filled.knowledge_base().retriever, top_k=1)
    chain = retriever | RunnableLambda(lambda documents: documents[0])
    document = chain.invoke("days a year")
    assert document.page_content == "Ten days a year."
    assert document.metadata["source"] == "leave.md"
    assert document.metadata["heading"] == "Leave"


def test_its_filters_hold(filled: Engine) -> None:
    base = filled.knowledge_base().retriever
    retriever = RagRetriever(retriever=base, filters=Filters(paths=("pay*",)))
    assert {d.metadata["source"] for d in retriever.invoke("days a year")} == {"pay.md"}


def test_an_embedder_fills_a_vector_store_of_langchain(embedder: FakeEmbedder) -> None:
    store = InMemoryVectorStore(RagEmbeddings(embedder))
    store.add_texts(["年假十五天", "an apple a day"])
    assert store.similarity_search("an apple", k=1)[0].page_content == "an apple a day"
    assert np.allclose(RagEmbeddings(embedder).embed_query("x"), embedder.embed_query("x"))
