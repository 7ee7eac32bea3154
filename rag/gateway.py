"""The chat models there are, what each is wrapped in, and which are asked for a question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from rag.catalog import READY, Resolved, Row, offered, ready, resolve
from rag.chat.breaker import CircuitBreaker, CircuitStatus
from rag.chat.check import CheckResult, check_all, not_opened
from rag.chat.client import OpenAIChat
from rag.chat.fallback import Fallback
from rag.chat.keys import KeyRing
from rag.chat.retry import Retrying
from rag.chat.routing import Candidate, Features, Latencies, order
from rag.chat.spend import Metered
from rag.chat.text_tools import TextTools
from rag.chat.translate import Origin
from rag.config import Settings, secret
from rag.errors import ConfigError, InputError
from rag.ledger import Ledger
from rag.prices import NANO, Price, Prices
from rag.records import Listener, Record
from rag.specs import ModelSpec
from rag.types import EXTRACTIVE, ChatModel, SharedState

_SOONER = 0.9


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to be asked. `breaker` tells how it stands."""

    resolved: Resolved
    price: Price | None
    breaker: CircuitBreaker
    keys: KeyRing
    model: ChatModel


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a model stands, for people and metrics."""

    resolved: Resolved
    circuit: CircuitStatus
    rejected_keys: tuple[str, ...]
    latency: float | None  # seconds to the first token, a moving average


class Gateway:
    """Every way to a model. Safe to use from several threads; each model is opened once."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        state: SharedState,
        listener: Listener,
        find_secret: Callable[[str], SecretStr | None] = secret,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._tell = listener
        self._secret = find_secret
        self._prices = Prices()
        self._latencies = Latencies()
        self._specs = {spec.name: spec for spec in offered(settings, find_secret)}
        # Only these are asked unnamed: a key in the environment is no order to use it.
        configured = {settings.model, *(spec.name for spec in settings.models)}
        self.configured = [name for name in self._specs if name in configured]
        self._opened: dict[str, Opened] = {}
        self._opening = threading.Lock()

    def names(self) -> list[str]:
        """Those that may be asked for, the configured one first."""
        return list(self._specs)

    @property
    def has_several(self) -> bool:
        """More than one model is asked unnamed."""
        return len(self.configured) > 1

    def opened(self, name: str) -> Opened:
        """Raises InputError for a name that is not offered, ConfigError where there is no way."""
        if name not in self._specs:
            if name in READY:  # where all it lacks is a key, that is what to say
                resolve(ModelSpec(name=name), self._settings, self._secret)
            raise InputError(
                f"There is no model {name!r} here.",
                f"Offered: {', '.join([*self._specs, EXTRACTIVE])}. Add names with RAG_MODELS.",
            )
        with self._opening:
            if name not in self._opened:
                resolved = resolve(self._specs[name], self._settings, self._secret)
                self._opened[name] = self._wrapped(resolved)
            return self._opened[name]

    def _wrapped(self, resolved: Resolved) -> Opened:
        """The order of things, from the wire outwards. A try that is repeated is paid for and
        counted by the breaker each time; a rejected key costs nothing and is no failure."""
        settings = self._settings
        price = self._prices.price(
            resolved.price_in,
            resolved.price_out,
            model_id=resolved.id,
            provider=resolved.provider,
            local=resolved.local,
        )
        if price is None and settings.budgets:
            raise ConfigError(
                f"The price of {resolved.name} is not known, so no budget could hold it.",
                "Set price_in and price_out of the model in rag.toml.",
            )
        # A silent server is to be found out by the client, as a failure, before our own deadline
        # cancels the try, which would be nobody's fault.
        seconds = min(resolved.timeout, _SOONER * settings.retry_deadline)
        clients = [_client(resolved, key, seconds) for key in _keys(resolved)]
        keys = KeyRing(clients, labels=resolved.key_labels or ("no key",), listener=self._told)
        metered = Metered(keys, price, self._ledger, self._told)
        breaker = CircuitBreaker(
            metered,
            self._state,
            failures=settings.breaker_failures,
            window=settings.breaker_window,
            open_seconds=settings.breaker_open,
            probes=settings.breaker_probes,
            successes=settings.breaker_successes,
            listener=self._told,
        )
        model: ChatModel = Retrying(
            breaker,
            attempts=settings.retry_attempts,
            base=settings.retry_base,
            maximum=settings.retry_max,
            deadline=settings.retry_deadline,
        )
        if not resolved.abilities.tools:
            model = TextTools(model)
        return Opened(resolved, price, breaker, keys, model)

    def _told(self, record: Record) -> None:
        self._latencies.observe(record)
        self._tell(record)

    def forced(self, name: str) -> ChatModel:
        """This one and no other. Raises like `opened`."""
        return self.opened(name).model

    def route(self, features: Features) -> ChatModel | None:
        """Those that are able, in the order of the rules; None if there is none.

        Raises ConfigError if there is no way to any configured model.
        """
        candidates, error = [], None
        for name in self.configured:
            try:
                candidates.append(self._candidate(name))
            except ConfigError as missing:
                error = error or missing
        if error is not None and not candidates:
            raise error
        chosen = order(candidates, features, self._settings.rules, self._settings.route_by)
        models = [self.opened(candidate.name).model for candidate in chosen]
        return models[0] if len(models) == 1 else Fallback(models) if models else None

    def _candidate(self, name: str) -> Candidate:
        opened = self.opened(name)
        return Candidate(
            name=name,
            tags=opened.resolved.tags,
            priority=opened.resolved.priority,
            abilities=opened.resolved.abilities,
            price=_blended(opened.price),
            latency=self._latencies.of(name),
        )

    async def statuses(self) -> list[ModelStatus]:
        """Of every model offered that there is a way to."""
        found = []
        for name in self._specs:
            try:
                opened = self.opened(name)
            except ConfigError:
                continue
            rejected = tuple(label for label, aside in opened.keys.statuses() if aside)
            circuit = await opened.breaker.status()
            latency = self._latencies.of(name)
            found.append(ModelStatus(opened.resolved, circuit, rejected, latency))
        return found

    async def check(self, names: Sequence[str] | None = None) -> list[CheckResult]:
        """One small call to each, past breaker and retries, because it is the truth that is asked
        for; none named: to each that is offered. What is wrong with one is in its result."""
        models: list[ChatModel] = []
        unopened: list[CheckResult] = []
        for name in names or self._specs:
            try:
                models.append(self.opened(name).keys)
            except (ConfigError, InputError) as error:
                unopened.append(not_opened(name, error))
        return [*await check_all(models), *unopened]

    def listed(self) -> list[Row]:
        """Every model that is known, and what it needs."""
        return ready(self._settings, self._secret)

    async def aclose(self) -> None:
        for opened in self._opened.values():
            await opened.model.aclose()


def _keys(resolved: Resolved) -> list[str]:
    """A server that wants no key is given a word that is none."""
    return [key.get_secret_value() for key in resolved.keys] or ["none"]


def _blended(price: Price | None) -> float | None:
    """US dollars of a thousand tokens in and as many out, to rank by."""
    return None if price is None else price.cost(1000, 1000) / NANO


def _origin(resolved: Resolved) -> Origin:
    return Origin(key=resolved.key_env[0]) if resolved.key_env else Origin()


def _client(resolved: Resolved, key: str, seconds: float) -> OpenAIChat:
    return OpenAIChat(
        resolved.name,
        model_id=resolved.id,
        api_key=key,
        base_url=resolved.base_url,
        abilities=resolved.abilities,
        timeout=seconds,
        extra=resolved.extra,
        origin=_origin(resolved),
    )
