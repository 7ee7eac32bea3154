"""Text to vectors: the bundled model, sentence-transformers, or an OpenAI-format endpoint."""

from rag.embed.bundled import BundledEmbedder

__all__ = ["BundledEmbedder"]
