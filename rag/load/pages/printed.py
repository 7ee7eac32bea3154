"""Lines of type, and tables drawn with rules, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_NEAR = 3.0  # points


@dataclass(frozen=True, slots=True)
class Line:
    """One line, in points from the lower left corner.

    `size` is that of its first character, 0 if unknown. pdfium joins lines at a hyphen, so `right`
    and `bottom`, those of the last character, may be of another printed line than `left` and
    `first_bottom`, those of the first.
    """

    text: str
    left: float = 0.0
    right: float = 0.0
    first_bottom: float = 0.0
    bottom: float = 0.0
    size: float = 0.0


@dataclass(frozen=True, slots=True)
class Table:
    """Its cells from the top left; `edges` has the left end of each column and the right end of the
    last, in points from the left of the table. `lines` are those of its cells."""

    rows: tuple[tuple[str, ...], ...]
    edges: tuple[float, ...]
    lines: tuple[Line, ...]


def same_columns(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether these may be the edges of one table on two pages."""
    return len(one) == len(other) > 0 and all(
        abs(a - b) <= _NEAR for a, b in zip(one, other, strict=True)
    )
