"""What a model's tokens cost: the operator's own prices, else those that genai-prices carries.

Money is counted in whole nano-dollars (1 US dollar = 10**9 of them), because sums of floats drift:
$0.05 per million tokens are 50 nano-dollars per token. A fraction of one is rounded up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from rag.errors import ConfigError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

NANO = 1_000_000_000
_PER_TOKEN = NANO // 1_000_000  # a dollar per million tokens, in nano-dollars per token


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model: own figures in US dollars per million tokens, where they are None
    those of the list."""

    _own_in: Decimal | None
    _own_out: Decimal | None
    _listed: _Listed | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int, *, at: float | None = None) -> int:
        """Nano-dollars of a call that began `at` (seconds since 1970; None: now). Some prices
        change with the hour, and some with the length of the prompt."""
        prompt = completion = more = Decimal(0)
        if self._listed is not None:
            prompt, completion, more = self._listed.dollars(prompt_tokens, completion_tokens, at)
        nano = (prompt + completion + more) * NANO
        if self._own_in is not None:
            nano += self._own_in * _PER_TOKEN * prompt_tokens - prompt * NANO
        if self._own_out is not None:
            nano += self._own_out * _PER_TOKEN * completion_tokens - completion * NANO
        return int(nano.to_integral_value(ROUND_CEILING))

    def worst(self, prompt_tokens: int, completion_tokens: int, *, at: float | None = None) -> int:
        """The most that a call of up to so many tokens can cost, in nano-dollars."""
        lengths = {prompt_tokens}
        if self._listed is not None:
            lengths |= {n for n in self._listed.thresholds(at) if n < prompt_tokens}
        return max(self.cost(length, completion_tokens, at=at) for length in lengths)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model of genai-prices."""

    provider: Provider
    model: ModelInfo

    def dollars(
        self, prompt_tokens: int, completion_tokens: int, at: float | None
    ) -> tuple[Decimal, Decimal, Decimal]:
        """Of the prompt, of the reply, and of the call itself: all that the list's own
        `calc_price` finds to charge for a text, a hundred times faster."""
        from genai_prices.types import calc_unit_price

        prices = self.model.get_prices(_moment(at))
        return (
            calc_unit_price(prices.input_mtok, prompt_tokens, prompt_tokens, 1_000_000),
            calc_unit_price(prices.output_mtok, completion_tokens, prompt_tokens, 1_000_000),
            calc_unit_price(prices.requests_kcount, 1, prompt_tokens, 1_000),
        )

    def thresholds(self, at: float | None) -> Iterator[int]:
        """The longest prompts of each tier but the last."""
        from genai_prices.types import TieredPrices

        for price in vars(self.model.get_prices(_moment(at))).values():
            if isinstance(price, TieredPrices):
                yield from (tier.start for tier in price.tiers)


class Prices:
    """Looks prices up; what genai-prices knows is part of the package, and nothing is fetched."""

    def price(
        self,
        price_in: float | None,
        price_out: float | None,
        *,
        model_id: str,
        provider: str | None,
        local: bool,
    ) -> Price | None:
        """None if it is not known what the model costs.

        `price_in` and `price_out` are the operator's, in US dollars per million tokens, and win.
        `model_id` is the server's name for the model, `provider` its maker's id in genai-prices
        (None: told from the model's name); a `local` model costs nothing. Raises ConfigError if
        only one price is given and the other is not known.
        """
        own_in, own_out = _exact(price_in), _exact(price_out)
        if own_in is not None and own_out is not None:
            return Price(own_in, own_out)
        if local:
            return Price(own_in or Decimal(0), own_out or Decimal(0))
        listed = _find(model_id, provider)
        if listed is not None:
            return Price(own_in, own_out, listed)
        if own_in is None and own_out is None:
            return None
        given, missing = ("price_in", "price_out") if own_out is None else ("price_out", "price_in")
        raise ConfigError(
            f"The model {model_id} has a {given} and no {missing}, and no list knows its price.",
            f"Set {missing} beside it in rag.toml, in US dollars per million tokens.",
        )


def _find(model_id: str, provider: str | None) -> _Listed | None:
    """None too where prompts or replies have no price per token: the list is then silent about
    what a chat costs, which is not the same as free."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        maker, model = get_snapshot().find_provider_model(model_id, None, provider, None)
    except LookupError:
        return None
    prices = model.get_prices(datetime.now(UTC))
    known = prices.input_mtok is not None and prices.output_mtok is not None
    return _Listed(maker, model) if known else None


def _exact(dollars: float | None) -> Decimal | None:
    return None if dollars is None else Decimal(str(dollars))


def _moment(at: float | None) -> datetime:
    return datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
