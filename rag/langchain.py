"""For those who build with LangChain: a knowledge base as a retriever, an embedder as `Embeddings`.

from rag.engine import Engine
from rag.langchain import RagRetriever

retriever = RagRetriever(retriever=Engine.open().knowledge_base().retriever, top_k=5)
chain = retriever | prompt | model
"""

from __future__ import annotations

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from rag.retrieve import Retriever
from rag.types import Embedder, Filters, Hit


class RagRetriever(BaseRetriever):
    """The best `top_k` passages as LangChain documents; none if nothing was found.

    `page_content` is the passage as quoted; the metadata tell where it stands and how sure we are.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    retriever: Retriever
    top_k: int = 5
    filters: Filters = Filters()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - the base class gives it
    ) -> list[Document]:
        hits = self.retriever.retrieve(query, top_k=self.top_k, filters=self.filters)
        return [_document(hit) for hit in hits]


def _document(hit: Hit) -> Document:
    chunk = hit.chunk
    return Document(
        page_content=chunk.text,
        metadata={
            "source": hit.document,
            "document_id": chunk.document_id,
            "title": hit.title,
            "heading": " > ".join(chunk.heading),
            "page": chunk.page,
            "sheet": chunk.sheet,
            "row": chunk.row_between(chunk.start, chunk.end),
            "start": chunk.start,
            "end": chunk.end,
            "score": hit.score,
        },
    )


class RagEmbeddings(Embeddings):
    """An `Embedder` wherever LangChain wants its own lists of numbers."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(x) for x in row] for row in self._embedder.embed_documents(texts)]

    def embed_query(self, text: str) -> list[float]:
        return [float(x) for x in self._embedder.embed_query(text)]
