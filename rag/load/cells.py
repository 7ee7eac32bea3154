"""What a cell of a spreadsheet shows."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell  # type: ignore[import-untyped]

_CURRENCY = re.compile("[¥￥$€£元](?!-)")
_DATE_PART = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|y+|m+|d+|h+|s+|AM/PM|.', re.IGNORECASE)


def is_number(value: Any) -> bool:
    """Dates and times are numbers to a spreadsheet."""
    if isinstance(value, dt.date | dt.time | dt.timedelta):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(cell: Cell) -> str:
    """A cell as a person sees it: dates, times, percentages, thousands and decimals.

    Dates are written 2026-01-05 whatever the order of their parts, but for those written with
    年, 月 and 日, which stay so.
    """
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, dt.datetime):
        return _in_chinese(value, cell.number_format or "") or _shown_time(value)
    if isinstance(value, dt.time):
        return value.isoformat(timespec="seconds" if value.second else "minutes")
    if isinstance(value, dt.timedelta):
        return _shown_duration(value)
    if isinstance(value, int | float):
        return _shown_number(value, cell.number_format or "General")
    return str(value).strip()


def _in_chinese(value: dt.datetime, number_format: str) -> str:
    """`2026年1月5日`; empty if the format is not of that kind."""
    number_format = number_format.split(";")[0]
    if not re.search("[年月日]", number_format):
        return ""
    parts = []
    for part in _DATE_PART.findall(number_format):
        if part.startswith("["):
            continue
        known = {
            "yyyy": f"{value.year:04}", "yy": f"{value.year % 100:02}", "mm": f"{value.month:02}",
            "m": str(value.month), "dd": f"{value.day:02}", "d": str(value.day),
        }.get(part.lower())  # fmt: skip
        if known is None and re.fullmatch(r"[ymdhs]+|AM/PM", part, re.IGNORECASE):
            return ""
        parts.append(part.strip('"').removeprefix("\\") if known is None else known)
    return "".join(parts).replace("@", "").strip()


def _shown_time(value: dt.datetime) -> str:
    if value.time() == dt.time():
        return value.date().isoformat()
    return value.isoformat(sep=" ", timespec="seconds" if value.second else "minutes")


def _shown_duration(value: dt.timedelta) -> str:
    """`30:05:00`: hours may be more than a day has."""
    minutes, seconds = divmod(round(abs(value).total_seconds()), 60)
    sign = "-" if value < dt.timedelta() else ""
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _shown_number(value: float, number_format: str) -> str:
    section = re.sub(r'"[^"]*"|\\.|\[[^\]]*\]|_.', "", number_format.split(";")[0])
    digits = re.search(r"[#0?](?:[#0?,]*)(?:\.(0*)([#?]*))?", section)
    if "E" in section or digits is None or section.strip().lower() == "general":
        return _plain_number(value)
    if "%" in section:
        value *= 100
    decimals = len(digits[1] or "")
    grouping = "," if "," in digits[0] else ""
    text = f"{value:{grouping}.{decimals}f}"
    currency = _CURRENCY.search(number_format)
    if currency:
        sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
        return f"{sign}{text}元" if currency[0] == "元" else f"{sign}{currency[0]}{text}"
    return f"{text}%" if "%" in section else text


def _plain_number(value: float) -> str:
    """Up to 15 digits, as Excel keeps them; whole numbers without a point."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{value:.15g}"
