"""Callers are told apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import SecretStr

from rag.callers import ANONYMOUS, Callers
from rag.errors import CallerError, ConfigError

KEYS = {"ADA_KEY": "rk-ada-0123456789", "BOB_KEY": "rk-bob-0123456789"}


def callers(variables: Mapping[str, str]) -> Callers:
    def secret(variable: str) -> SecretStr | None:
        return SecretStr(KEYS[variable]) if variable in KEYS else None

    return Callers(variables, secret)


BOTH = {"ada": "ADA_KEY", "bob": "BOB_KEY"}


@pytest.mark.parametrize(("name", "variable"), BOTH.items())
def test_a_key_names_its_caller(name: str, variable: str) -> None:
    assert callers(BOTH).named(KEYS[variable]) == name


@pytest.mark.parametrize("variables", [BOTH, {}])
def test_who_sends_no_key_is_nobody_in_particular(variables: Mapping[str, str]) -> None:
    assert callers(variables).named(None) == ANONYMOUS == ""


@pytest.mark.parametrize("variables", [BOTH, {}])
@pytest.mark.parametrize(
    "key", ["", "rk", "rk-ada-0123456789 ", "RK-ADA-0123456789", "密钥", "x" * 100_000]
)
def test_a_wrong_key_is_turned_away_and_not_told(variables: Mapping[str, str], key: str) -> None:
    with pytest.raises(CallerError) as caught:
        callers(variables).named(key)
    assert caught.value.code == "caller"
    for secret in (*KEYS.values(), key.strip() or "nothing"):
        assert secret not in str(caught.value)


def test_a_caller_without_a_key_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="The caller 'eve' has no key") as caught:
        callers(BOTH | {"eve": "EVE_KEY"})
    assert "EVE_KEY" in caught.value.hint
