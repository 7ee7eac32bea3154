"""Where a knowledge base lives: implementations of `rag.types.ChunkStore`."""
