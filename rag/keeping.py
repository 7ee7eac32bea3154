"""What keeps a knowledge base sound: checks, repairs, snapshots, earlier generations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag.bases import DEFAULT, KnowledgeBases
from rag.stores.generations import Freed, Generation
from rag.stores.recall import Recall
from rag.stores.repair import Repaired, repair
from rag.stores.snapshot import Manifest, backup, restore
from rag.stores.verify import Verification, verify
from rag.types import Fingerprint

if TYPE_CHECKING:
    from rag.types import Matrix


class Keeping:
    """For the operator. Each raises NotFoundError where there is no such knowledge base."""

    def __init__(self, bases: KnowledgeBases) -> None:
        self._bases = bases

    # Damaged ones cannot be opened: these three work on the files.

    def verify(self, knowledge_base: str = DEFAULT) -> Verification:
        """Reads everything there is and says what does not agree. Changes nothing."""
        return verify(self._bases.existing(knowledge_base))

    def repair(self, knowledge_base: str = DEFAULT) -> Repaired:
        """Mends what can be mended, embedding nothing that is still known.

        Raises BusyError while another process writes, DamagedStoreError if nothing can be saved.
        """
        folder = self._bases.existing(knowledge_base)
        self._bases.forget(knowledge_base)
        return repair(folder, embed=self._embed)

    def _embed(self, fingerprint: Fingerprint, texts: Sequence[str]) -> Matrix:
        return self._bases.embedder_of(fingerprint).embed_documents(texts)

    def restore(
        self, file: Path, knowledge_base: str = DEFAULT, *, replace: bool = False
    ) -> Manifest:
        """Puts a backup in place, in one step, and only if every byte of it is as it was."""
        self._bases.forget(knowledge_base)
        return restore(file, self._bases.folder(knowledge_base), replace=replace)

    def backup(self, file: Path, knowledge_base: str = DEFAULT) -> Manifest:
        """Questions and ingests go on meanwhile."""
        return backup(self._bases.existing(knowledge_base), file)

    def measure_recall(self, knowledge_base: str = DEFAULT, *, sample: int = 200) -> Recall | None:
        """Of the search for vectors against exact search; None where it is exact itself."""
        self._bases.existing(knowledge_base)
        return self._bases.open_store(knowledge_base).measure_recall(sample)

    def generations(self, knowledge_base: str = DEFAULT) -> list[Generation]:
        """The published one and those that can be brought back, newest first."""
        self._bases.existing(knowledge_base)
        return self._bases.open_store(knowledge_base).generations()

    def rollback(self, generation: int | None = None, knowledge_base: str = DEFAULT) -> int:
        """Publishes an earlier generation, the one before by default, under a new number."""
        self._bases.existing(knowledge_base)
        return self._bases.open_store(knowledge_base).rollback(generation)

    def gc(self, knowledge_base: str = DEFAULT, *, keep: int = 0) -> Freed:
        """Deletes earlier generations, but for the latest `keep`."""
        self._bases.existing(knowledge_base)
        return self._bases.open_store(knowledge_base).gc(keep)
