"""What happened, told to whoever listens: the ledger, the audit, the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from rag.types import ChatRequest, Usage

Outcome = Literal["ok", "failed", "cancelled"]
CircuitState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """One request to a model's server has ended.

    `at` is when it began, in seconds since 1970; `seconds` and `first_token` count from there.
    `code` is the error's, empty unless `failed`. `reply` is the text as far as it came.
    """

    at: float
    model: str
    outcome: Outcome
    code: str
    usage: Usage
    seconds: float
    first_token: float | None
    request: ChatRequest = field(repr=False)
    reply: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChanged:
    model: str
    state: CircuitState


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRejected:
    """`key` names the key without showing it: "key 2 of 3 in OPENAI_API_KEY"."""

    model: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetWarned:
    """A budget is used to `share` (0.8 and more) of its `limit` in US dollars."""

    budget: str
    period: str
    share: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAsked:
    """An answer was looked up. `saved` is what it cost the first time, in US dollars."""

    result: Literal["hit", "joined", "miss", "bypassed"]
    saved: float = 0.0


Record = Called | CircuitChanged | KeyRejected | BudgetWarned | CacheAsked
Listener = Callable[[Record], None]
"""Must not raise and must not wait: it is called between two tokens of an answer."""
