"""The nouns of the house, the events of an answer, and the protocols at its seams.

All character offsets count Unicode code points into `Content.text`, half-open: `text[start:end]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.types.answers import (
    EXTRACTIVE,
    Answer,
    AnswerEvent,
    Citation,
    Cited,
    Failed,
    Finished,
    Held,
    Retrieved,
    Timings,
    Token,
    ToolUsed,
)
from rag.types.documents import (
    Chunk,
    Content,
    Document,
    DocumentInfo,
    Element,
    ElementKind,
    Embedder,
    Fingerprint,
)
from rag.types.models import (
    Abilities,
    CallContext,
    ChatModel,
    ChatRequest,
    Delta,
    Image,
    Message,
    ModelEvent,
    Retried,
    Role,
    ToolCall,
    ToolSpec,
    Usage,
)
from rag.types.sharing import (
    SharedState,
)
from rag.types.storing import (
    Candidate,
    ChunkStore,
    Filters,
    Hit,
    Known,
    StoreWriter,
    Via,
)

if TYPE_CHECKING:
    from rag.types.documents import Matrix as Matrix
    from rag.types.documents import Vector as Vector

__all__ = [
    "EXTRACTIVE",
    "Abilities",
    "Answer",
    "AnswerEvent",
    "CallContext",
    "Candidate",
    "ChatModel",
    "ChatRequest",
    "Chunk",
    "ChunkStore",
    "Citation",
    "Cited",
    "Content",
    "Delta",
    "Document",
    "DocumentInfo",
    "Element",
    "ElementKind",
    "Embedder",
    "Failed",
    "Filters",
    "Fingerprint",
    "Finished",
    "Held",
    "Hit",
    "Image",
    "Known",
    "Message",
    "ModelEvent",
    "Retried",
    "Retrieved",
    "Role",
    "SharedState",
    "StoreWriter",
    "Timings",
    "Token",
    "ToolCall",
    "ToolSpec",
    "ToolUsed",
    "Usage",
    "Via",
]
