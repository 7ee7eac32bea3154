"""In which order the models are asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rag.records import Called, Record
from rag.specs import Rule
from rag.types import Abilities

By = Literal["priority", "price", "latency"]

_SEARCHED = 8_000  # characters of the question that a rule's pattern sees: a bound on its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that could be asked.

    `price` is in US dollars per million tokens, in and out blended; `latency` in seconds. None is
    unknown.
    """

    name: str
    abilities: Abilities
    tags: tuple[str, ...] = ()
    priority: int = 0  # lower is asked first
    price: float | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What is known of a question before a model is asked. `prompt_tokens` is an estimate, `tags`
    are those that its documents have to have."""

    question: str
    preset: str = ""
    knowledge_base: str = ""
    caller: str = ""
    tags: tuple[str, ...] = ()
    needs_vision: bool = False
    needs_tools: bool = False
    prompt_tokens: int = 0


def order(
    candidates: Sequence[Candidate],
    features: Features,
    rules: Sequence[Rule] = (),
    by: By = "priority",
) -> list[Candidate]:
    """The candidates that are able to answer, the first to be asked first.

    The first rule all of whose conditions hold decides: the models it names come first, in its
    order (those of one tag as below), and the others behind them. The others, or all without such
    a rule, come `by` priority, price or latency; ties by priority, then as they were given. An
    unknown price comes last; an unknown latency first, so that it becomes known. Models whose
    context is too small for the prompt come behind the others, and, where tools are needed, those
    without tools of their own too. A model without vision is left out only where vision is needed;
    the list may be empty.
    """
    able = [c for c in candidates if c.abilities.vision or not features.needs_vision]
    ranked = sorted(able, key=_rank(features, by))  # stable: ties stay as they were given
    rule = next((rule for rule in rules if _holds(rule, features)), None)
    if rule is None:
        return ranked
    chosen = list(dict.fromkeys(_chosen(rule, ranked)))
    return chosen + [c for c in ranked if c not in chosen]


def _rank(features: Features, by: By) -> Callable[[Candidate], tuple[bool, bool, float, int]]:
    def rank(candidate: Candidate) -> tuple[bool, bool, float, int]:
        abilities = candidate.abilities
        return (
            abilities.context_window < features.prompt_tokens,
            features.needs_tools and not abilities.tools,
            _cost(candidate, by),
            candidate.priority,
        )

    return rank


def _cost(candidate: Candidate, by: By) -> float:
    if by == "price":
        return float("inf") if candidate.price is None else candidate.price
    if by == "latency":
        return 0.0 if candidate.latency is None else candidate.latency
    return float(candidate.priority)


def _chosen(rule: Rule, ranked: Sequence[Candidate]) -> Iterator[Candidate]:
    for wanted in rule.use:
        yield from (c for c in ranked if c.name == wanted)
        yield from (c for c in ranked if wanted in c.tags)


def _holds(rule: Rule, features: Features) -> bool:
    question = features.question
    wanted = (
        (rule.vision, features.needs_vision),
        (rule.tools, features.needs_tools),
        (rule.preset, features.preset),
        (rule.knowledge_base, features.knowledge_base),
        (rule.caller, features.caller),
    )
    return (
        all(asked is None or asked == there for asked, there in wanted)
        and (rule.longer_than is None or len(question) > rule.longer_than)
        and (rule.shorter_than is None or len(question) < rule.shorter_than)
        and (rule.tag is None or rule.tag in features.tags)
        and (rule.pattern is None or bool(re.search(rule.pattern, question[:_SEARCHED])))
    )


class Latencies:
    """How long each model takes to its first token, in seconds, as a moving average.

    `weight` is that of the newest measurement, 0..1. Safe to use from several threads; `observe`
    is a `Listener`.
    """

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def observe(self, record: Record) -> None:
        """A call that ended without a token counts only if it took longer than is usual: a server
        that refuses at once is not fast."""
        if not isinstance(record, Called):
            return
        with self._lock:
            usual = self._seconds.get(record.model)
            if record.first_token is not None:
                taken = record.first_token
            elif record.outcome == "ok" or (usual is not None and record.seconds > usual):
                taken = record.seconds
            else:
                return
            known = taken if usual is None else usual + self._weight * (taken - usual)
            self._seconds[record.model] = known

    def of(self, model: str) -> float | None:
        """None until something was measured."""
        with self._lock:
            return self._seconds.get(model)
