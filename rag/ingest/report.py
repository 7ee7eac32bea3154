"""What a run did, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from rag.errors import LoadError


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    code: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. `chunks_found` grows while files are still being read."""

    files_done: int
    files: int
    chunks_done: int
    chunks_found: int
    seconds: float


@dataclass(slots=True)
class Report:
    """What one run did. Names are documents' names, in the order they were met."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0
    generation: int = 0
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """0; 3 if some files failed; 1 if nothing could be done."""
        if not self.failed:
            return 0
        return 3 if self.added or self.changed or self.unchanged or self.removed else 1


def failure(name: str, error: LoadError) -> Failure:
    return Failure(name, error.code, error.message, error.hint)
