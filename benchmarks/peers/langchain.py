"""LangChain: FAISS and BM25 over words cut by jieba, joined by EnsembleRetriever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

LABEL = "LangChain"


def build(texts: Sequence[str], vectors: Matrix) -> Callable[[str, Vector, int], Sequence[str]]:
    import jieba
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_community.retrievers import BM25Retriever
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import Embeddings

    class Given(Embeddings):
        """Gives the vector that was put into `current`."""

        current: list[float]

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise NotImplementedError

        def embed_query(self, _text: str) -> list[float]:
            return self.current

    given = Given()
    pairs = zip(texts, vectors.tolist(), strict=True)
    dense = FAISS.from_embeddings(
        pairs, given, metadatas=None, distance_strategy="MAX_INNER_PRODUCT"
    )
    words = BM25Retriever.from_texts(list(texts), preprocess_func=jieba.lcut)

    def ask(question: str, vector: Vector, top: int) -> Sequence[str]:
        given.current = vector.tolist()
        words.k = top
        both = EnsembleRetriever(
            retrievers=[words, dense.as_retriever(search_kwargs={"k": top})], weights=[0.5, 0.5]
        )
        return [document.page_content for document in both.invoke(question)[:top]]

    return ask
