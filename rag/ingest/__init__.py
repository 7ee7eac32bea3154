"""The way in: load, split, embed and store, only for what changed.

One run is one generation: readers see nothing of it before it is published. What a run that died
had finished is found again by the next one.
"""

from __future__ import annotations

from rag.ingest.ingest import Ingest
from rag.ingest.plan import Covers, Plan, Source, StoredDocument, vanished
from rag.ingest.report import Failure, Progress, Report
from rag.ingest.run import document_id

__all__ = [
    "Covers",
    "Failure",
    "Ingest",
    "Plan",
    "Progress",
    "Report",
    "Source",
    "StoredDocument",
    "document_id",
    "vanished",
]
