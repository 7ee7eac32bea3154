"""What a person sees in the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rag.engine import Engine
from rag.evaluate import Scores
from rag.ingest import Failure, Report
from rag.ingest import Progress as IngestProgress
from rag.types import (
    AnswerEvent,
    Chunk,
    Citation,
    Document,
    DocumentInfo,
    Failed,
    Finished,
    Held,
    Retried,
    Token,
    ToolUsed,
)
from rag.wire import document_json

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def say(text: str) -> None:
    """To standard error: what is not the result itself."""
    print(text, file=sys.stderr, flush=True)


def write(text: str) -> None:
    print(text, flush=True)


class ProgressBar:
    """One bar, on standard error, gone when the work is done. Nothing where no one is watching."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._silent = quiet
        self._shown = not quiet and sys.stderr.isatty()
        self._running: tuple[RichProgress, TaskID] | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._running is not None:
            self._running[0].stop()

    def ingest(self, progress: IngestProgress) -> None:
        seconds = max(progress.seconds, 1e-6)
        self._show(
            "ingest",
            f"{progress.files_done}/{progress.files} files"
            f" ({progress.files_done / seconds:.1f}/s),"
            f" {progress.chunks_done} chunks ({progress.chunks_done / seconds:.1f}/s)"
            f"{_time_left(progress)}",
            _share_done(progress),
        )

    def prepare(self, step: str, share: float) -> None:
        self._show("model", f"preparing the embedding model, once: {step}", share)

    def step(self, label: str, done: int, total: int) -> None:
        self._show(label, f"{done}/{total} {label}", done / max(total, 1))

    def count(self, label: str, done: int) -> None:
        """Where nobody knows how many there are."""
        self._show(label, f"{done} {label}", 0.0)

    def notice(self, text: str) -> None:
        if not self._silent:
            say(text)

    def _show(self, title: str, text: str, share: float) -> None:
        if self._shown:
            bar, task = self._running = self._running or _start_bar()
            bar.update(task, completed=share, description=title, text=text)


def _start_bar() -> tuple[RichProgress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=1.0, text="")


def _share_done(progress: IngestProgress) -> float:
    """Files tell how far we are; within those being embedded, their chunks do."""
    if not progress.files:
        return 1.0
    pending = progress.chunks_found - progress.chunks_done
    files = progress.files_done / progress.files
    if not pending or not progress.chunks_found:
        return files
    return max(files, progress.chunks_done / progress.chunks_found * files)


def _time_left(progress: IngestProgress) -> str:
    share = _share_done(progress)
    if share <= 0.01 or progress.seconds < 2:
        return ""
    left = progress.seconds * (1 - share) / share
    return f", {int(left) // 60}:{int(left) % 60:02d} left"


def print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        write(json.dumps(asdict(report), ensure_ascii=False, indent=2))
        return
    for note in report.notes:
        say(note)
    for failure in report.skipped:
        say(f"skipped {failure.reason}")
    for failure in report.failed:
        say(_failure_line(failure))
    will = "would be " if report.dry_run else ""
    if report.dry_run:
        _print_plan(report)
    write(
        f"{len(report.added)} {will}added, {len(report.changed)} {will}changed,"
        f" {len(report.unchanged)} unchanged, {len(report.removed)} {will}removed,"
        f" {len(report.failed)} failed."
    )
    if not report.dry_run:
        write(
            f"{report.chunks} chunks ({report.embedded} embedded) in {report.seconds:.1f} s;"
            f" generation {report.generation}."
        )


def _print_plan(report: Report) -> None:
    for word, names in (
        ("add", report.added),
        ("change", report.changed),
        ("remove", report.removed),
    ):
        for name in names:
            write(f"{word:7}{name}")


def _failure_line(failure: Failure) -> str:
    return f"failed {failure.reason} {failure.hint}".rstrip()


class AnswerPrinter:
    """Writes an answer as it comes, then its sources."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def show(self, event: AnswerEvent) -> None:
        if isinstance(event, Failed):
            if not self._quiet:
                write("")
            say(f"Error: {event.message}")
            if event.hint:
                say(f"  {event.hint}")
        elif self._quiet:
            return
        elif isinstance(event, Token):
            print(event.text, end="", flush=True)
        elif isinstance(event, Retried | ToolUsed):
            say(_aside(event))
        elif isinstance(event, Held):
            say(f"This answer waits for approval ({event.reason}).")
            say(f"  Its reviewer reads it with: rag reviews show {event.review_id}")
        elif isinstance(event, Finished):
            write("")
            _print_sources(event.answer.citations)
            if event.answer.notice:
                say(f"\n{event.answer.notice}")


def _aside(event: Retried | ToolUsed) -> str:
    """A line between the answer's own."""
    if isinstance(event, ToolUsed):
        result = _short(" ".join(event.result.split()), 100)
        return f"({event.name} {_short(event.arguments, 100)} → {result})"
    who = "again" if event.next_model == event.model else event.next_model
    wait = f" in {event.wait:.1f} s" if event.wait else ""
    return f"({event.reason} Asking {who}{wait}.)"


