"""State that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class SharedState(Protocol):
    """Small values that all processes with one Redis share, or the parts of this process."""

    async def change(
        self, key: str, step: Callable[[bytes | None], tuple[bytes | None, T]], *, keep: float
    ) -> T:
        """Replaces the value in one step and returns what `step` returns beside it.

        `step` gets the value (None if there is none) and gives the new one (None removes it); it
        may be called again with a newer value. A value not changed for `keep` seconds is forgotten.
        """
        ...

    async def aclose(self) -> None: ...
