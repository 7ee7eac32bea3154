"""Where knowledge bases live: in a folder of this machine, or in Milvus.

A knowledge base is opened where it is; settings say only where a new one is made. One that was
copied to Milvus leaves its folder behind with a note in it, which whoever opens it follows:

    indexes/<name>/knowledge.db    it lives in this folder ...
    indexes/<name>/moved           ... or did: what is in Milvus is the one that counts
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rag.application import ApplicationDatabase
from rag.config import Settings
from rag.errors import ConfigError, InputError
from rag.stores.embedded import EmbeddedStore
from rag.stores.files import exclusive, replace_durably
from rag.stores.milvus import MilvusStore, knowledge_bases
from rag.stores.milvus.vectors import Milvus

if TYPE_CHECKING:
    from rag.stores.managed import ManagedStore

Place = Literal["embedded", "milvus"]

DATABASE = "knowledge.db"
_MOVED = "moved"
_CACHES = ".milvus"  # no knowledge base can have this name
_NAME = re.compile(r"[\w\-]{1,64}")


class Places:
    """Finds, makes and moves the stores of one folder's knowledge bases, and those in Milvus."""

    def __init__(self, settings: Settings, database: ApplicationDatabase) -> None:
        self._settings = settings
        self._database = database

    def names(self) -> list[str]:
        """The knowledge bases there are, sorted."""
        folders = (p.parent.name for p in self._settings.indexes.glob(f"*/{DATABASE}"))
        here = {name for name in folders if _NAME.fullmatch(name)}  # not those that are going
        return sorted(here | self._in_milvus())

    def place(self, name: str) -> Place | None:
        """None if there is no such knowledge base. Raises InputError for what cannot be a name."""
        if (self.folder(name) / DATABASE).exists():
            return "milvus" if self._moved(name).exists() else "embedded"
        return "milvus" if name in self._in_milvus() else None

    def new(self) -> Place:
        """Where a new knowledge base is made."""
        return self._settings.store

    def open(self, name: str, place: Place) -> ManagedStore:
        """Raises ConfigError for Milvus without an address."""
        keep = self._settings.keep_generations
        if place == "embedded":
            return EmbeddedStore(self.folder(name), keep_generations=keep)
        self.folder(name)
        return MilvusStore(
            name,
            self._database,
            uri=self._milvus_uri(),
            token=self._milvus_token,
            folder=self._settings.indexes / _CACHES,
            keywords=self._settings.milvus_keywords,
            keep_generations=keep,
        )

    def settle(self, name: str, place: Place) -> None:
        """From now on it lives there, for every process of this machine; in one step."""
        moved = self._moved(name)
        if place == "embedded":
            moved.unlink(missing_ok=True)
        elif (self.folder(name) / DATABASE).exists():
            coming = moved.with_suffix(".new")
            coming.write_text("milvus\n")
            replace_durably(coming, moved)

    def discard(self, name: str, place: Place) -> None:
        """Deletes what `settle` left behind in the other place. Raises InputError if it lives
        there, BusyError while it is written to."""
        if self.place(name) == place:
            raise InputError(f"{name!r} lives there.", "Only a copy left behind can be deleted.")
        self._delete(name, place)

    def drop(self, name: str) -> None:
        """Deletes a knowledge base wherever it is, and what it left behind. Raises BusyError."""
        if self._settings.milvus_uri is not None:
            self._delete(name, "milvus")
        self._delete(name, "embedded")

    def _delete(self, name: str, place: Place) -> None:
        if place == "milvus":
            store = self.open(name, "milvus")
            assert isinstance(store, MilvusStore)
            store.destroy()
            return
        folder = self.folder(name)
        if folder.exists():
            # Away in one step: a database without its journal, or the other way round, is a trap.
            going = folder.with_name(f".{name}.gone-{secrets.token_hex(4)}")
            with exclusive(folder / "write.lock", "writing to this knowledge base"):
                folder.rename(going)
        for going in self._settings.indexes.glob(
            f".{name}.gone-*"
        ):  # and what one that died has left
            shutil.rmtree(going, ignore_errors=True)

    def reach_milvus(self) -> bool:
        """Whether an address is set. Raises StoreError if nothing answers there."""
        if self._settings.milvus_uri is None:
            return False
        milvus = Milvus(self._milvus_uri(), self._milvus_token)
        try:
            milvus.names("")
        finally:
            milvus.close()
        return True

    def reach_database(self) -> None:
        """Raises StoreError if the application database cannot be read."""
        knowledge_bases(self._database)

    def folder(self, name: str) -> Path:
        """Raises InputError for what cannot be a name."""
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot name a knowledge base.",
                "Use up to 64 letters, digits, '-' and '_'.",
            )
        return self._settings.indexes / name

    def _moved(self, name: str) -> Path:
        return self._settings.indexes / name / _MOVED

    def _in_milvus(self) -> set[str]:
        """Only who has set an address pays for looking."""
        if self._settings.milvus_uri is None:
            return set()
        return set(knowledge_bases(self._database))

    @property
    def _milvus_token(self) -> str:
        token = self._settings.milvus_token
        return "" if token is None else token.get_secret_value()

    def _milvus_uri(self) -> str:
        uri = self._settings.milvus_uri
        if uri is None:
            raise ConfigError(
                "Milvus has no address.",
                "Set RAG_MILVUS_URI to a server's (http://host:19530), or to a file that ends in"
                " .db for Milvus Lite.",
            )
        return uri.get_secret_value()
