"""Both indexes prepared for what is about to be published, so that readers need only switch over.

Both are written to the end, but the keyword index aside (aside.py) and the vectors' file under
another name. Right after the database shows the new generation the file gets its name, then the
keywords get their place: a reader that finds the keywords of a generation finds its vectors too.
Whoever dies in between leaves what is made from the database again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.stores.embedded.database import Database
from rag.stores.embedded.stored import Stored
from rag.stores.indexes.keywords import Coming, is_damage
from rag.stores.indexes.vectors import MAX_DELTA, VectorIndex, build_base_of, show_base, write_base

_log = logging.getLogger("rag")


@contextmanager
def prepared(
    folder: Path, db: Database, coming: Coming, target: int, vectors: Stored | None
) -> Iterator[None]:
    """The block publishes `target`, or finds that there is nothing to publish.

    The caller holds the lock of the caches; `coming` is the keyword index of `target`. `vectors`
    are those to make a new base of.
    """
    try:
        written = None if vectors is None else _written(folder, db, target, vectors)
        yield
    except BaseException:
        coming.abandon()
        raise
    if db.generation() != target:
        coming.abandon()
        return
    try:
        if written is not None:
            show_base(written, folder, target)
        coming.show()
    except BaseException as error:
        if not is_damage(error):
            raise
        coming.abandon()
        # It is published; whoever brings the indexes up to date next meets the reason.
        _log.warning("The indexes in %s are not up to date: %s.", folder, error)


def _written(folder: Path, db: Database, target: int, vectors: Stored) -> Path | None:
    base = build_base_of(vectors, vectors.dimension, target)
    try:
        return write_base(base, folder, db.identity)
    except OSError as error:  # it is only a cache; the next to open makes it again
        _log.warning("The vector index in %s cannot be kept: %s.", folder, error)
        return None


def vectors_ahead(
    db: Database, index: VectorIndex | None, dimension: int, target: int, *, replacing: bool
) -> Stored | None:
    """Of what base to make before `target` is published: none while readers can take up what came
    by themselves, within a second. `index` is what the writer has of the generation before."""
    came = Stored(db, dimension, target, after=target - 1)
    if len(came) <= MAX_DELTA:
        return None
    if replacing:
        return came
    grown = index is None or index.outgrown_by(len(came))
    return Stored(db, dimension, target) if grown else None


def leaving(db: Database, target: int, *, replacing: bool) -> list[int]:
    """The chunks that go when `target` is published, by what is marked so far."""
    goes = "d.removed_in = :target"
    if replacing:
        goes = f"({goes} OR (d.removed_in IS NULL AND d.added_in < :target))"
    with db.reading() as connection:
        rows = connection.execute(
            "SELECT c.id FROM documents d JOIN chunks c ON c.document_key = d.key"
            f" WHERE {goes} AND d.added_in < :target ORDER BY c.id",
            {"target": target},
        )
        return [row[0] for row in rows]
