"""The way in, as those see it who want something ingested."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rag.errors import LoadError
from rag.ingest.plan import Plan, StoredDocument, vanished, with_known
from rag.ingest.report import Progress, Report, failure
from rag.ingest.run import Parts, Run, Splits, sha256
from rag.types import Embedder, Known, StoreWriter


class Ingest:
    """One run over a plan. Several runs of one knowledge base exclude each other by the writer."""

    def __init__(
        self,
        *,
        embedder: Embedder,
        splitter: Splits,
        settings_key: str,
        lacks: str = "",
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = Parts(
            embedder=embedder,
            splitter=splitter,
            settings=sha256(f"{settings_key}|{splitter.settings}".encode()),
            lacks=lacks,
            on_progress=on_progress,
            clock=clock,
        )

    def run(self, plan: Plan, writer: StoreWriter, *, tags: Sequence[str] | None = None) -> Report:
        """Brings the knowledge base to what the plan's sources say now, and publishes it.

        A source that cannot be read is reported and leaves its document as it was. Raises
        EmbedderError or StoreError, with what was finished so far kept for the next run.
        """
        run = Run(self._parts, plan, writer, None if tags is None else tuple(sorted(set(tags))))
        return run.execute()

    def dry_run(self, plan: Plan, known: Known | None) -> Report:
        """What `run` would do, by content alone: files are read and hashed, not parsed. None is
        known of a knowledge base that is not there yet."""
        report = Report(skipped=list(plan.skipped), notes=list(plan.notes), dry_run=True)
        current = self._parts.settings_hashes
        digests: set[str] = set()
        for source, before in with_known(plan.sources, known):
            if isinstance(source, StoredDocument):
                continue
            try:
                digest = sha256(source.read())
            except LoadError as error:
                report.failed.append(failure(source.name, error))
                continue
            if before is None:
                report.added.append(source.name)
            elif before.content_hash == digest and before.settings_hash in current:
                report.unchanged.append(source.name)
            else:
                report.changed.append(source.name)
            digests.add(digest)
        if known is not None:
            report.removed = [info.name for info in vanished(plan, known, digests)]
        return report
