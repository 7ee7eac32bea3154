"""Prices are exact, know their tiers and hours, and come without the network."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.prices import NANO, Price, Prices, _Listed

TOKENS = st.integers(0, 2_000_000)
DOLLARS = st.decimals(0, 1000, places=4)


def listed(*tiers: Tier, base: str = "1") -> Price:
    prices = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(base), tiers=list(tiers)), output_mtok=Decimal(10)
    )
    return priced(ModelInfo(id="m", match=ClauseEquals("m"), prices=prices))


def priced(model: ModelInfo) -> Price:
    return Price(None, None, _Listed(Provider(id="p", name="P", api_pattern=""), model))


def known(model_id: str, provider: str | None = None) -> Price:
    price = Prices().price(None, None, model_id=model_id, provider=provider, local=False)
    assert price is not None
    return price


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_five_cents_a_million_are_fifty_nano_dollars_a_token() -> None:
    price = Prices().price(0.05, 0.4, model_id="mine", provider=None, local=False)
    assert price is not None
    assert (price.cost(1, 0), price.cost(0, 1), price.cost(1000, 100)) == (50, 400, 90_000)


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once() -> None:
    price = Price(Decimal("0.0001"), Decimal("0.0001"))
    assert (price.cost(0, 0), price.cost(1, 0), price.cost(1, 1), price.cost(10, 1)) == (0, 1, 1, 2)


@given(DOLLARS, DOLLARS, TOKENS, TOKENS)
def test_own_prices_are_exact(own_in: Decimal, own_out: Decimal, prompt: int, reply: int) -> None:
    exact = (Fraction(own_in) * prompt + Fraction(own_out) * reply) * NANO / 1_000_000
    assert Price(own_in, own_out).cost(prompt, reply) == ceil(exact)


def test_what_a_package_lists_is_found_without_the_network(no_network: None) -> None:
    gpt = known("gpt-4o-mini", "openai")
    assert gpt.cost(1_000_000, 0) == 150_000_000
    assert gpt.cost(0, 1_000_000) == 600_000_000
    assert known("gpt-4o-mini").cost(1000, 100) == gpt.cost(1000, 100)
    assert known("deepseek-chat", "deepseek").cost(1000, 100) > 0


def test_the_operators_prices_win_one_by_one() -> None:
    def both(price_in: float | None, price_out: float | None) -> int:
        price = Prices().price(
            price_in, price_out, model_id="gpt-4o-mini", provider="openai", local=False
        )
        assert price is not None
        return price.cost(1_000_000, 1_000_000)

    assert both(1, 2) == 3 * NANO
    assert both(1, None) == NANO + 600_000_000
    assert both(None, 2) == 150_000_000 + 2 * NANO


@pytest.mark.parametrize(
    ("model_id", "provider"),
    [("no-such-model", None), ("no-such-model", "openai"), ("gpt-4o-mini", "no-such-provider")],
)
def test_what_nobody_lists_is_unknown_and_not_free(model_id: str, provider: str | None) -> None:
    assert Prices().price(None, None, model_id=model_id, provider=provider, local=False) is None


def test_a_model_that_is_listed_without_a_price_per_token_is_unknown() -> None:
    silent = next(
        (provider.id, model.id)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, ModelPrice) and not vars(model.prices)
    )
    assert Prices().price(None, None, model_id=silent[1], provider=silent[0], local=False) is None


def test_half_a_price_with_nothing_to_complete_it_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="price_in and no price_out"):
        Prices().price(1, None, model_id="mine", provider=None, local=False)
    with pytest.raises(ConfigError, match="price_out and no price_in"):
        Prices().price(None, 1, model_id="mine", provider=None, local=False)


def test_a_local_model_costs_nothing_unless_the_operator_says_so() -> None:
    local = Prices().price(None, None, model_id="gpt-4o-mini", provider=None, local=True)
    assert local is not None
    assert local.worst(10_000, 10_000) == 0
    priced_out = Prices().price(None, 1, model_id="qwen", provider=None, local=True)
    assert priced_out is not None
    assert priced_out.cost(1000, 1) == 1000


def test_a_prompt_past_a_threshold_is_dearer_as_a_whole() -> None:
    price = listed(Tier(1000, Decimal(2)))
    assert price.cost(1000, 0) == 1_000_000
    assert price.cost(1001, 0) == 2_002_000


def test_the_worst_case_sees_a_shorter_prompt_that_is_dearer() -> None:
    cheaper_in_bulk = listed(Tier(1000, Decimal("0.5")))
    assert cheaper_in_bulk.cost(1001, 0) == 500_500
    assert cheaper_in_bulk.worst(1001, 0) == cheaper_in_bulk.cost(1000, 0) == 1_000_000


@given(
    st.lists(st.tuples(st.integers(1, 5000), DOLLARS), max_size=3),
    DOLLARS,
    *(st.integers(0, 6000) for _ in range(4)),
)
def test_nothing_smaller_costs_more_than_the_worst_case(
    tiers: list[tuple[int, Decimal]], base: Decimal, a: int, b: int, c: int, d: int
) -> None:
    price = listed(*(Tier(start, dollars) for start, dollars in tiers), base=str(base))
    worst = price.worst(max(a, b), max(c, d))
    assert price.cost(min(a, b), min(c, d)) <= worst
    assert price.cost(max(a, b), max(c, d)) <= worst


def test_a_price_that_changes_with_the_hour_is_that_of_the_calls_beginning() -> None:
    night = TimeOfDateConstraint(time(16, tzinfo=UTC), time(20, tzinfo=UTC))
    day = ModelPrice(input_mtok=Decimal(4), output_mtok=Decimal(4))
    cheap = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))
    hours = [ConditionalPrice(prices=day), ConditionalPrice(night, prices=cheap)]
    price = priced(ModelInfo(id="m", match=ClauseEquals("m"), prices=hours))

    def at(hour: int) -> float:
        return datetime(2026, 5, 1, hour, tzinfo=UTC).timestamp()

    assert price.cost(1000, 0, at=at(12)) == price.worst(1000, 0, at=at(12)) == 4_000_000
    assert price.cost(1000, 0, at=at(18)) == price.worst(1000, 0, at=at(18)) == 1_000_000


@pytest.mark.parametrize("tokens", [(1000, 100), (300_000, 5_000)])
def test_every_model_of_the_list_costs_what_the_list_reckons(tokens: tuple[int, int]) -> None:
    usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1])
    for provider in get_snapshot().providers:
        for model in provider.models:
            listed = Prices().price(
                None, None, model_id=model.id, provider=provider.id, local=False
            )
            if listed is not None:
                reckoned = calc_price(usage, model.id, provider_id=provider.id).total_price
                assert listed.cost(*tokens) == ceil(Fraction(reckoned) * NANO), model.id
