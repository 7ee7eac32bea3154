"""What was fetched before, on disk, so that what has not changed is not fetched again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_KEPT_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """What is kept under an address: facts about it (a version, a type), and its bytes."""

    facts: Mapping[str, str]
    data: bytes


class Kept:
    """A folder of fetched documents. It may be deleted at any moment: all is then fetched anew.

    An item is one file, written whole or not at all, so that several processes share a folder.
    A damaged item is as good as none.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, address: str) -> Item | None:
        try:
            head, _, data = self._path(address).read_bytes().partition(b"\n")
            kept = json.loads(head)
            facts = {str(name): str(value) for name, value in kept["facts"].items()}
            whole = kept["address"] == address and kept["sha256"] == _sha256(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Item(facts, data) if whole else None

    def put(self, address: str, facts: Mapping[str, str], data: bytes) -> None:
        """A disk that is full keeps nothing, which costs a download and nothing else."""
        head = {"address": address, "sha256": _sha256(data), "facts": dict(facts)}
        with contextlib.suppress(OSError):
            self._write(self._path(address), json.dumps(head).encode() + b"\n" + data)

    def remember(self, address: str, lines: Iterable[str]) -> set[str]:
        """Adds to the lines kept under `address`, and returns all of them."""
        before = self.get(address)
        known = set(before.data.decode().splitlines()) if before else set()
        every = known | set(lines)
        if every != known:
            self.put(address, {}, "\n".join(sorted(every)).encode())
        return every

    def prune(self) -> None:
        """Forgets the oldest items beyond the limit."""
        files = sorted(self._files(), key=lambda entry: entry[0], reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self._max_bytes:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.kept"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path

    def _write(self, path: Path, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self._folder / f"{_sha256(address.encode())}.kept"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
