"""Text to vectors: the bundled model, sentence-transformers, or an OpenAI-format endpoint."""

from rag.embed.bundled import BundledEmbedder
from rag.embed.choose import Choice, check_fingerprint, choose_embedder, open_embedder
from rag.embed.openai import EndpointEmbedder
from rag.embed.prepare import Progress
from rag.embed.sentence import SentenceEmbedder

__all__ = [
    "BundledEmbedder",
    "Choice",
    "EndpointEmbedder",
    "Progress",
    "SentenceEmbedder",
    "check_fingerprint",
    "choose_embedder",
    "open_embedder",
]
