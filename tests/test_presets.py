"""Presets: what each tells the model, and how tables of rag.toml change or add them."""

from __future__ import annotations

import pytest

from rag.errors import InputError
from rag.prompt import REFUSAL, Presets, build_prompt
from rag.specs import Example, PresetSpec

SHIPPED = ("assistant", "customer_support", "analyst", "code_completion")


def told(presets: Presets, name: str, question: str = "How many?") -> str:
    return build_prompt(question, [], budget=9000, preset=presets.get(name)).messages[0].text


def test_the_shipped_presets_are_there_by_name() -> None:
    presets = Presets()
    assert presets.names() == SHIPPED
    assert all(presets.get(name).name == name for name in SHIPPED)


def test_an_unknown_preset_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError) as caught:
        Presets({"hr": PresetSpec(role="x")}).get("asistant")
    assert "asistant" in caught.value.message
    assert all(name in caught.value.hint for name in (*SHIPPED, "hr"))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("question", "tongue"), [("多少天？", "zh"), ("How many?", "en")])
def test_every_preset_that_is_grounded_cites_and_refuses_in_both_languages(
    name: str, question: str, tongue: str
) -> None:
    preset = Presets().get(name)
    system = told(Presets(), name, question)
    assert preset.role[tongue] in system  # type: ignore[index]
    assert preset.rules[tongue] in system  # type: ignore[index]
    assert (REFUSAL[tongue] in system) is preset.grounded  # type: ignore[index]
    assert ("[1][3]" in system) is preset.grounded
    assert "{" not in system


def test_only_code_completion_answers_without_sources_to_cite() -> None:
    assert [n for n in SHIPPED if not Presets().get(n).grounded] == ["code_completion"]


def test_customer_support_says_where_to_turn_instead_of_nothing_else() -> None:
    system = told(Presets(), "customer_support")
    assert "customer service team" in system
    assert "nothing else" not in system


def test_the_analyst_works_in_steps_with_tools() -> None:
    analyst = Presets().get("analyst")
    assert analyst.tools == ("search_knowledge", "calculate", "query_database")
    assert "step by step" in told(Presets(), "analyst")


def test_a_table_with_a_shipped_name_replaces_only_what_it_gives() -> None:
    spec = PresetSpec(output={"zh": "一句话。"}, temperature=0.0, review=True)
    mine, shipped = Presets({"analyst": spec}).get("analyst"), Presets().get("analyst")
    assert mine.output == {"zh": "一句话。", "en": shipped.output["en"]}
    assert (mine.temperature, mine.review) == (0.0, True)
    assert (mine.rules, mine.tools, mine.step_by_step) == (shipped.rules, shipped.tools, True)


def test_an_empty_text_that_is_given_takes_the_shipped_one_away() -> None:
    presets = Presets({"analyst": PresetSpec(rules="", examples=(), step_by_step=False)})
    system = told(presets, "analyst")
    assert "Further rules" not in system
    assert "Example" not in system
    assert "step by step" not in system


def test_a_new_preset_keeps_the_rules_on_sources_and_adds_its_own() -> None:
    spec = PresetSpec(
        role="You are the personnel office.",
        rules="- Be {brief}.",
        examples=(Example(question="Q?", answer="A [1]."),),
        model="small",
        max_answer_tokens=99,
    )
    presets = Presets({"hr": spec})
    system = told(presets, "hr")
    assert system.startswith("You are the personnel office. Use only the numbered sources")
    assert REFUSAL["en"] in system
    assert "Further rules:\n- Be {brief}." in system
    assert "Example question: Q?\nExample answer: A [1]." in system
    assert (presets.get("hr").model, presets.get("hr").max_answer_tokens) == ("small", 99)
    assert presets.names() == (*SHIPPED, "hr")


def test_a_text_in_one_language_of_a_new_preset_serves_both() -> None:
    preset = Presets({"hr": PresetSpec(role={"zh": "你是人事助手。"})}).get("hr")
    assert preset.role == {"zh": "你是人事助手。", "en": "你是人事助手。"}


def test_the_digest_changes_with_any_field_and_with_nothing_else() -> None:
    specs = [
        PresetSpec(role="a"),
        PresetSpec(role="b"),
        PresetSpec(rules="a"),
        PresetSpec(role="a", examples=(Example(question="q", answer="a"),)),
        PresetSpec(role="a", temperature=0.5),
        PresetSpec(role="a", tools=("calculate",)),
    ]
    digests = [Presets({"p": spec}).get("p").digest for spec in specs]
    assert len(set(digests)) == len(specs)
    assert digests[0] == Presets({"p": PresetSpec(role="a")}).get("p").digest
