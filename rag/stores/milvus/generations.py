"""Generations of a knowledge base in Milvus: recorded, brought back, let go.

As for an embedded one (embedded/generations.py). Milvus has a row for each chunk whichever
generation shows it, so bringing one back changes the records alone.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rag.stores.managed import Freed, Generation, chosen
from rag.stores.milvus.base import as_fingerprint, batches
from rag.stores.milvus.graves import Graves, delete_documents
from rag.stores.milvus.records import Records

if TYPE_CHECKING:
    import sqlalchemy as sa

_AT_ONCE = 500

# Rows that `wanted` showed come in generation `number`, those it did not show go in it.
_SHOWN = (
    "EXISTS (SELECT 1 FROM store_shown_before s WHERE s.document_key = store_documents.key"
    " AND s.added_in <= :wanted AND s.removed_in > :wanted)"
)
_RETURNING = (
    f"base = :base AND removed_in > :wanted AND removed_in < :number"
    f" AND (added_in <= :wanted OR {_SHOWN})"
)
_MAKE_ROOM = (
    "UPDATE store_documents SET removed_in = NULL WHERE base = :base AND removed_in = :number",
    "UPDATE store_documents SET added_in = added_in + 1 WHERE base = :base AND added_in = :number",
)
_SHOW_AGAIN = (
    "UPDATE store_documents SET removed_in = :number WHERE base = :base AND added_in > :wanted"
    f" AND added_in < :number AND removed_in IS NULL AND NOT {_SHOWN}",
    "INSERT INTO store_shown_before (base, document_key, added_in, removed_in)"
    f" SELECT base, key, added_in, removed_in FROM store_documents WHERE {_RETURNING}",
    f"UPDATE store_documents SET added_in = :number, removed_in = NULL WHERE {_RETURNING}",
)


def record(
    connection: sa.Connection,
    records: Records,
    number: int,
    fingerprint: str,
    *,
    restores: int | None = None,
    guarantee: int | None = None,
) -> None:
    """Makes `number` the published generation, within the caller's transaction.

    Costs as much as what came and went: the counts are those of the generation before, changed.
    """
    import sqlalchemy as sa

    t, base = records.tables, records.base
    d, g = t.documents, t.generations
    gone = (
        sa.select(sa.literal(base), sa.literal(number), t.chunks.c.id)
        .join(d, d.c.key == t.chunks.c.document_key)
        .where(d.c.base == base, d.c.removed_in == number)
    )
    connection.execute(t.removed.insert().from_select(["base", "generation", "chunk_id"], gone))
    came = _counted(connection, records, d.c.added_in == number)
    went = _counted(connection, records, d.c.removed_in == number)
    wanted = sa.select(g.c.documents, g.c.chunks)
    before = connection.execute(
        wanted.where(g.c.base == base, g.c.generation == number - 1)
    ).first() or (0, 0)
    connection.execute(
        g.insert().values(
            base=base,
            generation=number,
            mark=secrets.token_hex(8),
            published_at=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint,
            documents=before[0] + came[0] - went[0],
            chunks=before[1] + came[1] - went[1],
            restores=restores,
            is_kept=1,
        )
    )
    values: dict[str, Any] = {"generation": number, "fingerprint": fingerprint}
    if guarantee is not None:
        values["guarantee"] = guarantee
    connection.execute(t.bases.update().where(t.bases.c.id == base).values(values))


def _counted(
    connection: sa.Connection, records: Records, where: sa.ColumnElement[bool]
) -> tuple[int, int]:
    import sqlalchemy as sa

    d = records.tables.documents
    wanted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(d.c.chunks), 0))
    documents, chunks = connection.execute(wanted.where(d.c.base == records.base, where)).one()
    return int(documents), int(chunks)


def listed(connection: sa.Connection, records: Records) -> list[Generation]:
    """Those that are kept, newest first; the first is the published one."""
    import sqlalchemy as sa

    bases, g = records.tables.bases, records.tables.generations
    wanted = (
        sa.select(g, (g.c.generation == bases.c.generation).label("current"))
        .join(bases, bases.c.id == g.c.base)
        .where(g.c.base == records.base, g.c.is_kept == 1)
        .order_by(g.c.generation.desc())
    )
    return [
        Generation(
            number=row.generation,
            published_at=row.published_at,
            documents=row.documents,
            chunks=row.chunks,
            fingerprint=as_fingerprint(row.fingerprint),
            restores=row.restores,
            current=bool(row.current),
        )
        for row in connection.execute(wanted)
    ]


def make_room(connection: sa.Connection, records: Records, number: int) -> None:
    """Of what a writer left that died, before `number` is published by someone else: its removals
    are decided anew, its additions move to the generation after."""
    import sqlalchemy as sa

    for statement in _MAKE_ROOM:
        connection.execute(sa.text(statement), {"base": records.base, "number": number})


def roll_back(records: Records, generation: int | None) -> int:
    """Publishes anew what `generation` showed; by default the one before the published one.

    In one transaction. What a writer that died had put stays staged for the generation after.
    Raises NotFoundError for a generation that is not kept, InputError for the published one.
    """
    import sqlalchemy as sa

    g = records.tables.generations
    with records.part.writing() as connection:
        kept = listed(connection, records)
        wanted = chosen(kept, generation).number
        number = kept[0].number + 1
        values = {"base": records.base, "wanted": wanted, "number": number}
        make_room(connection, records, number)
        for statement in _SHOW_AGAIN:
            connection.execute(sa.text(statement), values)
        fingerprint = connection.execute(
            sa.select(g.c.fingerprint).where(g.c.base == records.base, g.c.generation == wanted)
        ).scalar_one()
        record(connection, records, number, fingerprint, restores=wanted)
    return number


def prune(records: Records, graves: Graves, keep: int, *, writes_to: str = "") -> Freed:
    """Forgets all generations but the published one and `keep` before it, and deletes what only
    they show: here, and in Milvus. `writes_to` is a collection that a writer is about to fill.

    Whoever dies in between has done a part of it. Readers that have not moved on yet find their
    rows gone, and move on then.
    """
    import sqlalchemy as sa

    t, base = records.tables, records.base
    d, g = t.documents, t.generations
    with records.part.reading() as connection:
        kept = [generation.number for generation in listed(connection, records)]
        if not kept:
            return Freed()
        oldest = kept[: keep + 1][-1]
        gone = connection.execute(
            sa.select(d.c.key, d.c.collection).where(d.c.base == base, d.c.removed_in <= oldest)
        ).all()
    if gone or oldest != kept[-1]:
        with records.part.writing() as connection:
            connection.execute(
                g.update().where(g.c.base == base, g.c.generation < oldest).values(is_kept=0)
            )
            before = t.shown_before
            connection.execute(
                before.delete().where(before.c.base == base, before.c.removed_in <= oldest)
            )
            connection.execute(t.bases.update().where(t.bases.c.id == base).values(purged=oldest))
    unneeded = graves.drop_unneeded(writes_to)
    chunks = 0
    for some in batches(gone, _AT_ONCE):
        with records.part.writing() as connection:
            keys = [row.key for row in some if row.collection not in unneeded]
            chunks += delete_documents(connection, records, keys)
            keys = [row.key for row in some if row.collection in unneeded]
            chunks += delete_documents(connection, records, keys, in_milvus=False)
    graves.bury()
    return Freed(
        generations=sum(number < oldest for number in kept), documents=len(gone), chunks=chunks
    )


def forget_removals(records: Records) -> None:
    """Keyword indexes older than all that is kept are then made anew by whoever has them."""
    t, base = records.tables, records.base
    (oldest,) = records.row("purged")
    with records.part.writing() as connection:
        connection.execute(
            t.removed.delete().where(t.removed.c.base == base, t.removed.c.generation <= oldest)
        )
        g = t.generations
        connection.execute(g.delete().where(g.c.base == base, g.c.generation < oldest))
