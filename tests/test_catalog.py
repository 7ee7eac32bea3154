"""Which server a name goes to, with which key, and what the model there can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from rag.catalog import PROFILES, READY, Resolved, offered, ready, resolve
from rag.config import Settings
from rag.errors import ConfigError
from rag.specs import ModelSpec
from rag.types import EXTRACTIVE

DASHSCOPE = "https://dashscope.aliyuncs.com/compatible-mode/v1"
GATEWAY = "https://gateway.example/v1"


def keys(**values: str) -> Callable[[str], SecretStr | None]:
    return lambda name: SecretStr(values[name]) if name in values else None


NONE = keys()


def settings(**values: Any) -> Settings:
    return Settings.model_validate(values)


def found(
    name: str,
    secret: Callable[[str], SecretStr | None] = NONE,
    given: dict[str, Any] | None = None,
    **table: Any,
) -> Resolved:
    return resolve(ModelSpec(name=name, **table), settings(**(given or {})), secret)


def told(resolved: Resolved) -> list[str]:
    return [key.get_secret_value() for key in resolved.keys]


# --- the catalogue itself -------------------------------------------------------------------------


def test_every_ready_model_has_a_profile_and_gives_less_than_it_takes() -> None:
    for name, model in READY.items():
        assert name == model.name
        assert model.profile in PROFILES
        assert 0 < model.max_output_tokens < model.context_window


def test_every_profile_has_an_address_or_is_openais_and_only_local_ones_have_no_key() -> None:
    for profile in PROFILES.values():
        assert (profile.base_url is None) == (profile.name == "openai")
        assert profile.local == (not profile.key_env)


@pytest.mark.parametrize("name", READY)
def test_a_key_is_all_that_a_ready_model_needs(name: str) -> None:
    profile = PROFILES[READY[name].profile]
    resolved = found(name, keys(**{profile.key_env[-1]: "sk-1"}))
    assert (resolved.name, resolved.profile) == (name, profile.name)
    assert (resolved.id, resolved.base_url) == (READY[name].id, profile.base_url)
    assert told(resolved) == ["sk-1"]
    assert resolved.abilities.context_window == READY[name].context_window
    assert not resolved.local


@pytest.mark.parametrize("name", READY)
def test_without_its_key_a_ready_model_says_which_variable_to_set(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        found(name)
    assert error.value.message == f"There is no way to the model {name!r}."
    for variable in PROFILES[READY[name].profile].key_env:
        assert variable in error.value.hint


def test_qwen_3_0_is_our_name_for_what_the_server_calls_qwen3_max() -> None:
    assert found("qwen-3.0", keys(DASHSCOPE_API_KEY="k")).id == "qwen3-max"


def test_deepseek_chat_does_not_think_and_its_reasoner_gets_its_tools_in_text() -> None:
    key = keys(DEEPSEEK_API_KEY="k")
    chat, reasoner = found("deepseek-chat", key), found("deepseek-reasoner", key)
    assert chat.id == reasoner.id == "deepseek-v4-flash"
    assert chat.extra == {"thinking": {"type": "disabled"}}
    assert chat.abilities.tools
    assert reasoner.extra == {}
    assert not reasoner.abilities.tools


# --- which server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen-max", "gpt-5.1", "my-own", "deepseek/deepseek-chat"])
def test_openai_base_url_takes_any_name_as_it_is(name: str) -> None:
    given = {"openai_api_key": "sk-o", "openai_base_url": GATEWAY}
    resolved = found(name, given=given)
    assert (resolved.id, resolved.base_url, told(resolved)) == (name, GATEWAY, ["sk-o"])
    assert (resolved.profile, resolved.provider) == ("other", None)


def test_openai_base_url_of_a_known_server_means_that_server() -> None:
    given = {"openai_api_key": "sk-o", "openai_base_url": f"{DASHSCOPE}/"}
    resolved = found("qwen-3.0", given=given)
    assert (resolved.profile, resolved.id, told(resolved)) == ("dashscope", "qwen3-max", ["sk-o"])
    assert found("gpt-5.1", given=given).id == "gpt-5.1"


def test_a_providers_own_key_goes_before_openai_base_url() -> None:
    given = {"openai_api_key": "sk-o", "openai_base_url": GATEWAY}
    resolved = found("qwen-max", keys(DASHSCOPE_API_KEY="sk-d"), given)
    assert (resolved.base_url, told(resolved)) == (DASHSCOPE, ["sk-d"])


def test_a_profile_in_the_table_goes_before_openai_base_url() -> None:
    given = {"openai_api_key": "sk-o", "openai_base_url": GATEWAY}
    with pytest.raises(ConfigError, match="DASHSCOPE_API_KEY"):
        found("anything", given=given, profile="dashscope")


def test_openais_key_is_not_sent_to_other_providers() -> None:
    with pytest.raises(ConfigError, match="Set DASHSCOPE_API_KEY"):
        found("qwen-max", given={"openai_api_key": "sk-o"})
    resolved = found("m", given={"openai_api_key": "sk-o"}, base_url=GATEWAY)
    assert told(resolved) == []


def test_openais_key_is_sent_elsewhere_where_the_table_says_so() -> None:
    given = {"openai_api_key": "sk-o"}
    assert told(found("m", given=given, base_url=GATEWAY, key_env="OPENAI_API_KEY")) == ["sk-o"]


def test_an_unknown_name_goes_to_openai() -> None:
    resolved = found("gpt-7", given={"openai_api_key": "sk-o"})
    assert (resolved.profile, resolved.provider) == ("openai", "openai")
    assert (resolved.base_url, resolved.id) == (None, "gpt-7")


def test_without_any_key_an_unknown_name_says_what_to_set() -> None:
    with pytest.raises(ConfigError) as error:
        found("my-own")
    assert error.value.hint == (
        "Set OPENAI_API_KEY, and OPENAI_BASE_URL for a server other than OpenAI's."
    )


@pytest.mark.parametrize("way", [{"given": {"openai_base_url": GATEWAY}}, {"base_url": GATEWAY}])
def test_a_server_without_a_key_is_local_and_costs_nothing(way: dict[str, Any]) -> None:
    resolved = found("my-own", **way)
    assert (resolved.keys, resolved.key_labels, resolved.local) == ((), (), True)
    assert (resolved.price_in, resolved.price_out) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "url", "id_"),
    [
        ("ollama/qwen3:8b", "http://127.0.0.1:11434/v1", "qwen3:8b"),
        ("vllm/Qwen/Qwen3-8B", "http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B"),
        ("llamacpp/small", "http://127.0.0.1:8080/v1", "small"),
    ],
)
def test_a_local_prefix_is_a_server_even_beside_a_cloud(name: str, url: str, id_: str) -> None:
    cloud = {"openai_api_key": "sk-o", "openai_base_url": GATEWAY}
    resolved = found(name, given=cloud)
    assert (resolved.name, resolved.base_url, resolved.id) == (name, url, id_)
    assert (resolved.keys, resolved.local) == ((), True)


def test_a_prefix_names_the_profile_and_the_rest_is_the_servers_name_for_it() -> None:
    key = keys(DASHSCOPE_API_KEY="k")
    resolved = found("dashscope/qwen3-max-2026-01-23", key)
    assert (resolved.profile, resolved.id) == ("dashscope", "qwen3-max-2026-01-23")
    same = found("dashscope/qwen3-max", key)
    assert same.abilities == found("qwen-3.0", key).abilities


def test_a_profile_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as error:
        found("m", profile="qwen")
    assert "'qwen'" in error.value.message
    assert "dashscope" in error.value.hint


def test_a_table_with_its_own_address_keeps_the_profiles_key_only_if_it_names_the_profile() -> None:
    key = keys(DASHSCOPE_API_KEY="sk-d")
    assert told(found("qwen-max", key, base_url=GATEWAY)) == []
    named = found("qwen-max", key, base_url=GATEWAY, profile="dashscope")
    assert (told(named), named.base_url) == (["sk-d"], GATEWAY)


def test_the_international_address_of_a_provider_is_the_same_provider() -> None:
    url = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
    resolved = found("qwen-3.0", keys(DASHSCOPE_API_KEY="sk-d"), base_url=url)
    assert (resolved.profile, resolved.id, told(resolved)) == ("dashscope", "qwen3-max", ["sk-d"])
    with pytest.raises(ConfigError, match="DASHSCOPE_API_KEY"):
        found("qwen-3.0", base_url=url)


# --- keys -----------------------------------------------------------------------------------------


def test_keys_of_one_variable_and_of_several_are_all_taken_once_and_labelled() -> None:
    secret = keys(A="one, two,,one ,", B="three", C="two")
    resolved = found("m", secret, base_url=GATEWAY, key_env=("A", "B", "C", "D"))
    assert told(resolved) == ["one", "two", "three"]
    assert resolved.key_labels == ("key 1 of 3 in A", "key 2 of 3 in A", "the key in B")
    assert resolved.key_env == ("A", "B", "C", "D")


def test_a_key_that_the_table_asks_for_has_to_be_there() -> None:
    with pytest.raises(ConfigError) as error:
        found("m", keys(A=" , "), base_url=GATEWAY, key_env=("A", "B"))
    assert error.value.hint == "Set A or B."


def test_zhipu_takes_the_key_under_either_name() -> None:
    assert told(found("glm-4.6", keys(ZAI_API_KEY="z"))) == ["z"]
    assert told(found("glm-4.6", keys(ZHIPUAI_API_KEY="y", ZAI_API_KEY="z"))) == ["y", "z"]


def test_no_key_is_ever_shown() -> None:
    resolved = found("qwen-max", keys(DASHSCOPE_API_KEY="sk-very-secret"))
    assert "very-secret" not in f"{resolved} {resolved!r} {resolved.key_labels}"


# --- what it can do -------------------------------------------------------------------------------


def test_the_table_goes_before_everything() -> None:
    resolved = found(
        "qwen-max",
        keys(K="k"),
        {"vision": False, "context_window": 2048, "model_timeout": 5},
        profile="dashscope",
        id="qwen-max-2025-01-25",
        base_url=GATEWAY,
        key_env="K",
        context_window=9999,
        max_output_tokens=77,
        price_in=1.5,
        price_out=2.5,
        vision=True,
        tools=False,
        schema_mode=True,
        timeout=7,
        priority=3,
        tags=("a",),
        extra={"seed": 1},
        max_image_side=512,
    )
    abilities = resolved.abilities
    assert (abilities.context_window, abilities.max_output_tokens) == (9999, 77)
    assert (abilities.vision, abilities.tools, abilities.schema) == (True, False, True)
    assert (resolved.id, resolved.base_url, told(resolved)) == (
        "qwen-max-2025-01-25",
        GATEWAY,
        ["k"],
    )
    assert (resolved.price_in, resolved.price_out, resolved.timeout) == (1.5, 2.5, 7)
    assert (resolved.priority, resolved.tags, resolved.abilities.max_image_side) == (3, ("a",), 512)
    assert resolved.extra == {"seed": 1}


def test_what_nobody_knows_comes_from_the_settings() -> None:
    given = {"openai_base_url": GATEWAY, "context_window": 4096, "model_timeout": 9}
    resolved = found("my-own", given=given)
    assert (resolved.abilities.context_window, resolved.timeout) == (4096, 9)
    assert resolved.abilities.max_output_tokens is None


def test_a_context_window_that_was_set_lowers_a_known_one_and_never_raises_it() -> None:
    def window(name: str, asked: int) -> int:
        resolved = found(name, keys(DASHSCOPE_API_KEY="k"), {"context_window": asked})
        return resolved.abilities.context_window

    assert window("qwen-plus", 8000) == 8000
    assert window("qwen-max", 100_000) == 32_768


def test_the_extra_of_a_table_is_laid_over_that_of_the_model() -> None:
    thinking = {"thinking": {"type": "enabled"}}
    key = keys(DEEPSEEK_API_KEY="k")
    assert found("deepseek-chat", key, extra=thinking).extra == thinking
    assert set(found("deepseek-chat", key, extra={"seed": 1}).extra) == {"thinking", "seed"}


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("gpt-4o-mini", True),
        ("o3", True),
        ("qwen2.5-vl-7b", True),
        ("glm-5v", True),
        ("llava:13b", True),
        ("qwen-3.0", True),
        ("gpt-3.5-turbo", False),
        ("qwen-turbo", False),
        ("deepseek-r1", False),
    ],
)
def test_whether_an_unknown_model_sees_is_told_by_its_name(name: str, sees: bool) -> None:
    given = {"openai_base_url": GATEWAY}
    assert found(name, given=given).abilities.vision is sees
    for said in (True, False):
        assert found(name, given={**given, "vision": said}).abilities.vision is said
        assert found(name, given=given, vision=said).abilities.vision is said


def test_the_id_tells_too_whether_a_model_sees() -> None:
    assert found("eyes", base_url=GATEWAY, id="qwen2.5-vl-7b").abilities.vision


def test_what_is_known_of_a_model_goes_before_the_look_of_its_name() -> None:
    assert not found("qwen-3.0", keys(DASHSCOPE_API_KEY="k")).abilities.vision
    assert found("glm-4.6v", keys(ZAI_API_KEY="k")).abilities.vision


@pytest.mark.parametrize(
    ("name", "tools", "schema"),
    [
        ("openai/gpt-7", True, True),
        ("dashscope/new", True, False),
        ("qianfan/new", True, False),
        ("deepseek/new", True, False),
        ("zhipu/new", True, False),
        ("moonshot/new", True, False),
        ("vllm/any", True, True),
        ("ollama/any", True, True),
        ("llamacpp/any", False, True),
    ],
)
def test_each_profile_says_what_its_models_take(name: str, tools: bool, schema: bool) -> None:
    every = {variable: "k" for profile in PROFILES.values() for variable in profile.key_env}
    abilities = found(name, keys(**every)).abilities
    assert (abilities.tools, abilities.schema) == (tools, schema)


def test_an_unknown_server_is_taken_to_know_tools_but_no_schemas() -> None:
    abilities = found("m", base_url=GATEWAY).abilities
    assert (abilities.tools, abilities.schema) == (True, False)


# --- which models are offered ---------------------------------------------------------------------


def names(secret: Callable[[str], SecretStr | None] = NONE, **given: Any) -> list[str]:
    return [spec.name for spec in offered(settings(**given), secret)]


def test_the_default_model_is_offered_first_and_every_name_once() -> None:
    assert names(model="b", models=["a", "b", "a"]) == ["b", "a"]
    assert names(model="c", models=["a"]) == ["c", "a"]
    assert names(models=["a"]) == ["a"]
    assert names() == []
    assert names(model=EXTRACTIVE) == []


def test_the_default_models_name_means_its_table() -> None:
    tables = [{"name": "fast", "id": "x"}, {"name": "fast", "id": "y"}]
    [spec] = offered(settings(model="fast", models=tables), NONE)
    assert spec.id == "x"


def test_with_no_list_all_models_are_offered_whose_providers_key_is_there() -> None:
    secret = keys(DASHSCOPE_API_KEY="k")
    qwens = [model.name for model in READY.values() if model.profile == "dashscope"]
    assert names(secret) == qwens
    assert names(secret, model="qwen-max")[0] == "qwen-max"
    assert sorted(names(secret, model="qwen-max")) == sorted(qwens)
    assert names(secret, models=["a"]) == ["a"]


def test_openais_models_are_offered_only_where_its_key_is_for_openai() -> None:
    assert "gpt-5.1" in names(openai_api_key="k")
    assert "gpt-5.1" in names(keys(OPENAI_API_KEY="k"))
    assert names(model="m", openai_api_key="k", openai_base_url=GATEWAY) == ["m"]


@given(st.sets(st.sampled_from([v for p in PROFILES.values() for v in p.key_env])))
def test_whatever_is_offered_without_being_asked_for_can_be_reached(there: set[str]) -> None:
    secret, plain = keys(**dict.fromkeys(there, "k")), settings()
    for spec in offered(plain, secret):
        assert resolve(spec, plain, secret).keys


# --- the list for people --------------------------------------------------------------------------


def states(secret: Callable[[str], SecretStr | None] = NONE, **given: Any) -> dict[str, str]:
    return {row.name: row.state for row in ready(settings(**given), secret)}


def test_the_list_tells_of_each_model_whether_it_can_be_used() -> None:
    told = states(keys(DASHSCOPE_API_KEY="k"), models=["qwen-max", "ernie-4.0", "ollama/qwen3"])
    assert list(told)[:3] == ["qwen-max", "ernie-4.0", "ollama/qwen3"]
    assert told["qwen-max"] == told["ollama/qwen3"] == "configured"
    assert told["ernie-4.0"] == "needs QIANFAN_API_KEY"
    assert told["qwen-plus"] == "ready"
    assert told["glm-4.6"] == "needs ZHIPUAI_API_KEY or ZAI_API_KEY"
    assert told["gpt-5.1"] == "needs OPENAI_API_KEY"
    assert set(READY) <= set(told)


def test_what_is_offered_without_being_named_is_ready() -> None:
    told = states(keys(DASHSCOPE_API_KEY="k"), model="qwen-max")
    assert (told["qwen-max"], told["qwen-plus"]) == ("configured", "ready")


def test_behind_another_openai_base_url_openais_models_are_not_listed() -> None:
    told = states(openai_api_key="k", openai_base_url=GATEWAY, model="my-own")
    assert told["my-own"] == "configured"
    assert "gpt-5.1" not in told
    assert told["qwen-max"] == "needs DASHSCOPE_API_KEY"


def test_a_key_for_the_compatible_server_of_a_provider_makes_its_models_ready() -> None:
    told = states(openai_api_key="k", openai_base_url=DASHSCOPE)
    assert told["qwen-max"] == "ready"


def test_the_list_shows_the_profile_and_the_servers_name() -> None:
    rows = {row.name: row for row in ready(settings(model="my-own"), NONE)}
    assert (rows["qwen-3.0"].profile, rows["qwen-3.0"].id) == ("dashscope", "qwen3-max")
    assert (rows["my-own"].profile, rows["my-own"].id) == ("openai", "my-own")
