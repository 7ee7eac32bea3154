"""Commands on the installation: serve, measure, look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rag.bases import DEFAULT
from rag.commands.common import FAILED, JsonOption, KnowledgeBaseOption, opened
from rag.config import Settings
from rag.console import ProgressBar, print_scores, print_status, say
from rag.doctor import examine
from rag.errors import InputError
from rag.evaluate import evaluate_cases, evaluate_retrieval, evaluate_rgb, missed_gates

app = typer.Typer(rich_markup_mode=None)

_SHUTDOWN_SECONDS = 3  # for answers being written; a model may take much longer


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
    with opened() as engine, ProgressBar(quiet=as_json) as bar:
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
        raise typer.Exit(FAILED)


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
    with opened() as engine:
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
        raise typer.Exit(FAILED)
