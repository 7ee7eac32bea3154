"""Nobody asks a model that has failed too often, until a few calls have shown that it is back.

Own code: pybreaker knows neither a window of failures nor a bound on probes nor asyncio (only
Tornado), purgatory none of window, bound and successes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeVar

from rag.chat.wrapper import Wrapper
from rag.errors import (
    CircuitOpenError,
    ModelAuthError,
    ModelBusyError,
    ModelFormatError,
    ModelRequestError,
    ModelStreamError,
    ModelUnavailableError,
)
from rag.records import CircuitChanged, CircuitState, Listener, Record
from rag.types import ChatModel, ChatRequest, ModelEvent, SharedState

T = TypeVar("T")
Outcome = Literal["answered", "failed", "left"]

_A_DAY = 86_400.0  # longer than anything is waited for: forgetting an open circuit closes it
_FAILURES = (
    ModelUnavailableError,
    ModelBusyError,
    ModelStreamError,
    ModelFormatError,
    ModelAuthError,
)


# --- the state machine ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Opens after `failures` within `window` seconds; after `open_seconds` up to `probes` calls at
    once are let through, and `successes` of them close it. A probe that has not ended after
    `open_seconds` counts as gone, with the process that made it."""

    failures: int
    window: float
    open_seconds: float
    probes: int
    successes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What all processes know. Times are in seconds since 1970.

    `failures` are those within the window, or those that opened it; `probes` are the calls under
    way while it is half open, by id, with the time at which they count as gone.
    """

    state: CircuitState = "closed"
    failures: tuple[float, ...] = ()
    opened_at: float = 0.0
    probes: dict[str, float] = field(default_factory=dict)
    successes: int = 0


def at(circuit: Circuit, now: float, rules: Rules) -> Circuit:
    """What time alone has made of it."""
    if circuit.state == "closed":
        recent = tuple(t for t in circuit.failures if now - t < rules.window)
        return replace(circuit, failures=recent)
    if circuit.state == "open" and now - circuit.opened_at >= rules.open_seconds:
        return replace(circuit, state="half_open", probes={}, successes=0)
    return replace(circuit, probes={k: t for k, t in circuit.probes.items() if now < t})


def asked(circuit: Circuit, call: str, now: float, rules: Rules) -> tuple[Circuit, bool]:
    """With a call under way, and True; or False, if it may not be made."""
    circuit = at(circuit, now, rules)
    if circuit.state == "closed":
        return circuit, True
    if circuit.state == "open" or len(circuit.probes) >= rules.probes:
        return circuit, False
    probes = circuit.probes | {call: now + rules.open_seconds}
    return replace(circuit, probes=probes), True


def ended(
    circuit: Circuit, call: str, outcome: Outcome, now: float, rules: Rules, *, probing: bool
) -> Circuit:
    """After a call. While it is not closed only the probes count, not calls from before; a probe
    whose place was given to another meanwhile has shown as much as any."""
    circuit = at(circuit, now, rules)
    if circuit.state == "closed":
        if outcome != "failed":
            return circuit
        failures = (*circuit.failures, now)
        if len(failures) < rules.failures:
            return replace(circuit, failures=failures)
        return Circuit(state="open", failures=failures, opened_at=now)
    if circuit.state == "open" or not probing:
        return circuit
    if outcome == "failed":
        return Circuit(state="open", failures=(now,), opened_at=now)
    probes = {k: t for k, t in circuit.probes.items() if k != call}
    successes = circuit.successes + (outcome == "answered")
    if successes >= rules.successes:
        return Circuit()
    return replace(circuit, probes=probes, successes=successes)


def _dump(circuit: Circuit) -> bytes | None:
    """None for one of which there is nothing to know."""
    return None if circuit == Circuit() else json.dumps(asdict(circuit)).encode()


def _load(value: bytes | None) -> Circuit:
    if value is None:
        return Circuit()
    try:
        known = json.loads(value)
        return Circuit(**known | {"failures": tuple(known["failures"])})
    except (ValueError, TypeError, LookupError):  # of another version of this program
        return Circuit()


# --- the model --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitStatus:
    """A circuit as all processes see it, and what this process has counted since it began.

    `recent_failures` lie within the window, or have opened it; `opened_at` is in seconds since
    1970, None if closed; `probing_in` is in seconds, None unless open. `rejections` are calls
    that were not made, and not among `calls`.
    """

    model: str
    state: CircuitState
    recent_failures: int
    opened_at: float | None
    probing_in: float | None
    calls: int
    failures: int
    rejections: int


def _ignored(_record: Record) -> None:
    """Nobody listens."""


class CircuitBreaker(Wrapper):
    """Raises CircuitOpenError at once while the model is not to be asked; see `Rules`.

    Failures: no connection, time-outs, 5xx, 429, 401, 403, broken streams and foreign formats,
    in mid-stream too; a refused request (400, too long) shows that the server lives, and a call
    that was cancelled shows nothing. `clock` gives seconds since 1970. `listener` is told when
    this process sees another state than before.
    """

    def __init__(
        self,
        model: ChatModel,
        state: SharedState,
        *,
        failures: int,
        window: float,
        open_seconds: float,
        probes: int,
        successes: int,
        clock: Callable[[], float] = time.time,
        listener: Listener = _ignored,
    ) -> None:
        super().__init__(model)
        self._shared = state
        self._rules = Rules(
            failures=failures,
            window=window,
            open_seconds=open_seconds,
            probes=probes,
            successes=successes,
        )
        self._clock = clock
        self._listener = listener
        self._seen: CircuitState = "closed"
        self._calls = self._failures = self._rejections = 0
        self._writing: set[asyncio.Task[Circuit]] = set()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ModelEvent]:
        call = secrets.token_hex(8)
        probing = await self._admit(call)
        outcome: Outcome = "left"
        try:
            async with aclosing(self._model.chat(request)) as events:
                async for event in events:
                    yield event
            outcome = "answered"
        except ModelRequestError:
            outcome = "answered"
            raise
        except _FAILURES:
            outcome = "failed"
            self._failures += 1
            raise
        finally:
            await self._end(call, outcome, probing)

    async def status(self) -> CircuitStatus:
        circuit = await self._change(lambda circuit, now: at(circuit, now, self._rules))
        is_open, closed = circuit.state == "open", circuit.state == "closed"
        return CircuitStatus(
            model=self.name,
            state=circuit.state,
            recent_failures=len(circuit.failures),
            opened_at=None if closed else circuit.opened_at,
            probing_in=self._until_probing(circuit) if is_open else None,
            calls=self._calls,
            failures=self._failures,
            rejections=self._rejections,
        )

    async def _admit(self, call: str) -> bool:
        """Whether the call is a probe. Raises CircuitOpenError."""
        admitted = True

        def ask(circuit: Circuit, now: float) -> Circuit:
            nonlocal admitted
            circuit, admitted = asked(circuit, call, now, self._rules)
            return circuit

        circuit = await self._change(ask)
        if admitted:
            self._calls += 1
            return call in circuit.probes
        self._rejections += 1
        if circuit.state == "open":
            wait = self._until_probing(circuit)
            raise CircuitOpenError(
                f"{self.name} has failed too often and is not asked for another {wait:.0f} s.",
                "Ask another model, or again later.",
                retry_after=wait,
            )
        raise CircuitOpenError(
            f"{self.name} has failed too often and is just being tried again.",
            "Ask another model, or again in a moment.",
        )

    async def _end(self, call: str, outcome: Outcome, probing: bool) -> None:
        """To its end, even if the caller is cancelled now: a probe's place would stay taken."""
        if outcome != "failed" and not probing:
            return  # nothing to write down

        def end(circuit: Circuit, now: float) -> Circuit:
            return ended(circuit, call, outcome, now, self._rules, probing=probing)

        writing = asyncio.ensure_future(self._change(end))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.shield(writing)

    async def _change(self, step: Callable[[Circuit, float], Circuit]) -> Circuit:
        def change(value: bytes | None) -> tuple[bytes | None, Circuit]:
            old = _load(value)
            new = step(old, self._clock())
            return (value if new == old else _dump(new)), new

        circuit = await self._shared.change(f"breaker:{self.name}", change, keep=self._keep)
        if circuit.state != self._seen:
            self._seen = circuit.state
            self._listener(CircuitChanged(model=self.name, state=circuit.state))
        return circuit

    @property
    def _keep(self) -> float:
        return _A_DAY + self._rules.window + self._rules.open_seconds

    def _until_probing(self, circuit: Circuit) -> float:
        return max(0.0, circuit.opened_at + self._rules.open_seconds - self._clock())
