"""LlamaIndex: FAISS and BM25, joined by QueryFusionRetriever without a model's help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.types import Matrix, Vector

LABEL = "LlamaIndex"


def build(texts: Sequence[str], vectors: Matrix) -> Callable[[str, Vector, int], Sequence[str]]:
    import faiss
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.schema import QueryBundle, TextNode
    from llama_index.retrievers.bm25 import BM25Retriever
    from llama_index.vector_stores.faiss import FaissVectorStore

    class Given(BaseEmbedding):
        """Never asked: nodes and questions bring their vectors."""

        def _get_text_embedding(self, text: str) -> list[float]:
            raise NotImplementedError

        def _get_query_embedding(self, query: str) -> list[float]:
            raise NotImplementedError

        async def _aget_query_embedding(self, query: str) -> list[float]:
            raise NotImplementedError

    nodes = [
        TextNode(id_=str(place), text=text, embedding=vector)
        for place, (text, vector) in enumerate(zip(texts, vectors.tolist(), strict=True))
    ]
    # By inner product: the documented L2 index is fused upside down.
    store = FaissVectorStore(faiss_index=faiss.IndexFlatIP(vectors.shape[1]))
    index = VectorStoreIndex(
        nodes,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=Given(embed_batch_size=1),
    )
    dense, words = (
        index.as_retriever(similarity_top_k=5),
        BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=5),
    )
    both = QueryFusionRetriever(
        [dense, words],
        llm=MockLLM(),
        similarity_top_k=5,
        num_queries=1,
        mode="reciprocal_rerank",
        use_async=False,
    )

    def ask(question: str, vector: Vector, top: int) -> Sequence[str]:
        bundle = QueryBundle(question, embedding=vector.tolist())
        return [hit.text for hit in both.retrieve(bundle)[:top]]

    return ask
