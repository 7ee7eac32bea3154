"""Knowledge bases on the move: out to files, in from them, from one kind of store to the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rag.bases import DEFAULT, KnowledgeBases, OnPrepare
from rag.errors import InputError
from rag.migrate import CopyProgress, Verified, migrate
from rag.places import Place
from rag.transfer import Exported, Imported, export, import_langchain, import_parquet
from rag.types import Fingerprint, StoreWriter


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Target:
    """A knowledge base that is not made before what it shall hold has been checked."""

    bases: KnowledgeBases
    name: str

    def writer(
        self, fingerprint: Fingerprint, *, replacing: bool = False
    ) -> AbstractContextManager[StoreWriter]:
        return self.bases.writer(self.name, fingerprint, replacing=replacing)


class Moving:
    """For the operator. Nothing is embedded."""

    def __init__(self, bases: KnowledgeBases) -> None:
        self._bases = bases

    def export(
        self,
        folder: Path,
        knowledge_base: str = DEFAULT,
        *,
        on_document: Callable[[int], None] = _nothing,
    ) -> Exported:
        """Writes what is published to a new folder of Parquet files.

        Raises NotFoundError, StoreError if the folder holds something, ConfigError without pyarrow.
        """
        return export(self._bases.store(knowledge_base), folder, on_document=on_document)

    def import_parquet(
        self,
        folder: Path,
        knowledge_base: str = DEFAULT,
        *,
        replacing: bool = False,
        on_document: Callable[[int], None] = _nothing,
    ) -> Imported:
        """Puts what `export` wrote beside what is there, or (`replacing`) in its place.

        Raises DamagedStoreError, FingerprintError, StoreError, NotFoundError, ConfigError.
        """
        target = _Target(self._bases, knowledge_base)
        return import_parquet(folder, target, replacing=replacing, on_document=on_document)

    def import_langchain(
        self,
        folder: Path,
        embedding: str,
        knowledge_base: str = DEFAULT,
        *,
        replacing: bool = False,
        on_document: Callable[[int], None] = _nothing,
        on_prepare: OnPrepare | None = None,
    ) -> Imported:
        """Puts what LangChain's `FAISS.save_local` wrote beside what is there, or (`replacing`) in
        its place. `embedding` names the model its vectors are of; a few texts are embedded to see.

        Raises EmbedderUnavailableError, FingerprintError, DamagedStoreError, NotFoundError.
        """
        embedder = self._bases.named_embedder(embedding, on_prepare)
        return import_langchain(
            folder,
            _Target(self._bases, knowledge_base),
            embedder.fingerprint,
            embed=embedder.embed_documents,
            replacing=replacing,
            on_document=on_document,
        )

    def migrate(
        self,
        to: Place,
        knowledge_base: str = DEFAULT,
        *,
        replacing: bool = False,
        discard: bool = False,
        on_progress: Callable[[CopyProgress], None] = _nothing,
    ) -> Verified:
        """Copies a knowledge base to the other kind of store, proves the copy, and only then lets
        it be the one that counts. `discard` deletes the original afterwards.

        Raises InputError if it is there already, NotFoundError, and what `rag.migrate` raises.
        """
        place = self._bases.existing(knowledge_base)
        places = self._bases.places
        if place == to:
            raise InputError(
                f"The knowledge base {knowledge_base!r} is there already.",
                f"To delete what it left behind: rag migrate --to {to} --discard",
            )
        source = self._bases.store(knowledge_base)
        target = places.open(knowledge_base, to)
        try:
            verified = migrate(
                source,
                target,
                replacing=replacing,
                on_progress=on_progress,
                switch=lambda: places.settle(knowledge_base, to),
            )
        finally:
            target.close()
        if discard:
            places.discard(knowledge_base, place)
        return verified

    def discard(self, knowledge_base: str = DEFAULT) -> None:
        """Deletes what a knowledge base that has moved left behind. Raises BusyError."""
        place = self._bases.existing(knowledge_base)
        left: Place = "embedded" if place == "milvus" else "milvus"
        self._bases.places.discard(knowledge_base, left)
