"""Which model is asked first, and which ones stand behind it."""

from __future__ import annotations

import threading
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from rag.chat.routing import By, Candidate, Features, Latencies, order
from rag.records import CacheAsked, Called, Outcome
from rag.specs import Rule
from rag.types import Abilities, ChatRequest, Usage


def model(
    name: str,
    *,
    tags: tuple[str, ...] = (),
    priority: int = 0,
    price: float | None = None,
    latency: float | None = None,
    window: int = 8192,
    vision: bool = False,
    tools: bool = True,
) -> Candidate:
    return Candidate(
        name=name,
        abilities=Abilities(context_window=window, vision=vision, tools=tools),
        tags=tags,
        priority=priority,
        price=price,
        latency=latency,
    )


def names(models: list[Candidate]) -> list[str]:
    return [m.name for m in models]


PLAIN = Features(question="年假有几天？")


# --- without a rule -------------------------------------------------------------------------------


def test_the_lowest_priority_number_is_asked_first_and_ties_keep_their_order() -> None:
    models = [model("cloud", priority=5), model("a", priority=1), model("b", priority=1)]
    assert names(order(models, PLAIN)) == ["a", "b", "cloud"]


def test_the_cheapest_is_asked_first_and_an_unknown_price_last() -> None:
    models = [model("unknown"), model("dear", price=11.25), model("free", price=0.0)]
    assert names(order(models, PLAIN, by="price")) == ["free", "dear", "unknown"]


def test_the_quickest_is_asked_first_once_each_was_measured() -> None:
    models = [model("slow", latency=3.0), model("quick", latency=0.3), model("new")]
    assert names(order(models, PLAIN, by="latency")) == ["new", "quick", "slow"]


def test_equal_prices_are_told_apart_by_priority() -> None:
    models = [model("second", price=1, priority=2), model("first", price=1, priority=1)]
    assert names(order(models, PLAIN, by="price")) == ["first", "second"]


def test_pictures_go_only_to_models_that_see() -> None:
    asked = Features(question="?", needs_vision=True)
    assert names(order([model("blind"), model("sees", vision=True)], asked)) == ["sees"]
    assert order([model("blind")], asked) == []


def test_models_with_tools_of_their_own_come_first_where_tools_are_needed() -> None:
    models = [model("text", tools=False), model("native", priority=9)]
    asked = Features(question="?", needs_tools=True)
    assert names(order(models, asked)) == ["native", "text"]
    assert names(order(models, PLAIN)) == ["text", "native"]


def test_a_model_that_the_prompt_does_not_fit_stands_behind_the_others() -> None:
    models = [model("small", window=4096), model("large", window=128_000, priority=9)]
    assert names(order(models, Features(question="?", prompt_tokens=5000))) == ["large", "small"]
    assert names(order(models, Features(question="?", prompt_tokens=4096))) == ["small", "large"]


# --- rules ----------------------------------------------------------------------------------------

MODELS = [
    model("small", tags=("local",)),
    model("big", tags=("cloud", "careful"), price=10),
    model("cheap", tags=("cloud",), price=1, priority=3),
]


def test_a_rule_puts_its_models_first_in_its_order_and_the_others_behind() -> None:
    rules = [Rule(use=("cheap", "small"))]
    assert names(order(MODELS, PLAIN, rules)) == ["cheap", "small", "big"]


def test_the_models_of_a_tag_are_ranked_among_themselves() -> None:
    rules = [Rule(use=("cloud",))]
    assert names(order(MODELS, PLAIN, rules)) == ["big", "cheap", "small"]
    assert names(order(MODELS, PLAIN, rules, "price")) == ["cheap", "big", "small"]


def test_the_first_rule_that_fits_decides() -> None:
    rules = [Rule(use=("big",), pattern="合同"), Rule(use=("cheap",)), Rule(use=("small",))]
    assert names(order(MODELS, PLAIN, rules))[0] == "cheap"
    assert names(order(MODELS, Features(question="合同怎么签？"), rules))[0] == "big"


def test_a_rule_may_want_a_tag_that_the_question_filters_by() -> None:
    rules = (Rule(use=("big",), tag="finance"),)
    asked = Features(question="?", tags=("legal", "finance"))
    assert names(order(MODELS, asked, rules))[0] == "big"
    assert names(order(MODELS, Features(question="?", tags=("legal",)), rules))[0] != "big"


def test_a_rule_whose_models_are_not_there_or_not_able_leaves_the_others() -> None:
    seeing = [*MODELS, model("eyes", vision=True)]
    rules = [Rule(use=("gone", "big"))]
    asked = Features(question="?", needs_vision=True)
    assert names(order(seeing, asked, rules)) == ["eyes"]
    assert names(order(MODELS, PLAIN, [Rule(use=("gone",))])) == names(order(MODELS, PLAIN))


def test_each_condition_of_a_rule_can_keep_it_from_deciding() -> None:
    asked = Features(
        question="0123456789",
        preset="analyst",
        knowledge_base="contracts",
        caller="ada",
        tags=("finance",),
        needs_tools=True,
    )
    fits = {
        "vision": False,
        "tools": True,
        "preset": "analyst",
        "knowledge_base": "contracts",
        "caller": "ada",
        "tag": "finance",
        "pattern": "3.5",
        "longer_than": 9,
        "shorter_than": 11,
    }
    misses = {
        "vision": True,
        "tools": False,
        "preset": "assistant",
        "knowledge_base": "",
        "caller": "bob",
        "tag": "legal",
        "pattern": "^3",
        "longer_than": 10,
        "shorter_than": 10,
    }
    assert set(fits) == set(Rule.model_fields) - {"use"}, "a condition has no case here"

    def first(**conditions: object) -> str:
        return order(MODELS, asked, [Rule.model_validate({"use": ("cheap",), **conditions})])[
            0
        ].name

    assert first(**fits) == "cheap"
    for name, wrong in misses.items():
        assert first(**{**fits, name: wrong}) != "cheap", name


