"""What reading one file may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes. `seconds` and `memory` hold only where a file is read in a process of its
    own, see `pool`; the others hold wherever `load` is called.

    `unpacked_ratio` is unpacked over packed of a whole archive, and asked only of one that unpacks
    to more than 100 MB: what is repetitive, and small, may be packed as tightly as it can be.
    """

    text: int = 50_000_000  # of UTF-8
    elements: int = 1_000_000
    unpacked: int = 2_000_000_000
    unpacked_ratio: float = 200.0
    entries: int = 20_000  # of an archive
    seconds: float = 120.0
    memory: int = 2048 * 2**20
    ocr: bool = True  # pages that are pictures are read, if the extra is installed

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            text=int(settings.max_text_mb * 1_000_000),
            unpacked=settings.max_unpacked_mb * 1_000_000,
            unpacked_ratio=settings.max_unpacked_ratio,
            ocr=settings.ocr,
            seconds=settings.max_parse_seconds,
            memory=settings.max_parse_mb * 2**20,
        )
