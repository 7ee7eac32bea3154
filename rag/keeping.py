"""What keeps a knowledge base sound: checks, repairs, snapshots, earlier generations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag.bases import DEFAULT, KnowledgeBases
from rag.errors import InputError, NotFoundError
from rag.stores.embedded import EmbeddedStore
from rag.stores.embedded.repair import repair
from rag.stores.embedded.snapshot import Manifest, backup, restore
from rag.stores.embedded.verify import verify
from rag.stores.managed import Freed, Generation, ManagedStore
from rag.stores.milvus import MilvusStore
from rag.stores.milvus.repair import repair as repair_in_milvus
from rag.stores.milvus.verify import verify as verify_in_milvus
from rag.stores.recall import Recall
from rag.stores.soundness import Repaired, Verification
from rag.transfer import put_all
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix


class Keeping:
    """For the operator. Each raises NotFoundError where there is no such knowledge base."""

    def __init__(self, bases: KnowledgeBases) -> None:
        self._bases = bases

    # A damaged one that is embedded cannot be opened: these work on its files.

    def verify(self, knowledge_base: str = DEFAULT) -> Verification:
        """Reads everything there is and says what does not agree. Changes nothing."""
        if self._bases.existing(knowledge_base) == "embedded":
            return verify(self._bases.places.folder(knowledge_base))
        return verify_in_milvus(self._in_milvus(knowledge_base))

    def repair(self, knowledge_base: str = DEFAULT) -> Repaired:
        """Mends what can be mended, embedding nothing that is still known.

        Raises BusyError while another process writes, DamagedStoreError if nothing can be saved.
        """
        if self._bases.existing(knowledge_base) == "milvus":
            return repair_in_milvus(self._in_milvus(knowledge_base), embed=self._embed)
        self._bases.forget(knowledge_base)
        return repair(self._bases.places.folder(knowledge_base), embed=self._embed)

    def _in_milvus(self, name: str) -> MilvusStore:
        store = self._bases.store(name)
        assert isinstance(store, MilvusStore)
        return store

    def _embed(self, fingerprint: Fingerprint, texts: Sequence[str]) -> Matrix:
        return self._bases.embedder_of(fingerprint).embed_documents(texts)

    def restore(
        self, file: Path, knowledge_base: str = DEFAULT, *, replace: bool = False
    ) -> Manifest:
        """Puts a backup in place, in one step, and only if every byte of it is as it was.

        Raises InputError for the name of a knowledge base in Milvus.
        """
        if self._bases.places.place(knowledge_base) == "milvus":
            raise InputError(
                f"The knowledge base {knowledge_base!r} is in Milvus; backups are put in folders.",
                "Restore it under another name with --kb, then: rag migrate --to milvus",
            )
        self._bases.forget(knowledge_base)
        return restore(file, self._bases.places.folder(knowledge_base), replace=replace)

    def backup(self, file: Path, knowledge_base: str = DEFAULT) -> Manifest:
        """Questions and ingests go on meanwhile."""
        if self._bases.existing(knowledge_base) == "embedded":
            return backup(self._bases.places.folder(knowledge_base), file)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as beside:
            folder = Path(beside) / knowledge_base
            self._copy_to(folder, self._bases.store(knowledge_base))
            return backup(folder, file)

    def _copy_to(self, folder: Path, store: ManagedStore) -> None:
        copy = EmbeddedStore(folder)
        try:
            with store.contents() as contents:
                if contents.fingerprint is None:
                    raise NotFoundError("There is nothing to back up: nothing was ever ingested.")
                put_all(contents.rows, copy, contents.fingerprint)
        finally:
            copy.close()

    def drop(self, knowledge_base: str = DEFAULT) -> None:
        """Deletes it for good, earlier generations and all. Raises BusyError."""
        if self._bases.existing(knowledge_base) == "milvus":
            self._bases.places.reach_milvus()  # before anything goes
        self._bases.forget(knowledge_base)
        self._bases.places.drop(knowledge_base)

    # --- generations ----------------------------------------------------------------------------

    def measure_recall(self, knowledge_base: str = DEFAULT, *, sample: int = 200) -> Recall | None:
        """Of the search for vectors against exact search; None where there is nothing yet."""
        return self._bases.store(knowledge_base).measure_recall(sample)

    def generations(self, knowledge_base: str = DEFAULT) -> list[Generation]:
        """The published one and those that can be brought back, newest first."""
        return self._bases.store(knowledge_base).generations()

    def rollback(self, generation: int | None = None, knowledge_base: str = DEFAULT) -> int:
        """Publishes an earlier generation, the one before by default, under a new number."""
        return self._bases.store(knowledge_base).rollback(generation)

    def gc(self, knowledge_base: str = DEFAULT, *, keep: int = 0) -> Freed:
        """Deletes earlier generations, but for the latest `keep`."""
        return self._bases.store(knowledge_base).gc(keep)
