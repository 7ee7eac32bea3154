"""A record of every call of a model, in files of JSON lines that are kept for some days."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rag.records import BudgetWarned, CacheAsked, Called, CircuitChanged, KeyRejected, Record
from rag.types import Message

_NAME = re.compile(r"audit-(\d{4}-\d{2}-\d{2})(?:\.\d+)?\.jsonl")
_WAITING = 1000  # records; more are dropped, and counted, for they hold pictures
_CLOSING = 10.0  # seconds for a disk that hangs
_log = logging.getLogger("rag")

_Audited = Called | KeyRejected | CircuitChanged | BudgetWarned


class AuditLog:
    """A `Listener` (rag/records.py) that never waits: a thread of its own writes.

    `folder/audit-2026-01-31.jsonl` holds a UTC day, followed by `audit-2026-01-31.1.jsonl` and so
    on whenever a file has reached `max_mb`. Files older than `days` are deleted. Several processes
    may write to the same folder. Questions, prompts and replies are written only with `texts`.

    When the folder cannot be written, that is logged once, and what cannot be written is lost.
    `clock` gives seconds since 1970.
    """

    # Own code, because logging.handlers rename a full file under the hands of other processes.

    def __init__(
        self,
        folder: Path,
        *,
        texts: bool = False,
        max_mb: float = 50.0,
        days: int = 90,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._texts = texts
        self._clock = clock
        self._files = _Files(folder, int(max_mb * 1_000_000), days)
        self._failing = False
        self._dropped = 0
        self._records: queue.Queue[tuple[float, _Audited] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    def listen(self, record: Record) -> None:
        if isinstance(record, CacheAsked):
            return
        try:
            self._records.put_nowait((self._clock(), record))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Returns when all that was listened to is written. It may be called again."""
        if self._thread.is_alive():
            with suppress(queue.Full):  # the disk hangs: nothing can be written any more
                self._records.put(None, timeout=_CLOSING)
                self._thread.join(_CLOSING)

    def _write_all(self) -> None:
        while (entry := self._records.get()) is not None:
            now, record = entry
            try:
                self._files.append(datetime.fromtimestamp(now, UTC), self._line(now, record))
            except Exception as error:  # noqa: BLE001 - nobody else sees an error of this thread
                self._tell(error)
            else:
                self._failing = False
            if self._dropped:
                _log.error("The audit was too slow: %d records are lost.", self._dropped)
                self._dropped = 0

    def _tell(self, error: Exception) -> None:
        if not self._failing:
            reason = getattr(error, "strerror", None) or type(error).__name__
            _log.error("The audit in %s is not written: %s.", self._files.folder, reason)
        self._failing = True

    def _line(self, now: float, record: _Audited) -> bytes:
        fields = _told(now, record, texts=self._texts)
        # What JSON allows in a string and UTF-8 does not, half a surrogate pair, becomes "?".
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


class _Files:
    """Appends lines; each with one write() to a file opened with O_APPEND, so that lines of several
    processes do not mix."""

    def __init__(self, folder: Path, max_bytes: int, days: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._days = days
        self._day: date | None = None
        self._number = 0
        self._torn = False

    def append(self, now: datetime, line: bytes) -> None:
        """Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if now.date() != self._day:
            self._day, self._number = now.date(), 0
            self._delete_before(now.date() - timedelta(days=self._days))
        while not self._appended(line):
            self._number += 1

    def _appended(self, line: bytes) -> bool:
        """False if the file is full."""
        suffix = f".{self._number}" if self._number else ""
        path = self.folder / f"audit-{self._day}{suffix}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and size + len(line) > self._max_bytes:
                return False
            start = b"\n" if self._torn else b""
            written = os.write(file, start + line)
            self._torn = written < len(start + line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return True
        finally:
            os.close(file)

    def _delete_before(self, first: date) -> None:
        for path in self.folder.iterdir():
            name = _NAME.fullmatch(path.name)
            if name and name[1] < first.isoformat():
                try:
                    path.unlink(missing_ok=True)  # another process deletes too
                except OSError as error:
                    _log.error("Old audit %s cannot be deleted: %s.", path, error.strerror)


def _told(now: float, record: _Audited, *, texts: bool) -> dict[str, Any]:
    match record:
        case Called():
            return _called(record, texts=texts)
        case KeyRejected():
            kind = "key_rejected"
        case CircuitChanged():
            kind = "circuit_changed"
        case BudgetWarned():
            kind = "budget_warned"
    return {"kind": kind, "at": _iso(now)} | asdict(record)


def _called(record: Called, *, texts: bool) -> dict[str, Any]:
    """`extra` of the request stays out: it may hold keys."""
    context, messages = record.request.context, _messages(record.request.messages)
    told: dict[str, Any] = {
        "kind": "called",
        "at": _iso(record.at),
        "caller": context.caller,
        "session_id": context.session_id,
        "knowledge_base": context.knowledge_base,
        "preset": context.preset,
        "model": record.model,
        "outcome": record.outcome,
        "code": record.code,
        **asdict(record.usage),
        "seconds": record.seconds,
        "first_token": record.first_token,
        "documents": context.documents,
        "prompt_hash": _hash(json.dumps(messages, sort_keys=True).encode()),
    }
    if texts:
        told |= {"question": context.question, "messages": messages, "reply": record.reply}
    return told


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "text": message.text,
            "images": [_hash(image.data) for image in message.images],
            "tool_calls": [asdict(call) for call in message.tool_calls],
            "tool_call_id": message.tool_call_id,
        }
        for message in messages
    ]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
