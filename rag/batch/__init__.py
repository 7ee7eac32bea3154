"""A file of questions answered into a file of answers; started again, it goes on where it was.

Both files are JSON lines in UTF-8. A question: {"question": text} and, as wanted,

    id              text or a whole number; the line's number (from 1, as text) if left out
    knowledge_base, model, preset, top_k, schema, session_id    as in rag.asking.Options
    filters         {"paths": [], "types": [], "tags": [], "documents": []}
    history         [{"role": "user" | "assistant", "content": text}, ...]
    meta            anything; it comes back as it is

An answer: {"id", "question", "digest", "meta" if there was one} and one of: the fields of
`rag.wire.answer_json`; "held": {"review_id", "reason"}; "error": {"code", "message", "hint",
"retryable"}. Answers stand in the order in which they came.
"""

from __future__ import annotations

from rag.batch.report import Progress, Report
from rag.batch.run import Ask, Batch

__all__ = ["Ask", "Batch", "Progress", "Report"]
