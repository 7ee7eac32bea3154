"""Commands that keep a knowledge base sound."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rag.bases import DEFAULT
from rag.commands.common import FAILED, JsonOption, KnowledgeBaseOption, opened
from rag.console import say, write
from rag.tables import print_generations, print_verification

app = typer.Typer(rich_markup_mode=None)


@app.command("verify")
def verify(
    kb: KnowledgeBaseOption = DEFAULT,
    recall: Annotated[
        bool, typer.Option("--recall", help="Measure the vector search against exact search.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove that documents, chunks, vectors and indexes agree, or name what does not.

    Exit code: 0 if all is sound, else 1.
    """
    with opened() as engine:
        found = engine.keeping.verify(kb)
        measured = engine.keeping.measure_recall(kb) if recall and found.ok else None
    if as_json:
        shown = asdict(found) | {"ok": found.ok, "recall": measured and asdict(measured)}
        print(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        print_verification(found, measured)
    if not found.ok:
        say(f"Mend it with: rag repair{'' if kb == DEFAULT else f' --kb {kb}'}")
        raise typer.Exit(FAILED)


@app.command("repair")
def repair(kb: KnowledgeBaseOption = DEFAULT) -> None:
    """Mend a knowledge base, embedding nothing that is still known."""
    with opened() as engine:
        repaired = engine.keeping.repair(kb)
    for line in repaired.done or ["Nothing was amiss."]:
        write(line)
    for name in repaired.read_again:
        say(f"to be read again by the next ingest: {name}")
    if repaired.kept is not None:
        say(f"the damaged database is kept as {repaired.kept}")


@app.command("backup")
def backup(file: Path, kb: KnowledgeBaseOption = DEFAULT) -> None:
    """Write a knowledge base to one file, while it is in use."""
    with opened() as engine:
        made = engine.keeping.backup(file, kb)
    write(
        f"{file}: generation {made.generation}, {made.documents} documents, {made.chunks} chunks."
    )


@app.command("restore")
def restore(
    file: Path,
    kb: KnowledgeBaseOption = DEFAULT,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in place of one that is there.")
    ] = False,
) -> None:
    """Put a backup in place, if every byte of it is as it was."""
    with opened() as engine:
        made = engine.keeping.restore(file, kb, replace=replace)
    write(f"{kb}: {made.documents} documents, {made.chunks} chunks, as of {made.created_at}.")


@app.command("rollback")
def rollback(
    generation: Annotated[
        int | None, typer.Argument(help="Default: the one before; --list shows them.")
    ] = None,
    kb: KnowledgeBaseOption = DEFAULT,
    list_: Annotated[bool, typer.Option("--list", help="Show what can be brought back.")] = False,
) -> None:
    """Bring back an earlier generation, without embedding anything."""
    with opened() as engine:
        if list_:
            print_generations(engine.keeping.generations(kb))
            return
        number = engine.keeping.rollback(generation, kb)
    write(f"{kb} shows it again, as generation {number}.")


@app.command("gc")
def gc(
    keep: Annotated[int, typer.Option(min=0, help="Earlier generations to keep.")] = 0,
    kb: KnowledgeBaseOption = DEFAULT,
) -> None:
    """Delete earlier generations for good, and give their space back."""
    with opened() as engine:
        freed = engine.keeping.gc(kb, keep=keep)
    write(
        f"{freed.documents} documents and {freed.chunks} chunks of earlier generations deleted,"
        f" {freed.bytes / 1e6:.1f} MB freed."
    )


@app.command("drop")
def drop(
    kb: Annotated[str, typer.Argument(help="Its name, as 'rag status' shows.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a knowledge base for good, with its earlier generations. The files it was made of stay
    where they are."""
    with opened() as engine:
        size = engine.bases.size(kb)
        if not yes and not typer.confirm(
            f"Delete {kb}, {size.documents} documents and {size.chunks} chunks, for good?"
        ):
            raise typer.Exit(FAILED)
        engine.keeping.drop(kb)
    write(f"{kb} is deleted.")
