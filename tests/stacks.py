"""Engines whose chat models are scripted servers on loopback, and all that they told.

@pytest.fixture
def stacks(tmp_path, monkeypatch, caplog): yield from stacks_in(tmp_path, monkeypatch, caplog)

stack, server = stacks.alone()
server.next(status(500))
assert stack.answer().text == ...
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rag.config import Settings
from rag.engine import Engine
from rag.ledger import CostRow, CostsBy
from rag.records import CacheAsked, Called, CircuitChanged, Record
from rag.specs import ModelSpec
from rag.types import Answer, AnswerEvent, Finished
from tests.chat_fakes import FakeClock
from tests.scripted_model import ScriptedModel
from tests.served import fake_engine, sample_folder

QUESTION = "How many days of annual leave after ten years of service?"
KEYS = ("sk-first-0123456789", "sk-second-987654321")
PRICE = {"price_in": 1000.0, "price_out": 2000.0}  # dollars per million: a whole cent is visible
COST = 120 * 0.001 + 7 * 0.002  # of the tokens every scripted answer reports
QUICK: dict[str, Any] = {
    "threshold": 0.0,
    "ocr": False,
    "retry_base": 0.001,
    "retry_max": 0.002,
}


@dataclass
class Stack:
    """An engine over the sample files, its scripted model, and all it told."""

    engine: Engine
    root: Path
    records: list[Record] = field(default_factory=list)
    told: list[AnswerEvent] = field(default_factory=list)

    def ask(self, question: str = QUESTION, **options: Any) -> list[AnswerEvent]:
        return asyncio.run(self.asked(question, **options))

    async def asked(self, question: str = QUESTION, **options: Any) -> list[AnswerEvent]:
        found = [event async for event in self.engine.ask(question, **options)]
        self.told += found
        return found

    def answer(self, question: str = QUESTION, **options: Any) -> Answer:
        last = self.ask(question, **options)[-1]
        assert isinstance(last, Finished), last
        return last.answer

    def calls(self) -> list[Called]:
        return [record for record in self.records if isinstance(record, Called)]

    def cached(self) -> list[str]:
        return [record.result for record in self.records if isinstance(record, CacheAsked)]

    def circuits(self) -> list[tuple[str, str]]:
        changed = [record for record in self.records if isinstance(record, CircuitChanged)]
        return [(record.model, record.state) for record in changed]

    def recent_failures(self, model: str) -> int:
        status = asyncio.run(self.engine.gateway.opened(model).breaker.status())
        return status.recent_failures

    def spent(self) -> float:
        return sum(row.cost for row in self.engine.ledger.costs("model"))

    def booked(self, by: CostsBy) -> list[CostRow]:
        """What another process reads in the ledger. Ends the engine."""
        self.engine.close()
        with closing(fake_engine(self.engine.settings)) as other:
            return other.ledger.costs(by)

    def clock(self, model: str) -> FakeClock:
        """That of the model's circuit breaker, from now on."""
        breaker: Any = self.engine.gateway.opened(model).breaker
        breaker._clock = FakeClock()
        return breaker._clock

    def audited(self) -> list[dict[str, Any]]:
        """What the audit wrote of calls. Ends the engine."""
        self.engine.close()
        files = sorted((self.root / "indexes" / "audit").glob("*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if line["kind"] == "called"]


@dataclass
class Stacks:
    """Makes them; servers and engines end with the test."""

    root: Path
    closing: ExitStack
    made: list[Stack] = field(default_factory=list)

    def server(self) -> ScriptedModel:
        return self.closing.enter_context(ScriptedModel())

    def stack(self, *models: ModelSpec, **changed: Any) -> Stack:
        settings = Settings(
            indexes=self.root / "indexes",
            cache_dir=self.root / "cache",
            models=models,
            **QUICK | changed,
        )
        made = Stack(fake_engine(settings), self.root)
        made.engine.listen(made.records.append)
        made.engine.ingest([sample_folder(self.root / "documents")], tags=["hr"])
        self.closing.callback(made.engine.close)
        self.made.append(made)
        return made

    def alone(self, **changed: Any) -> tuple[Stack, ScriptedModel]:
        """One model, "first", with a key and a price."""
        server = self.server()
        return self.stack(spec("first", server), **changed), server


def spec(name: str, server: ScriptedModel, **more: Any) -> ModelSpec:
    given = {"name": name, "base_url": server.url, "key_env": "TEST_KEY"}
    return ModelSpec(**given | PRICE | more)


def stacks_in(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Stacks]:
    """Whatever a test does, no key is told: in no event, log, error, audit or other file."""
    monkeypatch.setenv("TEST_KEY", KEYS[0])
    caplog.set_level(logging.DEBUG, "rag")
    with ExitStack() as closing:
        stacks = Stacks(root, closing)
        yield stacks
    written = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    shown = repr([(stack.told, stack.records) for stack in stacks.made]) + caplog.text
    for key in KEYS:
        assert key not in shown
        assert not any(key.encode() in data for data in written)


def named(found: Sequence[AnswerEvent]) -> list[str]:
    """The kinds of the events, each once in a row."""
    kinds = [type(event).__name__ for event in found]
    return [kind for n, kind in enumerate(kinds) if not n or kinds[n - 1] != kind]


def of(kind: type[Any], found: Sequence[AnswerEvent]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]
