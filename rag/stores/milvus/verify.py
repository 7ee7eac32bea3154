"""Proves that a knowledge base in Milvus is what it should be, or names what is not.

Nothing is changed, but that the keywords of this machine are brought up to what is published.
Readers and a writer may be at work meanwhile: what they change is looked at again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rag.errors import NotFoundError
from rag.stores.indexes.keywords import NOTE, index_folder, is_damage, noted_generation
from rag.stores.indexes.sealed import broken_tantivy_files
from rag.stores.milvus.records import recorded
from rag.stores.milvus.soundness import Soundness
from rag.stores.soundness import Finding, Verification, findings_of

if TYPE_CHECKING:
    from rag.stores.milvus.store import MilvusStore

_TRIES = 5


def verify(store: MilvusStore) -> Verification:
    """Reads all of the knowledge base. Raises NotFoundError if there is none, StoreError if the
    application database or Milvus cannot be read."""
    require(store)
    for _ in range(_TRIES):
        state = store.records.state()
        verification = _verified(store, state.generation)
        if verification.ok or store.records.state() == state:
            break
    return verification


def require(store: MilvusStore) -> None:
    """Raises NotFoundError if there is no such knowledge base."""
    if not store.records.base:
        raise NotFoundError(
            f"There is no knowledge base {store.records.name!r} in Milvus.",
            "Make one with: rag ingest PATH",
        )


def _verified(store: MilvusStore, generation: int) -> Verification:
    soundness = Soundness(store.records, store.milvus)
    findings: list[Finding] = []
    shown: set[int] = set()
    documents = bad = in_milvus = 0
    for rows in soundness.documents(generation):
        findings += findings_of(rows.examined)
        if rows.examined.visible:
            documents += 1
            bad += len(rows.examined.bad_vectors)
            in_milvus += rows.in_milvus
            shown.update(rows.examined.chunk_ids)
    findings += leftover_findings(soundness)
    keyword, in_keyword = keyword_findings(store, shown)
    return Verification(
        findings=(*findings, *keyword),
        generation=generation,
        documents=documents,
        chunks=len(shown),
        vectors=len(shown) - bad,
        in_vector_index=in_milvus,
        in_keyword_index=in_keyword,
    )


def leftover_findings(soundness: Soundness) -> list[Finding]:
    findings = []
    for name in sorted(soundness.collections):
        unknown = soundness.leftovers(name)
        if unknown:
            what = f"{len(unknown)} rows of the collection {name} in Milvus belong to nothing."
            findings.append(Finding(kind="vector index", what=what))
    return findings


def keyword_findings(store: MilvusStore, shown: Collection[int]) -> tuple[list[Finding], int]:
    """Of this machine's keyword index: findings, and how many of the shown chunks are in it."""
    state = store.records.state()
    if state.fingerprint is None:
        return [], 0
    if store.milvus.ranks(store.records.collection(recorded(state.fingerprint))):
        return [], len(shown)  # there is none: the rows in Milvus hold their terms
    place = index_folder(store.caches)
    if (place / "meta.json").exists():
        broken = broken_tantivy_files(place, read_all=True)
        if broken:
            names = ", ".join(broken[:5])
            return [_say(f"Files are lost, shortened or changed: {names}.")], 0
    store.refresh()  # makes it, where this machine has none yet
    try:
        generation, ids = _held(store)
    except BaseException as error:
        if not is_damage(error):
            raise
        return [_say(f"It cannot be read: {error}.")], 0
    held = set(ids)
    findings = []
    if generation != state.generation:
        findings.append(_say(f"It is of generation {generation}, not {state.generation}."))
    if len(held) < len(ids):
        findings.append(_say(f"It holds {len(ids) - len(held)} chunks twice."))
    if missing := set(shown) - held:
        findings.append(_say(f"It misses {len(missing)} chunks."))
    if extra := held - set(shown):
        findings.append(_say(f"It holds {len(extra)} chunks that are not visible."))
    return findings, len(held & set(shown))


def _held(store: MilvusStore) -> tuple[int, list[int]]:
    """The generation and the chunk ids of the keyword index."""
    import tantivy

    index = tantivy.Index.open(str(index_folder(store.caches)))
    searcher = index.searcher()
    generation = noted_generation(searcher, index.schema, store.records.identity)
    if not searcher.num_docs:
        return generation, []
    hits = searcher.search(tantivy.Query.all_query(), searcher.num_docs, count=False).hits
    ids = searcher.fast_field_values("id", [address for _, address in hits])
    return generation, [int(i) for i in ids if i != NOTE]  # type: ignore[arg-type]


def _say(what: str) -> Finding:
    return Finding(kind="keyword index", what=f"The keyword index of this machine is wrong. {what}")
