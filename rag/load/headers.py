"""Headers of two lines, of which a table can keep but one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"[-+(]?[¥￥$€£]?\d[\d,.\s]*[%‰元)]?")


def looks_numeric(cell: str) -> bool:
    """`-1,234.50 元`, `12.5%`; but not `2025` alone: years head columns."""
    return bool(_NUMBER.fullmatch(cell)) and not re.fullmatch(r"(19|20)\d\d", cell)


def header_place(rows: Sequence[Sequence[str]]) -> int:
    """Of the first row that is not empty or a title: the header's. 0 if there is none."""
    return next((i for i, row in enumerate(rows) if sum(map(bool, row)) > 1), 0)


def joined_headers(
    upper: Sequence[str], lower: Sequence[str], spans: Mapping[int, int]
) -> list[str]:
    """Each column's name, what spans it first: `收入 一季度`. Empty if it may be no header.

    `spans` has how many columns a cell of `upper` takes, by its place from 0, where it is more than
    one. `lower` must have a text, and no number, below all of a spanning cell, and nothing but the
    upper text again elsewhere.
    """
    if any(map(looks_numeric, (*upper, *lower))):
        return []
    width = max(len(upper), len(lower))
    above = [*upper, *[""] * (width - len(upper))]
    below = [*lower, *[""] * (width - len(lower))]
    covered: dict[int, str] = {}
    for column, count in spans.items():
        if above[column : column + 1] != [""] and count < width:
            covered |= dict.fromkeys(range(column, min(column + count, width)), above[column])
    if not covered:
        return []
    names = []
    for column in range(width):
        if column in covered:
            if not below[column]:
                return []
            names.append(f"{covered[column]} {below[column]}")
        elif below[column] in ("", above[column]):
            names.append(above[column])
        elif not above[column]:
            names.append(below[column])
        else:
            return []
    return names


def with_whole_header(
    rows: Sequence[list[str]], wide: Sequence[Mapping[int, int]]
) -> list[list[str]]:
    """A header of two lines is one, above an empty row. `wide` has the `spans` of each row."""
    place = header_place(rows)
    if len(rows) > place + 2:
        names = joined_headers(rows[place], rows[place + 1], wide[place])
        if names:
            return [*rows[:place], names, [], *rows[place + 2 :]]
    return list(rows)
