"""What is written into the ledger for one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rag.records import Called


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money held for a call; without an `id` none is."""

    id: str = ""
    amount_nano: int = 0


class Entry(NamedTuple):
    """The call, if one was made, and what was held for it, if anything was."""

    reservation: Reservation | None
    call: Called | None

    def __str__(self) -> str:
        return f"{self.call.usage} of {self.call.model}" if self.call else "a release"
