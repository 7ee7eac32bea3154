"""Commands on documents."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rag.bases import DEFAULT
from rag.commands.common import FAILED, JsonOption, KnowledgeBaseOption, opened
from rag.console import ProgressBar, print_documents, print_preview, print_report, say
from rag.errors import InputError, RagError
from rag.load.memory import keep_together
from rag.origins import is_address
from rag.watch import Told
from rag.watch import watch as follow
from rag.wire import document_info_json

_NICE = 10

app = typer.Typer(rich_markup_mode=None)
docs = typer.Typer(help="Look at and remove documents.", no_args_is_help=True)
app.add_typer(docs, name="docs")


@app.command()
def ingest(
    paths: Annotated[list[str], typer.Argument(help="Files, folders and addresses.")],
    kb: KnowledgeBaseOption = DEFAULT,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Mark these documents.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and follow changes.")] = False,
    poll: Annotated[
        bool, typer.Option("--poll", help="With --watch: for folders on a network.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the knowledge base to what the files say now.

    Unchanged files are skipped, changed ones replaced, and documents whose file has gone from an
    ingested folder are removed. Exit code: 0; 3 if some files failed; 1 if nothing could be done.

    \b
    rag ingest ./knowledge
    rag ingest report.pdf notes/ --kb research --tag 2026
    rag ingest https://example.com/sitemap.xml
    rag ingest git+https://example.com/team/wiki.git s3://bucket/handbooks
    rag ingest ./knowledge --watch
    """
    _begin_long_work()
    if watch:
        _watch(paths, kb=kb, tags=tag, polling=poll)
        return
    with opened() as engine, ProgressBar(quiet=as_json) as bar:
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


def _begin_long_work() -> None:
    """Whoever asks a question on this machine comes first."""
    keep_together()
    with suppress(OSError, AttributeError):  # not every system knows it, or allows it
        os.nice(_NICE)


def _watch(paths: list[str], *, kb: str, tags: list[str] | None, polling: bool) -> None:
    addresses = [path for path in paths if is_address(path)]
    if addresses:
        raise InputError(
            f"{addresses[0]} cannot be watched.", "Only folders can; ingest addresses now and then."
        )
    with opened() as engine:
        follow(
            [Path(path) for path in paths],
            lambda there: engine.ingest(there, knowledge_base=kb, tags=tags, on_notice=say),
            told=Told(
                report=lambda report: print_report(report, as_json=False),
                error=lambda error: say(f"Error: {error}"),
                notice=say,
            ),
            ignore=[engine.settings.indexes],
            debounce=engine.settings.watch_debounce,
            polling=polling,
        )


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
    _begin_long_work()
    with opened() as engine, ProgressBar(quiet=as_json) as bar:
        report = engine.reindex(
            embedding, knowledge_base=kb, on_progress=bar.ingest, on_prepare=bar.prepare
        )
    print_report(report, as_json=as_json)


@docs.command("ls")
def docs_ls(kb: KnowledgeBaseOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the documents."""
    with opened() as engine:
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
    with opened() as engine:
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
    with opened() as engine:
        for name in engine.remove(documents, knowledge_base=kb):
            print(f"removed {name}")


@app.command()
def preview(files: list[Path], as_json: JsonOption = False) -> None:
    """Show what files become: elements, chunks, offsets. Nothing is indexed."""
    failed = False
    with opened() as engine:
        for file in files:
            try:
                document, chunks = engine.preview(file)
            except RagError as error:
                failed = True
                say(f"Error: {error}")
            else:
                print_preview(document, chunks, as_json=as_json)
    if failed:
        raise typer.Exit(FAILED)
