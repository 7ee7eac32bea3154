"""What Milvus finds of what is seen. Milvus knows of a row when it came, not whether it is shown:
rows that are staged, or shown by earlier generations only, lie beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rag.stores.milvus.records import Records

_SPARE = 20  # asked for beyond the limit, for what a writer has staged
_MOST = 16_000
_WIDER = 4

Ask = Callable[[str, int], dict[int, float]]


def best_seen(
    ask: Ask,
    records: Records,
    generation: int,
    limit: int,
    keys: Sequence[int] | None,
    hidden_documents: Callable[[], Iterable[int]] = tuple,
) -> dict[int, float]:
    """The best `limit` chunks of a generation, of those documents only, if given; best first.

    `ask` gives the best so many rows that meet a condition, with their scores. The records have the
    last word on what is seen. Without a condition Milvus is fastest, and mostly all it has is seen.
    Else hidden documents are left out by name: those of `hidden_documents`, and whatever more turns
    out to be hidden, with ever more asked for, until enough is found.
    """
    condition = "" if keys is None else f"document in {list(keys)}"
    asked = limit if keys is not None else limit + _SPARE
    documents: set[int] = set()
    chunks: set[int] = set()
    while True:
        found = ask(condition, asked)
        seen = records.seen(list(found), generation)
        best = [i for i in found if i in seen]
        if len(best) >= limit or len(best) == len(found):
            return {i: found[i] for i in best[:limit]}
        hidden = [i for i in found if i not in seen]
        if keys is None and not condition:
            documents.update(hidden_documents())
        owners = records.owners(hidden)
        documents.update(owners.values())
        chunks.update(i for i in hidden if i not in owners)  # deleted, and still shown by Milvus
        if keys is not None and documents.issuperset(keys):
            return {}
        condition = _condition(generation, documents, chunks, keys)
        asked = min(asked * _WIDER, max(_MOST, limit))


def _condition(
    generation: int, documents: set[int], chunks: set[int], keys: Sequence[int] | None
) -> str:
    if keys is not None:
        parts = [f"document in {sorted(set(keys) - documents)}"]
    else:
        parts = [f"added_in <= {generation}"]
        if documents:
            parts.append(f"document not in {sorted(documents)}")
    if chunks:
        parts.append(f"id not in {sorted(chunks)}")
    return " and ".join(parts)
