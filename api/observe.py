"""What happens, counted for Prometheus: `GET /metrics`."""

from __future__ import annotations

import asyncio

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rag.engine import Engine
from rag.records import BudgetWarned, CacheAsked, Called, CircuitChanged, KeyRejected, Record

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_STATES = ("closed", "half_open", "open")


class Metrics:
    """Listens to one engine. Names begin with `rag_`; money is in US dollars."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = registry = CollectorRegistry()
        model = ["model"]
        self._calls = Counter(
            "rag_model_calls",
            "Calls to a model's server",
            [*model, "outcome", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "rag_model_seconds", "Whole calls", model, buckets=_SECONDS, registry=registry
        )
        self._first_token = Histogram(
            "rag_model_first_token_seconds",
            "Until the first token",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "rag_model_tokens", "Tokens paid for", [*model, "kind"], registry=registry
        )
        self._cost = Counter("rag_model_cost_dollars", "Money spent", model, registry=registry)
        self._keys = Counter("rag_model_keys_rejected", "Keys set aside", model, registry=registry)
        self._circuit = Gauge(
            "rag_circuit_state", "1 for the state it is in", [*model, "state"], registry=registry
        )
        self._opened = Counter(
            "rag_circuit_opened", "Times a circuit opened", model, registry=registry
        )
        self._rejections = Gauge(
            "rag_circuit_rejections", "Calls not made while open", model, registry=registry
        )
        self._cache = Counter(
            "rag_cache_asked", "Answers looked up: hit, joined, miss", ["result"], registry=registry
        )
        self._saved = Counter(
            "rag_cache_saved_dollars", "Money that replayed answers saved", registry=registry
        )
        self._budget = Gauge(
            "rag_budget_used_ratio", "Used share", ["budget", "period"], registry=registry
        )
        self._generation = Gauge(
            "rag_knowledge_base_generation", "Seen now", ["name"], registry=registry
        )
        engine.listen(self.listen)

    def listen(self, record: Record) -> None:
        match record:
            case Called():
                self._called(record)
            case CircuitChanged(model=model, state=state):
                if state == "open":
                    self._opened.labels(model).inc()
            case KeyRejected(model=model):
                self._keys.labels(model).inc()
            case CacheAsked(result=result, saved=saved):
                self._cache.labels(result).inc()
                self._saved.inc(saved)
            case BudgetWarned():
                pass  # the gauge is read from the ledger

    def _called(self, call: Called) -> None:
        self._calls.labels(call.model, call.outcome, call.code).inc()
        self._seconds.labels(call.model).observe(call.seconds)
        if call.first_token is not None:
            self._first_token.labels(call.model).observe(call.first_token)
        self._tokens.labels(call.model, "prompt").inc(call.usage.prompt_tokens)
        self._tokens.labels(call.model, "completion").inc(call.usage.completion_tokens)
        self._cost.labels(call.model).inc(call.usage.cost or 0.0)

    async def response(self) -> Response:
        """The metrics as Prometheus reads them."""
        for status in await self._engine.gateway.statuses():
            name = status.resolved.name
            self._rejections.labels(name).set(status.circuit.rejections)
            for state in _STATES:
                self._circuit.labels(name, state).set(state == status.circuit.state)
        text = await asyncio.to_thread(self._text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def _text(self) -> bytes:
        self._budget.clear()
        if self._engine.ledger.has_budgets:
            for use in self._engine.ledger.budgets_used():
                self._budget.labels(use.budget, use.period).set(use.share)
        for base in self._engine.bases.opened():
            self._generation.labels(base.name).set(base.store.generation)
        return generate_latest(self._registry)