def _print_sources(citations: Sequence[Citation]) -> None:
    if citations:
        write("")
    for citation in citations:
        write(f"[{citation.n}] {_place(citation)}")
        write(f"    “{' '.join(citation.quote.split())}”")


def _place(citation: Citation) -> str:
    parts = [citation.document]
    if citation.page is not None:
        parts.append(f"p. {citation.page}")
    if citation.sheet is not None:
        parts.append(citation.sheet)
    if citation.row is not None:
        parts.append(f"row {citation.row}")
    if citation.heading:
        parts.append(" > ".join(citation.heading))
    return ", ".join(parts) + f" ({citation.start}-{citation.end})"


def print_documents(infos: Sequence[DocumentInfo]) -> None:
    for info in infos:
        tags = f"  [{', '.join(info.tags)}]" if info.tags else ""
        write(f"{info.id}  {info.type:5} {info.chunks:5} chunks  {info.name}{tags}")
    write(f"{len(infos)} documents, {sum(i.chunks for i in infos)} chunks.")


def print_preview(document: Document, chunks: Sequence[Chunk], *, as_json: bool) -> None:
    if as_json:
        shown = document_json(document) | {"chunks": [asdict(c) for c in chunks]}
        write(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    write(f"{document.name}: {document.type}, “{document.title}”, {len(document.text)} characters")
    write(f"{len(document.elements)} elements")
    for element in document.elements:
        text = " ".join(document.text[element.start : element.end].split())
        place = f" p.{element.page}" if element.page else f" {element.sheet or ''}".rstrip()
        write(f"  {element.kind:8}{element.start:7}-{element.end:<7}{place} {_short(text)}")
    write(f"{len(chunks)} chunks")
    for chunk in chunks:
        context = chunk.context.replace("\n", " | ")
        write(f"  #{chunk.ordinal} {chunk.start}-{chunk.end}  {context}")
        write(f"     {_short(' '.join(chunk.text.split()), 200)}")


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def print_scores(scores: Scores, *, as_json: bool) -> None:
    if as_json:
        write(json.dumps(asdict(scores), ensure_ascii=False, indent=2))
        return
    write(f"{scores.questions} questions")
    previous: list[str] = []
    for name, row in scores.rows.items():
        if list(row) != previous:
            previous = list(row)
            write(f"{'':16}" + "".join(f"{metric:>20}" for metric in previous))
        write(f"{name:16}" + "".join(f"{value:20.4f}" for value in row.values()))


def _told(engine: Engine, name: str) -> dict[str, Any]:
    store = engine.store(name)
    size = engine.bases.size(name)
    fingerprint = store.fingerprint
    recall = store.last_recall()
    return {
        "name": name,
        "store": engine.bases.places.place(name),
        "documents": size.documents,
        "chunks": size.chunks,
        "generation": store.generation,
        "embedding": asdict(fingerprint) if fingerprint else None,
        # of the vector search, as `rag verify --recall` last measured it
        "recall": None if recall is None else recall.recall_at_10,
    }


def print_status(engine: Engine, names: Sequence[str], *, as_json: bool) -> None:
    bases = [_told(engine, name) for name in names]
    model = next(iter(engine.gateway.configured), "none (extractive answers)")
    models = [asdict(status.circuit) for status in asyncio.run(engine.gateway.statuses())]
    budgets = [asdict(use) for use in engine.ledger.budgets_used()]
    if as_json:
        shown = {"model": model, "models": models, "budgets": budgets, "knowledge_bases": bases}
        write(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    write(f"chat model: {model}")
    # A breaker lives in the process that asks, unless Redis holds it for all of them.
    for circuit in models if engine.settings.redis_url else []:
        write(
            f"  {circuit['model']}: circuit {circuit['state']},"
            f" {circuit['recent_failures']} recent failures"
        )
    for use in budgets:
        write(
            f"  budget {use['budget']}, {use['period']}: {use['share']:.0%} of {use['limit']:.2f}"
        )
    for base in bases:
        embedding = base["embedding"] or {}
        write(
            f"{base['name']} ({base['store']}): {base['documents']} documents,"
            f" {base['chunks']} chunks, generation {base['generation']},"
            f" {embedding.get('model', 'no embedding model yet')}"
            f" ({embedding.get('revision', '-')}, {embedding.get('dimension', '-')} dimensions)"
            + ("" if base["recall"] is None else f", recall@10 {base['recall']:.3f}")
        )
    if not bases:
        write("no knowledge base yet; make one with: rag ingest ./knowledge")