def test_a_pattern_sees_only_the_first_8000_characters() -> None:
    rules = [Rule(use=("cheap",), pattern="X")]
    assert names(order(MODELS, Features(question="a" * 7_999 + "X"), rules))[0] == "cheap"
    assert names(order(MODELS, Features(question="a" * 8_000 + "X"), rules))[0] == "small"


# --- what always holds ----------------------------------------------------------------------------

TAGS = st.sampled_from(["local", "cloud", "m0"])
SECONDS = st.none() | st.floats(min_value=0, max_value=100)


@st.composite
def some_models(draw: st.DrawFn) -> list[Candidate]:
    return [
        model(
            f"m{n}",
            tags=tuple(draw(st.lists(TAGS, max_size=2))),
            priority=draw(st.integers(-2, 2)),
            price=draw(SECONDS),
            latency=draw(SECONDS),
            window=draw(st.sampled_from([1024, 8192])),
            vision=draw(st.booleans()),
            tools=draw(st.booleans()),
        )
        for n in range(draw(st.integers(0, 6)))
    ]


SOME_FEATURES = st.builds(
    Features,
    question=st.text(max_size=12),
    caller=st.sampled_from(["", "ada"]),
    needs_vision=st.booleans(),
    needs_tools=st.booleans(),
    prompt_tokens=st.sampled_from([0, 2000]),
)
SOME_RULES = st.lists(
    st.builds(
        Rule,
        use=st.lists(st.sampled_from(["m0", "m1", "m5", "local", "cloud"]), min_size=1).map(tuple),
        caller=st.none() | st.just("ada"),
        shorter_than=st.none() | st.just(5),
    ),
    max_size=3,
)
BY = st.sampled_from(get_args(By))


@given(some_models(), SOME_FEATURES, SOME_RULES, BY)
def test_every_able_model_is_there_exactly_once(
    models: list[Candidate], features: Features, rules: list[Rule], by: By
) -> None:
    able = [m.name for m in models if m.abilities.vision or not features.needs_vision]
    assert sorted(names(order(models, features, rules, by))) == sorted(able)


@given(some_models(), SOME_FEATURES, SOME_RULES, BY)
def test_ordering_what_is_in_order_changes_nothing(
    models: list[Candidate], features: Features, rules: list[Rule], by: By
) -> None:
    once = order(models, features, rules, by)
    assert order(once, features, rules, by) == once


@given(some_models(), SOME_FEATURES, SOME_RULES, BY)
def test_rules_behind_the_first_that_fits_change_nothing(
    models: list[Candidate], features: Features, rules: list[Rule], by: By
) -> None:
    rules = [Rule(use=("m1", "cloud")), *rules]
    assert order(models, features, rules, by) == order(models, features, rules[:1], by)


@given(some_models(), SOME_FEATURES, BY)
def test_what_a_rule_names_stands_before_what_it_does_not(
    models: list[Candidate], features: Features, by: By
) -> None:
    use = ("m1", "cloud")
    named = [
        m.name in use or bool(set(use) & set(m.tags))
        for m in order(models, features, [Rule(use=use)], by)
    ]
    assert named == sorted(named, reverse=True)


# --- latencies ------------------------------------------------------------------------------------


def called(
    name: str, outcome: Outcome = "ok", *, seconds: float = 9.0, first_token: float | None = None
) -> Called:
    return Called(
        at=0.0,
        model=name,
        outcome=outcome,
        code="" if outcome == "ok" else "model_unavailable",
        usage=Usage(),
        seconds=seconds,
        first_token=first_token,
        request=ChatRequest(messages=()),
        reply="",
    )


def test_a_latency_is_unknown_until_it_was_measured_and_then_follows_slowly() -> None:
    latencies = Latencies(weight=0.25)
    assert latencies.of("a") is None
    latencies.observe(called("a", first_token=1.0))
    assert latencies.of("a") == 1.0
    latencies.observe(called("a", first_token=3.0))
    assert latencies.of("a") == 1.5
    assert latencies.of("b") is None


def test_a_call_without_a_first_token_counts_whole() -> None:
    latencies = Latencies()
    latencies.observe(called("a", seconds=2.0))
    assert latencies.of("a") == 2.0


def test_failing_at_once_makes_no_model_fast_and_timing_out_makes_it_slow() -> None:
    latencies = Latencies(weight=0.5)
    latencies.observe(called("a", "failed", seconds=0.01))
    assert latencies.of("a") is None
    latencies.observe(called("a", first_token=2.0))
    latencies.observe(called("a", "failed", seconds=0.01))
    assert latencies.of("a") == 2.0
    latencies.observe(called("a", "failed", seconds=60.0))
    assert latencies.of("a") == 31.0


def test_records_of_other_things_are_no_measurements() -> None:
    latencies = Latencies()
    latencies.observe(CacheAsked(result="miss"))
    assert latencies.of("a") is None


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=30))
def test_the_average_stays_between_the_least_and_the_most_that_was_measured(
    seconds: list[float],
) -> None:
    latencies = Latencies()
    for value in seconds:
        latencies.observe(called("a", first_token=value))
    average = latencies.of("a")
    assert average is not None
    assert min(seconds) - 1e-9 <= average <= max(seconds) + 1e-9


def test_threads_that_measure_at_once_all_agree_in_the_end() -> None:
    latencies = Latencies()
    start = threading.Barrier(4)

    def measure() -> None:
        start.wait(10)
        for _ in range(200):
            latencies.observe(called("a", first_token=2.0))

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert latencies.of("a") == 2.0
