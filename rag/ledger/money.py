"""Whole nano-dollars, so that sums are exact."""

from __future__ import annotations

NANO = 1_000_000_000


def nano_of(dollars: float | None) -> int | None:
    """Exact for what was made by dividing whole nano-dollars, up to two million dollars."""
    return None if dollars is None else round(dollars * NANO)
