"""What the commands of the command line do."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rag.config import Settings
from rag.console import (
    AnswerPrinter,
    ProgressBar,
    print_documents,
    print_preview,
    print_report,
    print_scores,
    print_status,
    say,
)
from rag.doctor import examine
from rag.engine import DEFAULT, Engine
from rag.errors import InputError, RagError
from rag.evaluate import (
    evaluate_cases,
    evaluate_retrieval,
    evaluate_rgb,
    missed_gates,
)
from rag.types import Answer, AnswerEvent, Failed, Filters, Finished, Image, Message
from rag.wire import answer_json, document_info_json

app = typer.Typer(rich_markup_mode=None)
docs = typer.Typer(help="Look at and remove documents.", no_args_is_help=True)
app.add_typer(docs, name="docs")

KnowledgeBaseOption = Annotated[str, typer.Option("--kb", help="Name of the knowledge base.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, max=50, help="Passages to use.")]
Model = Annotated[str | None, typer.Option("--model", help="Chat model, or 'extractive'.")]
FilterPath = Annotated[list[str], typer.Option("--path", help="Only documents like 'hr/*'.")]
FilterType = Annotated[list[str], typer.Option("--type", help="Only documents of this type.")]
FilterTag = Annotated[list[str], typer.Option("--tag", help="Only documents with this tag.")]

_FORGET = {"clear", "reset", "清除", "重置"}
_LEAVE = {"exit", "quit", "退出"}
_FAILED = 1
_SHUTDOWN_SECONDS = 3  # for answers being written; a model may take much longer


@contextmanager
def _engine(**overrides: object) -> Iterator[Engine]:
    engine = Engine.open(Settings.read(**overrides))
    try:
        yield engine
    finally:
        engine.close()


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    kb: KnowledgeBaseOption = DEFAULT,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Mark these documents.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the knowledge base to what the files say now.

    Unchanged files are skipped, changed ones replaced, and documents whose file has gone from an
    ingested folder are removed. Exit code: 0; 3 if some files failed; 1 if nothing could be done.

    \b
    rag ingest ./knowledge
    rag ingest report.pdf notes/ --kb research --tag 2026
    """
    with _engine() as engine, ProgressBar(quiet=as_json) as bar:
        report = engine.ingest(
            paths,
            knowledge_base=kb,
            tags=tag,
            dry_run=dry_run,
            on_progress=bar.ingest,
            on_notice=bar.notice,
            on_prepare=bar.prepare,
        )
    print_report(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def reindex(
    embedding: Annotated[str, typer.Option(help="Name or folder of the embedding model.")],
    kb: KnowledgeBaseOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Move a knowledge base to another embedding model, from its stored texts.

    Questions go on with the old vectors until all is done. Interrupted, it goes on where it was.

    \b
    rag reindex --embedding moka-ai/m3e-base
    """
    with _engine() as engine, ProgressBar(quiet=as_json) as bar:
        report = engine.reindex(
            embedding, knowledge_base=kb, on_progress=bar.ingest, on_prepare=bar.prepare
        )
    print_report(report, as_json=as_json)


@app.command()
def ask(
    question: str,
    kb: KnowledgeBaseOption = DEFAULT,
    image: Annotated[list[Path] | None, typer.Option("--image", help="A picture to send.")] = None,
    model: Model = None,
    top_k: TopK = None,
    path: FilterPath = [],  # noqa: B006 - typer copies it
    type_: FilterType = [],  # noqa: B006
    tag: FilterTag = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Answer one question, with citations.

    \b
    rag ask "年假有多少天？"
    rag ask "What does error E-17 mean?" --path 'product/*' --json
    """
    filters = Filters(paths=tuple(path), types=tuple(type_), tags=tuple(tag))
    with _engine(model=model) as engine:
        images = engine.images.from_files(image or [])
        printer = AnswerPrinter(quiet=as_json)
        ended = asyncio.run(
            _one_turn(engine, question, printer, kb=kb, images=images, filters=filters, top_k=top_k)
        )
    if isinstance(ended, Failed):
        if as_json:
            print(json.dumps({"error": _failed_json(ended)}, ensure_ascii=False))
        raise typer.Exit(_FAILED)
    if as_json:
        print(json.dumps(answer_json(ended), ensure_ascii=False, indent=2))


@app.command()
def chat(kb: KnowledgeBaseOption = DEFAULT, model: Model = None, top_k: TopK = None) -> None:
    """A conversation. 'clear' or '清除' forgets it, 'exit' or '退出' ends it."""
    with _engine(model=model) as engine, asyncio.Runner() as runner:
        engine.knowledge_base(kb)
        history: list[Message] = []
        say("Ask a question; 'clear' forgets the conversation, 'exit' leaves.")
        while (line := _read_line()) is not None:
            question = line.strip()
            if question.lower() in _LEAVE:
                break
            if question.lower() in _FORGET:
                history.clear()
                say("The conversation is forgotten.")
            elif question:
                _chat_turn(engine, runner, question, history, kb=kb, top_k=top_k)


def _chat_turn(
    engine: Engine,
    runner: asyncio.Runner,
    question: str,
    history: list[Message],
    *,
    kb: str,
    top_k: int | None,
) -> None:
    """One turn; the history grows only if it succeeded."""
    try:
        ended = runner.run(
            _one_turn(engine, question, AnswerPrinter(), kb=kb, history=history, top_k=top_k)
        )
    except RagError as error:
        say(f"Error: {error}")
        return
    except KeyboardInterrupt:
        say("\nInterrupted; this turn is not kept.")
        return
    if isinstance(ended, Answer):
        history += [Message("user", question), Message("assistant", ended.text)]


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        return None


async def _one_turn(
    engine: Engine,
    question: str,
    printer: AnswerPrinter,
    *,
    kb: str,
    history: list[Message] | None = None,
    images: tuple[Image, ...] = (),
    filters: Filters = Filters(),
    top_k: int | None = None,
) -> Answer | Failed:
    events = engine.ask(
        question,
        knowledge_base=kb,
        history=history or (),
        images=images,
        filters=filters,
        top_k=top_k,
    )
    last: AnswerEvent | None = None
    async for event in events:
        printer.show(event)
        last = event
    if isinstance(last, Finished):
        return last.answer
    if isinstance(last, Failed):
        return last
    raise RagError("The answer ended without a result.", "Please report this.")


def _failed_json(failed: Failed) -> dict[str, Any]:
    return {
        "code": failed.code,
        "message": failed.message,
        "hint": failed.hint,
        "retryable": failed.retryable,
    }


@docs.command("ls")
def docs_ls(kb: KnowledgeBaseOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the documents."""
    with _engine() as engine:
        infos = engine.store(kb).documents()
    if as_json:
        print(json.dumps([document_info_json(i) for i in infos], ensure_ascii=False, indent=2))
    else:
        print_documents(infos)


@docs.command("show")
def docs_show(
    document: Annotated[str, typer.Argument(help="A name or an id, as 'rag docs ls' shows.")],
    kb: KnowledgeBaseOption = DEFAULT,
    chunks: Annotated[bool, typer.Option("--chunks", help="Show its chunks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a document's text, or its chunks."""
    with _engine() as engine:
        found = engine.find(document, kb)
        pieces = engine.store(kb).chunks(found.id) if chunks else []
    if chunks or as_json:
        print_preview(found, pieces, as_json=as_json)
    else:
        print(found.text)


@docs.command("rm")
def docs_rm(
    documents: Annotated[list[str], typer.Argument(help="Names or ids.")],
    kb: KnowledgeBaseOption = DEFAULT,
) -> None:
    """Remove documents from the knowledge base; the files stay where they are."""
    with _engine() as engine:
        for name in engine.remove(documents, knowledge_base=kb):
            print(f"removed {name}")


@app.command()
def preview(files: list[Path], as_json: JsonOption = False) -> None:
    """Show what files become: elements, chunks, offsets. Nothing is indexed."""
    failed = False
    with _engine() as engine:
        for file in files:
            try:
                document, chunks = engine.preview(file)
            except RagError as error:
                failed = True
                say(f"Error: {error}")
            else:
                print_preview(document, chunks, as_json=as_json)
    if failed:
        raise typer.Exit(_FAILED)


@app.command("eval")
def eval_(
    cases: Annotated[
        Path | None, typer.Argument(help="Cases to ask the knowledge base (JSON lines).")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Documents: id, title, text.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Questions: id, question, doc_id.")] = None,
    run_out: Annotated[Path | None, typer.Option(help="Write each query's ranking here.")] = None,
    rgb: Annotated[Path | None, typer.Option(help="Rows with positive and negative texts.")] = None,
    noise: Annotated[float, typer.Option(min=0, max=1, help="Share of negatives.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    gate: Annotated[
        list[str],
        typer.Option(
            help="Fail below recall@1=0.9, or above wrong_refusal_rate<=0.05. Repeatable."
        ),
    ] = [],  # noqa: B006 - typer copies it
    kb: KnowledgeBaseOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval and answers.

    \b
    rag eval tests/cases.jsonl
    rag eval --corpus C.jsonl --queries Q.jsonl --run-out RUN.jsonl
    rag eval --rgb ROWS.jsonl --noise 0.4
    """
    with _engine() as engine, ProgressBar(quiet=as_json) as bar:
        if corpus and queries:
            scores = evaluate_retrieval(
                engine.settings,
                corpus,
                queries,
                run_out=run_out,
                limit=limit,
                on_ingest=bar.ingest,
                on_step=bar.step,
            )
        elif rgb:
            scores = evaluate_rgb(
                engine.settings,
                rgb,
                noise=noise,
                limit=limit,
                on_ingest=bar.ingest,
                on_step=bar.step,
            )
        elif cases:
            scores = evaluate_cases(engine, cases, knowledge_base=kb, limit=limit, on_step=bar.step)
        else:
            raise InputError(
                "There is nothing to measure.", "Give CASES, or --corpus with --queries, or --rgb."
            )
    print_scores(scores, as_json=as_json)
    missed = missed_gates(scores, gate)
    for line in missed:
        say(line)
    if missed:
        raise typer.Exit(_FAILED)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
) -> None:
    """Serve the web page and the REST API."""
    import uvicorn

    settings = Settings.read()
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=host or settings.host,
        port=settings.port if port is None else port,
        log_level="info",
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


@app.command()
def status(
    kb: Annotated[str | None, typer.Option("--kb")] = None, as_json: JsonOption = False
) -> None:
    """Knowledge bases, their size, generation and embedding model."""
    with _engine() as engine:
        print_status(engine, engine.names() if kb is None else [kb], as_json=as_json)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the installation and the settings, and say what to do about what is wrong."""
    findings = examine(Settings.read())
    if as_json:
        print(json.dumps([vars(f) for f in findings], ensure_ascii=False, indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:5} {finding.what}: {finding.detail}")
            if finding.hint:
                print(f"      {finding.hint}")
    if any(f.state == "bad" for f in findings):
        raise typer.Exit(_FAILED)
