"""Commands that move knowledge bases: to files, from files, to another kind of store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rag.bases import DEFAULT
from rag.commands.common import KnowledgeBaseOption, opened
from rag.console import ProgressBar, say, write
from rag.errors import InputError
from rag.places import Place
from rag.transfer import Imported

app = typer.Typer(rich_markup_mode=None)

ReplaceOption = Annotated[bool, typer.Option("--replace", help="Put it in place of what is there.")]


@app.command("export")
def export(folder: Path, kb: KnowledgeBaseOption = DEFAULT) -> None:
    """Write documents, chunks and vectors to a new folder of Parquet files.

    \b
    rag export ./export
    rag import ./export --kb copy
    """
    with opened() as engine, ProgressBar() as bar:
        total = engine.keeping.generations(kb)[:1]
        documents = total[0].documents if total else 0
        made = engine.moving.export(
            folder, kb, on_document=lambda done: bar.step("documents", done, documents)
        )
    write(
        f"{folder}: generation {made.generation}, {made.documents} documents,"
        f" {made.chunks} chunks, {made.bytes / 1e6:.1f} MB."
    )


@app.command("import")
def import_(
    folder: Annotated[Path | None, typer.Argument(help="What 'rag export' wrote.")] = None,
    langchain_faiss: Annotated[
        Path | None, typer.Option(help="Or a folder that LangChain's FAISS.save_local wrote.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="The model LangChain's vectors are of.")
    ] = None,
    kb: KnowledgeBaseOption = DEFAULT,
    replace: ReplaceOption = False,
) -> None:
    """Read documents, chunks and vectors from files; nothing is embedded.

    \b
    rag import ./export
    rag import --langchain-faiss ./faiss_index --embedding moka-ai/m3e-base
    """
    with opened() as engine, ProgressBar() as bar:
        if folder is not None and langchain_faiss is None:
            made = engine.moving.import_parquet(
                folder, kb, replacing=replace, on_document=lambda n: bar.count("documents", n)
            )
        elif langchain_faiss is not None and folder is None:
            made = engine.moving.import_langchain(
                langchain_faiss,
                _named(embedding),
                kb,
                replacing=replace,
                on_document=lambda n: bar.count("documents", n),
                on_prepare=bar.prepare,
            )
        else:
            raise InputError(
                "There is nothing to import, or too much.",
                "Give a folder that 'rag export' wrote, or --langchain-faiss DIR.",
            )
    _tell(kb, made)


def _named(embedding: str | None) -> str:
    if embedding is None:
        raise InputError(
            "LangChain does not say which model its vectors are of.",
            "Name it with --embedding, as in: --embedding moka-ai/m3e-base",
        )
    return embedding


def _tell(kb: str, made: Imported) -> None:
    write(
        f"{kb}: {made.documents} documents, {made.chunks} chunks imported,"
        f" {made.unchanged} were there already; generation {made.generation}."
    )
    for note in made.notes:
        say(f"note: {note}")


@app.command("migrate")
def migrate(
    to: Annotated[Place, typer.Option("--to", help="Where it shall live from now on.")],
    kb: KnowledgeBaseOption = DEFAULT,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of other vectors a copy there holds.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Delete the original once the copy is proven.")
    ] = False,
) -> None:
    """Move a knowledge base to Milvus, or back, vectors included.

    Counts and the best ten of sampled questions are compared before the copy counts; questions go
    on all the time. Interrupted, it goes on where it was.

    \b
    RAG_MILVUS_URI=http://127.0.0.1:19530 rag migrate --to milvus
    """
    with opened() as engine, ProgressBar() as bar:
        if discard and engine.bases.existing(kb) == to:
            engine.moving.discard(kb)
            write(f"What {kb} left behind is deleted.")
            return
        made = engine.moving.migrate(
            to,
            kb,
            replacing=replace,
            discard=discard,
            on_progress=lambda p: bar.step("chunks", p.chunks_done, p.chunks),
        )
    write(
        f"{kb}: {made.documents} documents, {made.chunks} chunks ({made.copied} documents copied,"
        f" {made.kept} were there already) in {made.seconds:.1f} s."
    )
    write(
        f"Of the best ten {made.dense_overlap:.1%} by meaning and {made.keyword_overlap:.1%} by"
        f" words are the same, for {made.sampled} samples. {kb} lives in {_PLACES[to]} now."
    )
    if not discard:
        say(f"The original stays where it was; to delete it: rag migrate --to {to} --discard")


_PLACES = {"milvus": "Milvus", "embedded": "its folder"}
