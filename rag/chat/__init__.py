"""Ways to a chat model: implementations of `rag.types.ChatModel`."""
